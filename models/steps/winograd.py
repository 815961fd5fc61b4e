"""Winograd's minimal filtering F(4x4, 3x3) for convolutions with frozen weights, on the cpu.

Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4. A tile of 4x4 outputs is computed
from the 6x6 inputs that it reads as

    Y = A^T [ (G g G^T) * (B^T d B) ] A

with the 3x3 filter g, the inputs d and the elementwise product *. Summed over channels, the products are one matrix
product for each of the 36 points, of shape (tiles, inputs) x (inputs, outputs): 36 multiplications for 16 outputs,
where direct convolution has 144. The weights are frozen, so G g G^T is computed once. The gradient with respect to the
input is the same algorithm on the flipped, transposed weights.

The matrices follow from the points at which the filter's and the inputs' polynomials are evaluated (Cook and Toom;
Winograd 1980, "Arithmetic Complexity of Computations"). The paper has 0, +-1, +-2 and infinity. Here they are 0, +-5/8,
+-3/2 and infinity: their powers are nearer to 1, and still exact in float32. Outputs of 64 channels are then 1.8 times
as far from the exact result as those of direct convolution, where the paper's points give 3.8 times. Hence only
float32, and float64 for tests.

Only on the cpu: on an accelerator the library chooses among its own algorithms, cuDNN's Winograd among them.

Time of direct convolution (torch's, channels last) over that of this one; medians of CPU time, one thread of a Zen 3
with AVX2 that other processes shared, torch 2.14, without the transform of the weights. First with transforms by torch,
then with compiled ones (`models/steps/winograd_transforms.py`):

    channels      128 px   64 px   32 px   16 px   8 px (height and width of the map)
    64 -> 128     0.67
    128 -> 128    1.47     1.02    0.87
    128 -> 256             1.30
    256 -> 256             1.73    1.50    0.90
    256 -> 512                     1.59
    512 -> 512                     1.85    1.16    0.82

    64 -> 64      0.93
    64 -> 128     1.09     1.10
    128 -> 128    1.58     1.51    1.24
    128 -> 256             1.80    1.44
    256 -> 256             2.28    1.77    1.35
    256 -> 512                     2.27
    512 -> 512             2.56    2.22    1.42    0.81

The transforms take the same time per channel whatever the number of channels that it meets: few channels do not pay for
them. Of few tiles the products read 36 weights for each input, and are slower than the convolution. Hence `wins`, by
the first table: the same layers with and without a compiler. With one, the others that gain are a hundredth of an
iteration at 256 px.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from models.network import StyleNetwork
from models.steps.winograd_transforms import FAR, NEAR, POINTS, PRODUCT, TILE, Strip, transforms_of

# The transformed inputs of a strip of tiles take so many bytes: the passes over them stay in cache, while each of the
# 36 products still has enough rows.
_STRIP_BYTES = 6 * 2**20
# What `wins` asks for, by the table above.
_LEAST_CHANNELS, _LEAST_PRODUCTS = 128, 2**22
# What `wins_with_transform` asks for.
_LEAST_CHANNELS_AT_USE, _LEAST_POSITIONS_AT_USE = 256, 1024
# Output channels whose weights are transformed at a time, in float64.
_CHANNELS_AT_A_TIME = 64

Chooser = Callable[[int, int, int, int], bool]

_LEAVE_TO_LIBRARY: ContextVar[bool] = ContextVar("leave_to_library", default=False)


@contextlib.contextmanager
def library_convolutions() -> Iterator[None]:
    """Within the context, every convolution is left to the library, as on an accelerator: for predictions of one."""
    before = _LEAVE_TO_LIBRARY.set(True)
    try:
        yield
    finally:
        _LEAVE_TO_LIBRARY.reset(before)


def is_available(features: Tensor, precision: str) -> bool:
    """Whether convolutions of such features may use the algorithm at all."""
    return features.device.type == "cpu" and precision == "float32" and not _LEAVE_TO_LIBRARY.get()


def wins(inputs: int, outputs: int, rows: int, columns: int) -> bool:
    """Whether the algorithm is expected to take less time than direct convolution, forward and backward.

    A rule, and no trial: on a busy machine a trial would choose differently in two runs, and change digits of results.
    """
    # Multiplications at each of the 36 points.
    products = inputs * outputs * _tiles(rows, columns)
    return min(inputs, outputs) >= _LEAST_CHANNELS and products >= _LEAST_PRODUCTS


def wins_with_transform(inputs: int, outputs: int, positions: int) -> bool:
    """Whether it is expected to take less time for so many positions if the weights are transformed for them alone.

    Time of direct convolution over that of this one with the transform, within iterations of VGG-19 at 512 px by
    strategy `streamed` (processor time, one thread of a Zen 3 that four other processes shared), and the transform's
    share, by channels and side of the tile:

        128 -> 128, 84 to 128 px   0.74 to 1.30    3 %
        128 -> 256, 65 px          0.95 to 1.28    8 %
        256 -> 256, 64 px          1.2 to 1.7     10 %
        256 -> 512, 33 px          0.97 to 1.35   25 %
        512 -> 512, 32 px          1.3 to 1.8     35 %
        512 -> 512, 64 px          1.9 to 2.05    13 %
    """
    return min(inputs, outputs) >= _LEAST_CHANNELS_AT_USE and positions >= _LEAST_POSITIONS_AT_USE


@dataclass(frozen=True)
class Replaced:
    """Layers of a network that compute by the algorithm.

    Attributes:
        names: in order.
        multiplications: those of all convolutions of a forward pass, at the 36 points of the tiles of these layers and
            direct in the others, over those of direct convolution everywhere. Transforms are not counted. The backward
            pass, of the same convolutions the other way, has the same share.
    """

    names: tuple[str, ...]
    multiplications: float


def replace_convolutions(network: StyleNetwork, picture: Tensor, chooses: Chooser) -> Replaced:
    """Put a `WinogradConvolution` in the place of each applicable convolution that `chooses` takes.

    Args:
        picture: shape and type of the image.
        chooses: called with the numbers of input and output channels, and the output's height and width.
    """
    names, done, direct = [], 0, 0
    features = torch.empty_like(picture, device="meta")
    for name, layer in network.layers.named_children():
        # Shapes alone: no picture goes through the network.
        state = {key: torch.empty_like(value, device="meta") for key, value in layer.state_dict().items()}
        features = torch.func.functional_call(layer, state, (features,))
        of_layer = layer.weight.numel() * features.shape[2:].numel() if isinstance(layer, nn.Conv2d) else 0
        direct += of_layer
        if is_applicable(layer) and chooses(layer.in_channels, layer.out_channels, *features.shape[2:]):
            setattr(network.layers, name, WinogradConvolution(layer))
            names.append(name)
            of_layer = POINTS * layer.in_channels * layer.out_channels * _tiles(*features.shape[2:])
        done += of_layer
    return Replaced(tuple(names), done / max(1, direct))


def _tiles(rows: int, columns: int) -> int:
    return -(-rows // TILE) * -(-columns // TILE)


def is_applicable(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether the layer is a 3x3 convolution with stride 1, padded with zeros on all sides alike, in one group."""
    return (
        isinstance(module, nn.Conv2d)
        and type(module).forward is nn.Conv2d.forward
        and module.kernel_size == (3, 3)
        and module.stride == (1, 1)
        and module.dilation == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
    )


