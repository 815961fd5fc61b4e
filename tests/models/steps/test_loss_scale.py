import math

import pytest
import torch

from models import weights
from models.nin import nin
from models.steps.loss_scale import LossScale, first_scale
from models.steps.objectives import PlainObjective, StyleTask
from models.steps.strategies import STRATEGIES
from models.steps.style import StyleForwardBackward, StyleIteration
from models.workload import Workload

CPU = torch.device("cpu")


def scale(first=1024.0):
    return LossScale(first, torch.zeros(1))


def test_float16_begins_with_the_number_of_pixels_and_other_precisions_have_no_scale():
    assert first_scale("float16", 512 * 512) == 2.0**18
    assert {first_scale(precision, 512 * 512) for precision in ("float32", "tf32", "bfloat16")} == {1.0}
    assert LossScale(1.0, torch.zeros(1)).factor == 1.0


def test_a_gradient_is_divided_by_the_factor():
    gradient = torch.tensor([1024.0, -2048.0])
    scale().unscale(gradient)
    assert gradient.tolist() == [1.0, -2.0]


def test_the_first_evaluation_is_repeated_until_its_gradient_is_finite():
    one, factors = scale(2.0**18), []

    def evaluate():
        factors.append(float(one.factor))
        gradient = torch.tensor([100.0]) if one.factor < 2.0**11 else torch.tensor([math.inf])
        one.unscale(gradient)

    one.settle(evaluate)
    assert factors == [2.0**18, 2.0**14, 2.0**10]
    assert one.was_finite()
    one.settle(evaluate)
    assert len(factors) == 4


def test_a_gradient_that_is_finite_with_no_factor_ends_the_first_evaluation_as_not_finite():
    one = scale()
    one.settle(lambda: one.unscale(torch.tensor([math.nan])))
    assert not one.was_finite()


def test_a_later_overflow_gives_a_gradient_of_zero_and_half_the_factor():
    one = scale()
    one.settle(lambda: one.unscale(torch.ones(2)))
    gradient = torch.tensor([1.0, math.inf])
    one.unscale(gradient)
    assert gradient.tolist() == [0.0, 0.0]
    assert float(one.factor) == 512.0
    assert one.was_finite()  # once is normal
    one.unscale(torch.tensor([math.nan]))
    assert not one.was_finite()


def test_gradients_of_several_weights_become_zero_together():
    one, gradients = scale(), [torch.tensor([1024.0]), torch.tensor([math.inf, 2.0])]
    one.unscale(*gradients)
    assert [gradient.tolist() for gradient in gradients] == [[0.0], [0.0, 0.0]]


def test_the_factor_doubles_after_2000_finite_gradients():
    one = scale()
    for _ in range(1999):
        one.unscale(torch.ones(1))
    assert float(one.factor) == 1024.0
    one.unscale(torch.ones(1))
    assert float(one.factor) == 2048.0


@pytest.mark.parametrize("strategy", ["plain", "tiled", "streamed", "checkpointed", "fastest"])
def test_every_strategy_removes_the_loss_scale_from_its_gradient(strategy, monkeypatch):
    network = nin()
    weights.load(network, "random", CPU)
    network.layers.double()
    content, style = torch.rand(2, 1, 3, 64, 72, dtype=torch.float64).unbind()
    task = StyleTask(network, content, style)
    plain, scaled = (style.clone().requires_grad_() for _ in range(2))
    PlainObjective(task)(plain)
    monkeypatch.setattr("models.steps.objectives.first_scale", lambda precision, pixels: 4096.0)
    monkeypatch.setattr("models.steps.tiling.tiled.first_scale", lambda precision, pixels: 4096.0)
    STRATEGIES[strategy](task)(scaled)
    assert (scaled.grad - plain.grad).norm() / plain.grad.norm() < 1e-12


@pytest.mark.parametrize("kind", [StyleIteration, StyleForwardBackward])
def test_a_loss_is_nan_where_its_gradient_is_not_finite(kind):
    step = kind(Workload("", "models.nin:nin", "cpu", 64, 64))
    step()
    assert math.isfinite(step.loss())
    step._image.grad[0, 0, 0, 0] = math.inf
    assert math.isnan(step.loss())
