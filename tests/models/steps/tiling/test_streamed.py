import dataclasses

import pytest
import torch
from torch import nn

from models import weights
from models.errors import InputError
from models.network import StyleNetwork
from models.nin import nin
from models.steps.objectives import PlainObjective, StyleTask
from models.steps.strategies import ChannelsLastObjective
from models.steps.tiling.activation_store import pack, unpack
from models.steps.tiling.blocks import blocks_of
from models.steps.tiling.streamed import StreamedObjective
from models.steps.tiling.tiled import TiledObjective
from models.vgg import vgg16, vgg19
from tests.models.steps.tiling.test_tiled import odd_chain

NETWORKS = {"vgg16": vgg16, "vgg19": vgg19, "nin": nin}


def with_average_pools(network):
    for name, layer in network.layers.named_children():
        if isinstance(layer, nn.MaxPool2d):
            pool = nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode)
            setattr(network.layers, name, pool)
    return network


def tiny(*layers, style=("0",), content="0"):
    return StyleNetwork(nn.Sequential(*layers), content_layer=content, style_layers=dict.fromkeys(style, 0.5))


def task_of(network, height, width, dtype=torch.float64, **further):
    weights.load(network, "random", torch.device("cpu"))
    network.layers.to(dtype)
    generator = torch.Generator().manual_seed(3)
    content, style = (torch.rand(1, 3, height, width, dtype=dtype, generator=generator) for _ in range(2))
    return StyleTask(network, content, style, **further)


def deviations(task):
    """Relative deviation of loss and gradient of `streamed` from those of `plain`."""
    image = torch.rand(task.content.shape, dtype=task.content.dtype, generator=torch.Generator().manual_seed(4))
    plain, streamed = image.clone().requires_grad_(), image.clone().requires_grad_()
    expected = PlainObjective(task)(plain)
    loss = StreamedObjective(task)(streamed)
    distance = (streamed.grad - plain.grad).norm() / plain.grad.norm()
    return abs(loss / expected - 1).item(), distance.item()