def facts(layers: Sequence[str], multiplications: float | None = None) -> dict[str, Any]:
    """What the record says of these layers, in which the algorithm is used; nothing if there are none.

    Args:
        multiplications: of `Replaced`; None where halos of tiles are computed, too, and the share is not known.
    """
    if not layers:
        return {}
    transforms = transforms_of(torch.empty(0)).name
    share = {} if multiplications is None else {"multiplications": round(multiplications, 3)}
    return {"winograd": {"tile": "F(4x4, 3x3)", "layers": [*layers], "transforms": transforms, **share}}


def transformed_weights(weight: Tensor) -> Tensor:
    """The weights at all points: G g G^T, shape (36, inputs, outputs), from (outputs, inputs, 3, 3).

    Computed in float64, so that each is rounded once.
    """
    outputs, inputs = weight.shape[:2]
    both = point_matrix().to(weight.device)
    points = weight.new_empty(POINTS, inputs, outputs)
    for first in range(0, outputs, _CHANNELS_AT_A_TIME):
        part = weight[first : first + _CHANNELS_AT_A_TIME].to(torch.float64, memory_format=torch.contiguous_format)
        values = both @ part.permute(2, 3, 1, 0).reshape(9, -1)
        points[:, :, first : first + len(part)] = values.view(POINTS, inputs, len(part))
    return points


def point_matrix() -> Tensor:
    """The linear map from the 9 taps of a filter to its 36 points, shape (36, 9), float64: G on both axes at once."""
    transform = torch.tensor(_filter_transform(), dtype=torch.float64)
    return torch.einsum("ia,jb->ijab", transform, transform).reshape(POINTS, 9)


