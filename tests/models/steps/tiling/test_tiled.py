"""Tiles against the whole image: the same loss, and the same gradient to rounding."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models import weights
from models.errors import InputError
from models.network import StyleNetwork
from models.nin import nin
from models.steps.objectives import PlainObjective, StyleTask
from models.steps.tiling.tiled import Slopes, TiledObjective
from models.vgg import vgg16, vgg19

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def style_task(
    network: StyleNetwork, width: int, height: int, tile_px: int, dtype: torch.dtype, precision: str = "float32"
) -> tuple[StyleTask, Tensor]:
    generator = torch.Generator().manual_seed(7)
    content, style, image = (torch.rand(1, 3, height, width, generator=generator, dtype=dtype) for _ in range(3))
    return StyleTask(network, content, style, precision, tile_px), image


def loaded(factory: Callable[[], StyleNetwork], dtype: torch.dtype, average: bool = False) -> StyleNetwork:
    network = factory()
    if average:
        for name, layer in list(network.layers.named_children()):
            if isinstance(layer, nn.MaxPool2d):
                pooling = nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode)
                setattr(network.layers, name, pooling)
    weights.load(network, "random", CPU)
    network.layers.to(dtype)
    return network


def evaluate(objective: Callable[[Tensor], Tensor], image: Tensor) -> tuple[Tensor, Tensor]:
    image = image.clone().requires_grad_(True)
    loss = objective(image)
    assert image.grad is not None
    return loss, image.grad


def deviations(task: StyleTask, image: Tensor) -> tuple[float, float]:
    """Of loss and gradient from those of the whole image, relative (L2)."""
    loss, gradient = evaluate(PlainObjective(task), image)
    tiled_loss, tiled_gradient = evaluate(TiledObjective(task), image)
    return abs(float((tiled_loss - loss) / loss)), float((tiled_gradient - gradient).norm() / gradient.norm())


@pytest.mark.parametrize("average", [False, True], ids=["max", "average"])
@pytest.mark.parametrize(
    ("factory", "width", "height", "tile_px"),
    [
        pytest.param(vgg16, 45, 61, 16, id="vgg16-smallest"),
        pytest.param(vgg16, 64, 64, 32, id="vgg16-square"),
        pytest.param(vgg19, 39, 57, 16, id="vgg19-smallest"),
        pytest.param(vgg19, 75, 47, 47, id="vgg19-no-multiple"),
        pytest.param(vgg19, 48, 48, 64, id="vgg19-one-tile"),
        pytest.param(vgg19, 143, 79, 48, id="vgg19-inner-borders"),
        pytest.param(nin, 131, 97, 32, id="nin-smallest"),
        pytest.param(nin, 128, 128, 64, id="nin-square"),
        pytest.param(nin, 257, 391, 160, id="nin-257x391"),
        pytest.param(vgg16, 257, 391, 160, id="vgg16-257x391", marks=pytest.mark.slow),
        pytest.param(vgg19, 257, 391, 160, id="vgg19-257x391", marks=pytest.mark.slow),
    ],
)
def test_the_float64_gradient_is_that_of_the_whole_image(
    factory: Callable[[], StyleNetwork], width: int, height: int, tile_px: int, average: bool
) -> None:
    network = loaded(factory, torch.float64, average)
    assert max(deviations(*style_task(network, width, height, tile_px, torch.float64))) < 1e-12


@pytest.mark.parametrize("factory", [vgg16, vgg19, nin])
def test_the_float32_gradient_is_that_of_the_whole_image(factory: Callable[[], StyleNetwork]) -> None:
    network = loaded(factory, torch.float32)
    assert max(deviations(*style_task(network, 131, 97, 64, torch.float32))) < 1e-5


def test_bfloat16_deviates_from_float32_no_more_in_tiles_than_whole() -> None:
    network = loaded(nin, torch.float32)
    task, image = style_task(network, 131, 97, 64, torch.float32)
    half, _ = style_task(network, 131, 97, 64, torch.float32, "bfloat16")
    _, exact = evaluate(PlainObjective(task), image)
    _, whole = evaluate(PlainObjective(half), image)
    _, tiled = evaluate(TiledObjective(half), image)
    assert tiled.dtype == torch.float32
    assert (tiled - exact).norm() < 1.2 * (whole - exact).norm()


def odd_chain() -> StyleNetwork:
    """Everything that the shipped networks do not have: strides with padding, dilation, groups, padded pooling."""
    with torch.device("meta"):
        layers = nn.Sequential()
        for name, layer in {
            "conv1": nn.Conv2d(3, 8, 7, 2, 3),
            "relu1": nn.ReLU(inplace=True),
            "pool1": nn.MaxPool2d(3, 2, 1),
            "conv2": nn.Conv2d(8, 12, (3, 5), (1, 2), (1, 0), (2, 1), groups=4),
            "relu2": nn.ReLU(),
            "dropout": nn.Dropout(),
            "pool2": nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
            "conv3": nn.Conv2d(12, 8, 4, padding="same"),
            "identity": nn.Identity(),
            "pool3": nn.AvgPool2d(3, 1, 1),
            "conv4": nn.Conv2d(8, 8, 2, padding="valid"),
            "pool4": nn.MaxPool2d(2, 2, ceil_mode=True, dilation=2),
        }.items():
            layers.add_module(name, layer)
    styles = {"relu1": 0.3, "conv2": 0.1, "pool3": 0.2, "pool4": 0.4}
    return StyleNetwork(layers, content_layer="pool3", style_layers=styles, style_weight=50.0)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(("width", "height"), [(150, 131), (256, 128), (97, 233)])
@pytest.mark.parametrize("tile_px", [32, 70, 128])
def test_any_chain_of_convolutions_and_pooling_can_be_tiled(width: int, height: int, tile_px: int) -> None:
    network = loaded(odd_chain, torch.float64)
    assert max(deviations(*style_task(network, width, height, tile_px, torch.float64))) < 1e-12


def test_statistics_and_gradients_of_two_halves_of_the_tiles_add_up() -> None:
    network = loaded(nin, torch.float64)
    task, image = style_task(network, 131, 97, 32, torch.float64)
    objective = TiledObjective(task)
    _, expected = evaluate(objective, image)
    halves = objective.tiles[::2], objective.tiles[1::2]
    with torch.no_grad():
        first, second = (objective.statistics(image, half) for half in halves)
        first.add(second)
        slopes = Slopes()
        objective.settle(first, slopes)
        gradients = [torch.zeros_like(image) for _ in halves]
        for half, gradient in zip(halves, gradients, strict=True):
            objective.add_gradient(image, half, slopes, gradient)
    assert (gradients[0] + gradients[1] - expected).norm() < 1e-12 * expected.norm()


def test_the_callback_is_told_of_every_tile_of_both_passes() -> None:
    network = loaded(nin, torch.float32)
    task, image = style_task(network, 96, 64, 32, torch.float32)
    objective = TiledObjective(task)
    told: list[tuple[int, int]] = []
    objective.on_progress(lambda done, every: told.append((done, every)))
    evaluate(objective, image)
    every = 2 * len(objective.tiles)
    assert told == [(done, every) for done in range(1, every + 1)]


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (nn.AdaptiveAvgPool2d(1), "AdaptiveAvgPool2d"),
        (nn.BatchNorm2d(4), "BatchNorm2d"),
        (nn.Flatten(), "Flatten"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "padding_mode='reflect'"),
    ],
)
def test_a_layer_that_needs_the_whole_image_is_refused_by_name(layer: nn.Module, named: str) -> None:
    layers = nn.Sequential()
    layers.add_module("first", nn.Conv2d(3, 4, 3))
    layers.add_module("culprit", copy.deepcopy(layer))
    network = StyleNetwork(layers, content_layer="first", style_layers={"culprit": 1.0})
    with pytest.raises(InputError, match=f"cannot run layer 'culprit' .*{named}"):
        TiledObjective(style_task(network, 32, 32, 16, torch.float32)[0])


def test_what_follows_the_last_layer_that_a_loss_looks_at_need_not_be_tiled() -> None:
    network = loaded(nin, torch.float32)
    network.layers.add_module("pooled", nn.AdaptiveAvgPool2d(1))
    assert TiledObjective(style_task(network, 96, 64, 32, torch.float32)[0]).tiles


def test_a_tile_smaller_than_the_model_allows_is_refused_with_the_smallest_legal_side() -> None:
    network = loaded(vgg19, torch.float32)
    with pytest.raises(InputError, match="--tile=16"):
        TiledObjective(style_task(network, 32, 32, 15, torch.float32)[0])
