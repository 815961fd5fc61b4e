"""Winograd's algorithm in the tiles of `streamed`: the gradient, its rounding, where it is chosen, and its memory."""

import statistics

import pytest
import torch
from torch import Tensor, nn

from fixtures.worker.estimate import predict_memory
from models.network import StyleNetwork
from models.nin import nin
from models.steps import winograd
from models.steps.objectives import Objective, PlainObjective, StyleTask
from models.steps.tiling.streamed import StreamedObjective
from models.steps.tiling.winograd_tiles import WinogradConvolution
from models.vgg import vgg16, vgg19
from models.workload import Workload
from tests.models.steps.tiling.test_streamed import deviations, task_of, with_average_pools

STEP = "models.steps.style:StyleIteration"


def wide(activation: type[nn.Module] = nn.ReLU, pooling: nn.Module | None = None) -> StyleNetwork:
    """Two blocks of 256 channels."""
    layers = nn.Sequential()
    for name, layer in (
        ("conv1", nn.Conv2d(3, 256, 3, padding=1)), ("act1", activation()),
        ("conv2", nn.Conv2d(256, 256, 3, padding=1)), ("act2", activation()), ("pool", pooling or nn.MaxPool2d(2)),
        ("conv3", nn.Conv2d(256, 256, 3, padding=(2, 0))), ("act3", activation()),
    ):  # fmt: skip
        layers.add_module(name, layer)
    return StyleNetwork(layers, "act3", {"act1": 0.5, "act2": 0.5}, style_weight=1e3)


@pytest.fixture
def small_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule takes layers and tiles of every size but the first layer."""
    monkeypatch.setattr(winograd, "_LEAST_CHANNELS_AT_USE", 64)
    monkeypatch.setattr(winograd, "_LEAST_POSITIONS_AT_USE", 1)


@pytest.mark.usefixtures("small_layers")
@pytest.mark.parametrize(("pooling", "height", "width", "tile_px"), [("max", 67, 61, 40), ("average", 49, 71, 0)])
def test_loss_and_gradient_are_those_of_plain(pooling: str, height: int, width: int, tile_px: int) -> None:
    network = with_average_pools(vgg16()) if pooling == "average" else vgg16()
    task = task_of(network, height, width, tile_px=tile_px)
    assert max(deviations(task)) < 1e-12
    layers = StreamedObjective(task).algorithms()["winograd"]["layers"]
    assert layers[:3] == ["conv1_2", "conv2_1", "conv2_2"]


@pytest.mark.usefixtures("small_layers")
def test_a_network_with_overlapping_pools_that_round_up_is_exact_too() -> None:
    task = task_of(nin(), 83, 101, tile_px=32)
    assert max(deviations(task)) < 1e-12
    assert StreamedObjective(task).algorithms()["winograd"]["layers"]


def gradient_error(objective: Objective, image: Tensor, exact: Tensor) -> float:
    image = image.float().requires_grad_()
    objective(image)
    assert image.grad is not None
    return float((image.grad.double() - exact).norm() / exact.norm())


def exact_gradient(task: StyleTask, image: Tensor) -> Tensor:
    image = image.clone().requires_grad_()
    PlainObjective(task)(image)
    assert image.grad is not None
    return image.grad


def in_float32(task: StyleTask) -> StyleTask:
    task.network.layers.float()
    return StyleTask(task.network, task.content.float(), task.style.float())


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["natural", "lowered"])
def test_the_gradient_of_vgg19_is_at_most_1_2_times_as_far_from_float64_as_that_of_plain(
    request: pytest.FixtureRequest, rule: str
) -> None:
    if rule == "lowered":
        request.getfixturevalue("small_layers")
    errors: dict[type[PlainObjective | StreamedObjective], list[float]] = {PlainObjective: [], StreamedObjective: []}
    for seed in range(5):
        image = torch.rand(1, 3, 128, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        exact = exact_gradient(task_of(vgg19(), 128, 128), image)
        for objective, values in errors.items():
            values.append(gradient_error(objective(in_float32(task_of(vgg19(), 128, 128))), image, exact))
    plain, streamed = (statistics.median(values) for values in errors.values())
    assert 0 < streamed <= 1.2 * plain


def test_the_gradient_is_at_most_three_times_as_far_from_float64_as_with_direct_convolution_where_nothing_ties(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def network() -> StyleNetwork:
        return wide(nn.Identity, nn.AvgPool2d(2))

    image = torch.rand(1, 3, 37, 51, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    exact = exact_gradient(task_of(network(), 37, 51), image)
    chosen, errors = [], []
    for least in (1, 10**9):
        monkeypatch.setattr(winograd, "_LEAST_POSITIONS_AT_USE", least)
        objective = StreamedObjective(in_float32(task_of(network(), 37, 51)))
        chosen.append(bool(objective.algorithms()))
        errors.append(gradient_error(objective, image, exact))
    assert chosen == [True, False]
    assert 0 < errors[0] <= 3 * errors[1]


def test_small_tiles_and_few_channels_are_left_to_the_library() -> None:
    assert StreamedObjective(task_of(wide(), 64, 64, tile_px=32)).algorithms() == {}
    assert StreamedObjective(task_of(wide(), 68, 68)).algorithms()["winograd"]["layers"] == ["conv2", "conv3"]
    assert winograd.wins_with_transform(256, 512, 48 * 48)
    assert not winograd.wins_with_transform(256, 512, 16 * 16)
    assert not winograd.wins_with_transform(128, 256, 48 * 48)


def test_in_other_precisions_and_for_other_devices_all_is_left_to_the_library() -> None:
    task = task_of(wide(), 64, 64, torch.float32)
    half = StyleTask(task.network, task.content, task.style, "bfloat16")
    assert StreamedObjective(half).algorithms() == {}
    with winograd.library_convolutions():
        assert StreamedObjective(task).algorithms() == {}


@pytest.mark.usefixtures("small_layers")
def test_all_layers_transform_their_weights_in_one_workspace_of_the_largest() -> None:
    objective = StreamedObjective(task_of(vgg16(), 64, 64))
    layers = [layer for block in objective._blocks for layer in block.layers if isinstance(layer, WinogradConvolution)]
    assert len(layers) > 3
    assert {layer.workspace.data_ptr() for layer in layers} == {layers[0].workspace.data_ptr()}
    assert layers[0].workspace.numel() == 36 * 512 * 512
    for layer in layers:  # the weights are not stored twice
        assert layer.module.weight.data_ptr() == layer.taps.data_ptr()


def test_the_workspace_is_part_of_the_predicted_memory_on_cpu_and_not_on_an_accelerator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def predicted(device: str) -> int:
        return predict_memory(Workload(STEP, f"{__name__}:wide", device, 64, 64, strategy="streamed"))

    on_cpu, on_accelerator = predicted("cpu"), predicted("cuda:0")
    monkeypatch.setattr(winograd, "_LEAST_CHANNELS_AT_USE", 512)
    assert on_cpu - predicted("cpu") > 0.9 * 36 * 256 * 256 * 4
    assert predicted("cuda:0") == on_accelerator