def _filter_transform() -> list[list[float]]:
    """The matrix G: 1, x and x^2 at each point x, over the product of its distances from the other finite points."""
    rows = [[1 / PRODUCT, 0.0, 0.0]]
    for square, other in ((NEAR**2, FAR**2), (FAR**2, NEAR**2)):
        distances = 2 * square * (square - other)
        rows += [[1 / distances, point / distances, square / distances] for point in (square**0.5, -(square**0.5))]
    return [*rows, [0.0, 0.0, 1.0]]


def gradient_weights(weight: Tensor) -> Tensor:
    """Weights of the convolution that computes the input's gradient: flipped, and inputs and outputs exchanged."""
    return weight.flip(2, 3).transpose(0, 1)


def convolve(features: Tensor, points: Tensor, padding: Sequence[int], bias: Tensor | None = None) -> Tensor:
    """The convolution of a feature map with transformed weights, channels last in memory.

    Args:
        features: shape (1, inputs, height, width).
        points: of `transformed_weights`, shape (36, inputs, outputs).
        padding: zeros above and below, and left and right; negative numbers crop.
        bias: shape (outputs,).

    Returns: shape (1, outputs, height + 2 * padding[0] - 2, width + 2 * padding[1] - 2).
    """
    inputs, outputs = points.shape[1:]
    height, width = (size + 2 * amount for size, amount in zip(features.shape[2:], padding, strict=True))
    rows, columns = height - 2, width - 2
    down, across = -(-rows // TILE), -(-columns // TILE)
    at_a_time = _tile_rows_of_a_strip(down, across, max(inputs, outputs), features.element_size())
    transforms = transforms_of(features)
    features = features.contiguous(memory_format=torch.channels_last)
    # No view of another tensor, which the in-place ReLU behind it could not change.
    result = torch.empty(
        (1, outputs, rows, columns), dtype=features.dtype, device=features.device, memory_format=torch.channels_last
    )
    positions = result.permute(0, 2, 3, 1).squeeze(0)
    transformed, products = (
        features.new_empty(POINTS * at_a_time * across * channels) for channels in (inputs, outputs)
    )
    # A prediction of memory needs the first strip only: no other is larger.
    for first in range(0, at_a_time if isinstance(features, FakeTensor) else down, at_a_time):
        strip = Strip(TILE * first - padding[0], -padding[1], min(at_a_time, down - first), across)
        factor, product = (
            whole[: POINTS * strip.tiles * channels].view(POINTS, strip.tiles, channels)
            for whole, channels in ((transformed, inputs), (products, outputs))
        )
        transforms.inputs(features, strip, factor)
        torch.bmm(factor, points, out=product)
        transforms.outputs(product, strip, bias, positions[TILE * first : TILE * (first + strip.down)])
    return result


def _tile_rows_of_a_strip(down: int, across: int, channels: int, element_bytes: int) -> int:
    row_bytes = POINTS * across * channels * element_bytes
    strips = max(1, -(-down * row_bytes // _STRIP_BYTES))
    return -(-down // min(strips, down))  # strips of one size, as nearly as can be


class _Convolve(torch.autograd.Function):
    """`convolve` with frozen weights: a gradient with respect to the features alone."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, layer: "WinogradConvolution") -> Tensor:
        ctx.layer = layer
        return convolve(features, layer.points, layer.padding, layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        layer = ctx.layer
        return convolve(gradient, layer.gradient_points, [2 - amount for amount in layer.padding]), None


class WinogradConvolution(nn.Module):
    """Takes the place of a convolution for which `is_applicable`; its weights take four times the memory, twice.

    Attributes:
        points: transformed weights of the convolution, shape (36, inputs, outputs).
        gradient_points: those of its gradient, shape (36, outputs, inputs).
    """

    points: Tensor
    gradient_points: Tensor
    bias: Tensor | None

    def __init__(self, module: nn.Conv2d) -> None:
        super().__init__()
        weight = module.weight.detach()
        self.padding = _amounts(module)
        self.register_buffer("points", transformed_weights(weight))
        self.register_buffer("gradient_points", transformed_weights(gradient_weights(weight)))
        self.register_buffer("bias", None if module.bias is None else module.bias.detach())

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = _Convolve.apply(features, self)
        return result


def _amounts(module: nn.Conv2d) -> tuple[int, int]:
    match module.padding:
        case "same":
            return 1, 1
        case "valid":
            return 0, 0
        case (rows, columns):
            return int(rows), int(columns)
        case other:
            raise AssertionError(f"no padding of a Conv2d: {other!r}")