@pytest.mark.parametrize("model", ["nin", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vgg16", "vgg19"))])
def test_an_image_of_odd_size_with_the_default_tile_is_exact(model):
    loss, gradient = deviations(task_of(NETWORKS[model](), 257, 391))
    assert max(loss, gradient) < 1e-12


@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize(("height", "width", "tile_px"), [(64, 64, 0), (83, 61, 64), (49, 71, 16)])
@pytest.mark.parametrize("model", NETWORKS)
def test_loss_and_gradient_are_those_of_plain(model, height, width, tile_px, pooling):
    network = NETWORKS[model]()
    task = task_of(with_average_pools(network) if pooling == "average" else network, height, width, tile_px=tile_px)
    loss, gradient = deviations(task)
    assert loss < 1e-12
    assert gradient < 1e-12


def test_the_smallest_tile_of_one_position_is_exact():
    network = tiny(
        nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 9, 3, padding=1), nn.ReLU(),
        style=("1", "4"), content="3",
    )  # fmt: skip
    assert max(deviations(task_of(network, 11, 14, tile_px=1))) < 1e-12


CHAINS = {
    "strides that do not read the border": (nn.Conv2d(3, 8, 3, stride=3), nn.ReLU(), nn.Conv2d(8, 6, 4, stride=2)),
    "a stride larger than the kernel": (nn.Conv2d(3, 8, 1, stride=3), nn.ReLU(), nn.Conv2d(8, 4, 3)),
    "unequal kernels, strides and paddings": (
        nn.Conv2d(3, 7, (3, 5), (2, 1), (0, 3)), nn.ReLU(), nn.MaxPool2d((3, 2), (1, 2), (1, 0)), nn.Conv2d(7, 5, 2),
    ),
    "dilation and groups": (nn.Conv2d(3, 6, 3, dilation=2, padding="same"), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=3)),
    "a padded, overlapping max pool that rounds up": (
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.Conv2d(8, 9, 3), nn.ReLU(),
    ),
    "a padded average pool that rounds up": (
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AvgPool2d(3, 2, 1, ceil_mode=True), nn.ReLU(), nn.Conv2d(8, 9, 3),
    ),
    "an average pool that does not count padding": (
        nn.Conv2d(3, 8, 3), nn.AvgPool2d(2, 2, 1, count_include_pad=False), nn.Conv2d(8, 9, 3),
    ),
    "an average pool with a divisor": (nn.Conv2d(3, 8, 3), nn.AvgPool2d(2, divisor_override=3), nn.Conv2d(8, 9, 3)),
    "a loss at a pool": (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2)),
    "a dilated max pool": (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d((2, 3), 2, 1, (3, 2)), nn.Conv2d(8, 9, 2)),
    "an even kernel with more padding after": (nn.Conv2d(3, 8, 4, padding="same"), nn.ReLU(), nn.Conv2d(8, 9, 3)),
    "layers that do nothing": (
        nn.Conv2d(3, 8, 3), nn.Identity(), nn.ReLU(), nn.Dropout(), nn.MaxPool2d(2), nn.Identity(), nn.ReLU(),
        nn.Conv2d(8, 9, 3), nn.Identity(),
    ),
    "a pool as first layer": (nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(3, 8, 3)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("tile_px", [0, 5])
@pytest.mark.parametrize("chain", CHAINS)
def test_any_chain_of_convolutions_and_pools_is_exact(chain, tile_px):
    network = tiny(*CHAINS[chain], style=("0", str(len(CHAINS[chain]) - 1)), content="1")
    network.layers.eval()
    assert max(deviations(task_of(network, 23, 30, tile_px=tile_px))) < 1e-12


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("tile_px", [3, 32])
def test_the_odd_chain_of_the_tiled_strategy_is_exact(tile_px):
    network = odd_chain()
    network.layers.eval()
    assert max(deviations(task_of(network, 97, 61, tile_px=tile_px))) < 1e-12


def test_a_loss_at_an_inner_pool_is_exact_with_tiles_of_full_width():
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
    task = task_of(tiny(*layers, style=("2", "4"), content="2"), 96, 12, tile_px=8)
    assert max(deviations(task)) < 1e-12


def test_unpack_is_the_inverse_of_pack_for_a_single_position():
    bits = torch.arange(16).view(1, 16, 1, 1).bitwise_and(3) == 1
    for part in (bits, bits.contiguous(memory_format=torch.channels_last), bits[:, ::2]):
        flat = part[0].permute(1, 2, 0)
        assert torch.equal(unpack(pack(flat), flat.shape[2]), flat)


@pytest.mark.parametrize("strategy", [StreamedObjective, TiledObjective])
def test_layers_behind_the_last_loss_layer_are_not_computed(strategy):
    network = tiny(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    task = task_of(network, 23, 30)
    assert strategy(task)(task.style.clone().requires_grad_()) > 0


def test_a_max_pool_with_more_than_256_positions_per_window_is_rejected():
    network = tiny(nn.Conv2d(3, 8, 3), nn.MaxPool2d(17), style=("1",))
    with pytest.raises(InputError, match=r"layer '1': its window has more than 256 positions"):
        blocks_of(network, 64, 64)


def test_an_image_that_a_layer_shrinks_to_nothing_is_rejected():
    with pytest.raises(InputError, match="shrinks 6x4 px to nothing"):
        blocks_of(tiny(nn.Conv2d(3, 8, 5)), 4, 6)


def test_float32_differs_from_channels_last_by_rounding_only():
    # Another order of summation changes the sign of some features: plain and channels_last differ by more than this.
    task = task_of(vgg16(), 64, 80, torch.float32, tile_px=32)
    images = [task.style.flip(3).clone().requires_grad_() for _ in range(2)]
    for objective, image in zip((ChannelsLastObjective, StreamedObjective), images, strict=True):
        objective(task)(image)
    assert (images[1].grad - images[0].grad).norm() / images[0].grad.norm() < 1e-5


def test_bfloat16_deviates_from_float32_no_more_than_twice_as_much_as_plain():
    task = task_of(nin(), 96, 80, torch.float32)
    rounded = dataclasses.replace(task, precision="bfloat16")
    images = [task.content.flip(3).clone().requires_grad_() for _ in range(3)]
    PlainObjective(task)(images[0])
    PlainObjective(rounded)(images[1])
    StreamedObjective(rounded)(images[2])
    exact, plain, streamed = (image.grad for image in images)
    assert (streamed - exact).norm() < 2 * (plain - exact).norm()


def test_the_loss_scale_of_float16_is_removed_from_the_gradient(monkeypatch):
    monkeypatch.setattr("models.steps.objectives.first_scale", lambda precision, pixels: 4096.0)
    assert deviations(task_of(nin(), 64, 64))[1] < 1e-12


def test_two_calls_give_the_same_gradient_and_report_every_tile():
    task = task_of(nin(), 64, 96, torch.float32, tile_px=32)
    objective, reported, gradients = StreamedObjective(task), [], []
    objective.on_progress(lambda done, total: reported.append((done, total)))
    image = task.style.clone().requires_grad_()
    for _ in range(2):
        objective(image)
        gradients.append(image.grad)
    assert torch.equal(*gradients)
    total = reported[0][1]
    assert reported == [(done, total) for done in range(1, total + 1)] * 2


def test_nan_in_the_image_makes_the_loss_nan():
    task = task_of(nin(), 64, 64, torch.float32)
    objective, image = StreamedObjective(task), task.content.clone()
    image[0, 1, 30, 30] = float("nan")
    assert objective(image.requires_grad_()).isnan()


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(2), nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")]
)
def test_a_layer_that_cannot_be_tiled_is_named(layer):
    network = tiny(nn.Conv2d(3, 8, 3), layer, style=("1",))
    with pytest.raises(InputError, match=r"layer '1' .*cannot be computed tile by tile"):
        blocks_of(network, 32, 32)
