import pytest
import torch
from torch.nn.functional import group_norm, silu

from models.streaming.operations import Normalisation
from models.streaming.statistics import NormStatistics
from tests.models.streaming.networks import distance


def norm_of(channels, groups, activation=None, dtype=torch.float64):
    torch.manual_seed(0)
    return Normalisation("n", groups, 1e-6, torch.rand(channels).to(dtype), torch.randn(channels).to(dtype), activation)


def measured(norm, features, heights):
    statistics = NormStatistics(norm)
    for rows in features.split(heights, 2):
        statistics.add(rows)
    statistics.finish()
    return statistics


@pytest.mark.parametrize("heights", [[1, 1, 5], [7], [3, 4]])
def test_strips_of_any_height_give_the_normalisation_of_the_whole(heights):
    norm, features = norm_of(6, 3, "silu"), torch.randn(1, 6, 7, 5, dtype=torch.float64)
    expected = silu(group_norm(features, 3, norm.weight, norm.bias, 1e-6))
    assert distance(measured(norm, features, heights).apply(features), expected) < 1e-14


def test_the_gradient_is_that_of_autograd():
    norm = norm_of(6, 3, "relu")
    features = torch.randn(1, 6, 7, 5, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn_like(features)
    group_norm(features, 3, norm.weight, norm.bias, 1e-6).relu().backward(upstream)
    statistics, rows = measured(norm, features.detach(), [2, 5]), features.detach()
    for part in (slice(0, 4), slice(4, 7)):
        statistics.add_gradient(upstream[:, :, part], rows[:, :, part])
    statistics.finish_gradient()
    assert distance(statistics.input_gradient(upstream, rows), features.grad) < 1e-13


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_pieces_that_fit_the_cache_give_what_whole_strips_give(dtype, monkeypatch):
    norm, features = norm_of(6, 3, "silu", dtype), torch.randn(1, 6, 7, 5, dtype=dtype)
    whole = measured(norm, features, [7])
    sums, output = whole.sums()[1], whole.apply(features)
    monkeypatch.setattr("models.streaming.statistics._VALUES_AT_A_TIME", 60)
    assert distance(measured(norm, features, [7]).sums()[1], sums) < (1e-14 if dtype == torch.float64 else 1e-6)
    assert torch.equal(whole.apply(features), output)


def test_a_mean_far_from_zero_costs_no_digits_in_float32():
    norm = norm_of(4, 2, dtype=torch.float32)
    features = torch.randn(1, 4, 64, 16) + 1000
    exact = group_norm(features.double(), 2, norm.weight.double(), norm.bias.double(), 1e-6)
    whole = distance(group_norm(features, 2, norm.weight, norm.bias, 1e-6), exact)
    ours = distance(measured(norm, features, [1] * 64).apply(features), exact)
    # The sum of squares less the square of the sum would be a hundred times as far away.
    assert ours < 2 * whole + 1e-4
