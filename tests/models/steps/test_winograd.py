"""Winograd's convolutions against torch's: values, gradients, rounding, and where they are chosen."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

from fixtures.worker.estimate import predict_memory
from models import weights
from models.errors import Unsupported
from models.network import StyleNetwork
from models.steps import winograd
from models.steps.objectives import PlainObjective, StyleTask
from models.steps.strategies import STRATEGIES
from models.workload import Workload

POOLINGS = {
    "max": nn.MaxPool2d(2),
    "overlapping max": nn.MaxPool2d(3, stride=2, ceil_mode=True),
    "padded max": nn.MaxPool2d(3, stride=2, padding=1),
    "average": nn.AvgPool2d(2),
    "padded average": nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
    "adaptive": nn.AdaptiveAvgPool2d(9),
}


def convolution(inputs, outputs, padding=1, bias=True, dtype=torch.float64):
    generator = torch.Generator().manual_seed(inputs + outputs)
    layer = nn.Conv2d(inputs, outputs, 3, padding=padding, bias=bias).to(dtype).requires_grad_(False)
    for parameter in layer.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / inputs**0.5)
    return layer


def network(pooling, activation=nn.ReLU, channels=128):
    """Two blocks of 3x3 convolutions, with `channels` channels behind the first, around a pooling layer."""
    layers = nn.Sequential()
    for name, layer in (
        ("conv1", nn.Conv2d(3, channels, 3, padding=1)), ("act1", activation()),
        ("conv2", nn.Conv2d(channels, channels, 3, padding=1)), ("act2", activation()), ("pool", pooling),
        ("conv3", nn.Conv2d(channels, channels, 3, padding=(2, 0))), ("act3", activation()),
    ):  # fmt: skip
        layers.add_module(name, layer)
    styled = StyleNetwork(layers, "act3", {"act1": 0.5, "act2": 0.5}, style_weight=1e3)
    weights.load(styled, "random", torch.device("cpu"))
    return styled


def task_of(network, height, width, dtype):
    network.layers.to(dtype)
    generator = torch.Generator().manual_seed(3)
    pictures = (torch.rand(1, 3, height, width, dtype=torch.float64, generator=generator) for _ in range(2))
    return StyleTask(network, *(picture.to(dtype) for picture in pictures))


def gradient_of(objective, task):
    image = task.style.flip(2).clone().requires_grad_()
    objective(image)
    return image.grad.double()


@pytest.mark.parametrize("padding", [0, 1, 2, 3, (0, 1), (3, 2), "same", "valid"])
@pytest.mark.parametrize("size", [(4, 4), (5, 7), (9, 6), (23, 41)])
def test_values_and_gradient_are_those_of_the_direct_convolution(size, padding):
    layer = convolution(3, 5, padding)
    ours, theirs = (torch.rand(1, 3, *size, dtype=torch.float64).requires_grad_() for _ in range(2))
    with torch.no_grad():
        theirs.copy_(ours)
    result, expected = winograd.WinogradConvolution(layer)(ours), layer(theirs)
    torch.testing.assert_close(result, expected, rtol=1e-11, atol=1e-12)
    weights_of_outputs = torch.rand_like(expected)
    for output in (result, expected):
        (output * weights_of_outputs).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("strip_bytes", [1, 2**14, 2**16])
def test_the_size_of_strips_does_not_change_the_result(monkeypatch, strip_bytes):
    layer = winograd.WinogradConvolution(convolution(4, 6, bias=False))
    features = torch.rand(1, 4, 33, 18, dtype=torch.float64)
    expected = layer(features)
    monkeypatch.setattr(winograd, "_STRIP_BYTES", strip_bytes)
    torch.testing.assert_close(layer(features), expected, rtol=1e-12, atol=1e-12)


def test_the_result_may_be_changed_in_place_behind_it():
    layer = winograd.WinogradConvolution(convolution(2, 2))
    features = torch.rand(1, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    functional.relu(layer(features), inplace=True).sum().backward()
    assert features.grad.abs().sum() > 0


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("strategy", ["winograd", "fastest"])
def test_a_network_has_the_gradient_of_plain_at_odd_sizes_with_every_pooling(strategy, pooling, monkeypatch):
    monkeypatch.setattr(winograd, "_LEAST_CHANNELS", 16)
    monkeypatch.setattr(winograd, "_LEAST_PRODUCTS", 0)
    task = task_of(network(POOLINGS[pooling], channels=16), 37, 51, torch.float64)
    expected = gradient_of(PlainObjective(task), task)
    objective = STRATEGIES[strategy](task)
    assert "conv2" in objective.algorithms()["winograd"]["layers"]
    actual = gradient_of(objective, task)
    assert (actual - expected).norm() / expected.norm() < 1e-12


def test_the_gradient_is_at_most_three_times_as_far_from_float64_as_with_direct_convolution_where_nothing_ties():
    def distance(strategy):
        task = task_of(network(nn.AvgPool2d(2), nn.Softplus), 37, 51, torch.float32)
        exact_task = task_of(network(nn.AvgPool2d(2), nn.Softplus), 37, 51, torch.float64)
        exact = gradient_of(PlainObjective(exact_task), exact_task)
        return float((gradient_of(STRATEGIES[strategy](task), task) - exact).norm() / exact.norm())

    assert 0 < distance("winograd") <= 3 * distance("channels_last")


def test_fastest_leaves_layers_with_few_channels_or_few_tiles_to_the_library():
    assert winograd.wins(128, 128, 128, 128)
    assert winograd.wins(512, 512, 15, 14)  # the tiles at the edge count as whole ones
    assert not winograd.wins(64, 512, 1024, 1024)
    assert not winograd.wins(512, 512, 8, 8)
    task = task_of(network(nn.MaxPool2d(2)), 37, 51, torch.float32)
    assert STRATEGIES["fastest"](task).algorithms() == {}
    task = task_of(network(nn.MaxPool2d(2)), 66, 66, torch.float32)
    assert STRATEGIES["fastest"](task).algorithms()["winograd"]["layers"] == ["conv2"]


def test_the_record_has_the_share_of_multiplications_that_are_done():
    task = task_of(network(nn.MaxPool2d(2)), 66, 66, torch.float32)
    # conv2 alone, in 17 x 17 tiles of 36; conv3 has 35 x 31 outputs behind the pool.
    others = 9 * 3 * 128 * 66 * 66 + 9 * 128 * 128 * 35 * 31
    direct = others + 9 * 128 * 128 * 66 * 66
    expected = (others + 36 * 128 * 128 * 17 * 17) / direct
    assert STRATEGIES["fastest"](task).algorithms()["winograd"]["multiplications"] == pytest.approx(expected, abs=1e-3)


def test_layers_that_the_algorithm_does_not_apply_to_stay_as_they_are():
    class Own(nn.Conv2d):
        def forward(self, features):
            return 2 * super().forward(features)

    others = (
        nn.Conv2d(4, 4, 3, stride=2), nn.Conv2d(4, 4, 3, dilation=2), nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding_mode="reflect"), Own(4, 4, 3), nn.ReLU(),
    )  # fmt: skip
    assert not any(winograd.is_applicable(layer) for layer in others)
    assert winograd.is_applicable(nn.Conv2d(4, 4, 3, padding=2))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_in_other_precisions_fastest_leaves_all_to_the_library_and_winograd_is_unsupported(precision):
    task = dataclasses.replace(task_of(network(nn.MaxPool2d(2)), 37, 51, torch.float32), precision=precision)
    with pytest.raises(Unsupported, match=f"float32 on cpu, not for {precision}.*--strategy=fastest"):
        STRATEGIES["winograd"](task)
    if precision == "bfloat16":  # few processors have float16
        assert STRATEGIES["fastest"](task).algorithms() == {}


def wide_network():
    return network(nn.MaxPool2d(2))


def test_the_transformed_weights_are_part_of_the_predicted_memory_on_cpu_and_not_on_an_accelerator():
    def predicted(device, strategy):
        model = f"{wide_network.__module__}:wide_network"
        return predict_memory(Workload("style_iteration", model, device, 66, 66, strategy=strategy))

    # Of one layer in both directions: 36 numbers instead of 9. Workspaces come on top.
    added = 128 * 128 * (2 * 36 - 9) * 4
    assert predicted("cpu", "fastest") - predicted("cpu", "channels_last") > 0.9 * added
    assert predicted("cuda:0", "fastest") <= predicted("cuda:0", "channels_last")
