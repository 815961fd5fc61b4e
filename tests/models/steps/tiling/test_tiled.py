"""Strategy `tiled` compared with `plain`: the same loss and gradient up to rounding."""

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
from models.steps.tiling.tiled import GradientFactors, TiledObjective
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
    """Relative L2 deviation of loss and gradient from those of the whole image."""
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
        pytest.param(vgg19, 143, 79, 48, id="vgg19-inner-borders", marks=pytest.mark.slow),
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


def test_bfloat16_deviates_from_float32_hardly_more_than_plain() -> None:
    network = loaded(nin, torch.float32)
    task, image = style_task(network, 131, 97, 64, torch.float32)
    rounded, _ = style_task(network, 131, 97, 64, torch.float32, "bfloat16")
    _, exact = evaluate(PlainObjective(task), image)
    _, plain = evaluate(PlainObjective(rounded), image)
    _, tiled = evaluate(TiledObjective(rounded), image)
    assert tiled.dtype == torch.float32
    assert (tiled - exact).norm() < 1.2 * (plain - exact).norm()


def odd_chain() -> StyleNetwork:
    """What the suite's own networks lack: strides with padding, dilation, groups, padded pooling."""
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


def test_statistics_and_gradients_of_two_subsets_of_the_tiles_add_up() -> None:
    network = loaded(nin, torch.float64)
    task, image = style_task(network, 131, 97, 32, torch.float64)
    objective = TiledObjective(task)
    _, expected = evaluate(objective, image)
    subsets = objective.tiles[::2], objective.tiles[1::2]
    with torch.no_grad():
        first, second = (objective.first_pass(image, subset) for subset in subsets)
        first.add(second)
        factors = GradientFactors()
        objective.loss_and_factors(first, factors)
        gradients = [torch.zeros_like(image) for _ in subsets]
        for subset, gradient in zip(subsets, gradients, strict=True):
            objective.second_pass(image, subset, factors, gradient)
    assert (gradients[0] + gradients[1] - expected).norm() < 1e-12 * expected.norm()


def test_every_tile_of_both_passes_is_reported() -> None:
    network = loaded(nin, torch.float32)
    task, image = style_task(network, 96, 64, 32, torch.float32)
    objective = TiledObjective(task)
    reported: list[tuple[int, int]] = []
    objective.on_progress(lambda done, total: reported.append((done, total)))
    evaluate(objective, image)
    total = 2 * len(objective.tiles)
    assert reported == [(done, total) for done in range(1, total + 1)]


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (nn.AdaptiveAvgPool2d(1), "AdaptiveAvgPool2d"),
        (nn.BatchNorm2d(4), "BatchNorm2d"),
        (nn.Flatten(), "Flatten"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "padding_mode='reflect'"),
    ],
)
def test_a_layer_that_needs_the_whole_image_is_rejected_by_name(layer: nn.Module, named: str) -> None:
    layers = nn.Sequential()
    layers.add_module("first", nn.Conv2d(3, 4, 3))
    layers.add_module("second", copy.deepcopy(layer))
    network = StyleNetwork(layers, content_layer="first", style_layers={"second": 1.0})
    with pytest.raises(InputError, match=f"cannot run layer 'second' .*{named}"):
        TiledObjective(style_task(network, 32, 32, 16, torch.float32)[0])


def test_layers_behind_the_last_loss_layer_need_not_be_tileable() -> None:
    network = loaded(nin, torch.float32)
    network.layers.add_module("pooled", nn.AdaptiveAvgPool2d(1))
    assert TiledObjective(style_task(network, 96, 64, 32, torch.float32)[0]).tiles


def test_a_tile_that_is_too_small_is_rejected_with_the_smallest_valid_side() -> None:
    network = loaded(vgg19, torch.float32)
    with pytest.raises(InputError, match="--tile=16"):
        TiledObjective(style_task(network, 32, 32, 15, torch.float32)[0])
