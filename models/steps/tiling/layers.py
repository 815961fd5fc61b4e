"""Layers that can be computed piece by piece: which these are, their geometry, and how to compute a piece of each.

There are two ways. `run` is for autograd: the piece carries the padding already, and gradients come from torch.
`forward` and `backward` are written out, for callers that keep less than autograd does: they take and give tensors of
shape (1, channels, height, width), and are told which boxes of the whole maps these stand for. Beyond the border of
the whole map there is the layer's padding, at the border of a box there is none: what is held must contain all that
the wanted box is computed from.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.errors import InputError
from models.network import StyleNetwork
from models.steps.tiling.geometry import Box, Window, Windows

# Positions of padding around a piece, in the order of torch's `pad`: left, right, top, bottom; negative ones crop.
Padding = tuple[int, int, int, int]


@dataclass(frozen=True)
class Layer(ABC):
    """One layer of a chain; `padding_value` is what pieces that it runs on are padded with."""

    windows: Windows
    padding_value: ClassVar[float] = 0.0

    @property
    def products(self) -> int:
        """Multiplications for all channels of one position of the output, where these are worth counting."""
        return 0

    @abstractmethod
    def run(self, piece: Tensor, padding: Padding) -> Tensor:
        """The layer without padding of its own, on a piece that carries the given padding."""


@dataclass(frozen=True)
class Pointwise(Layer):
    """A layer whose outputs depend on the input at the same place alone, and which leaves zeros alone."""

    module: nn.Module

    def run(self, piece: Tensor, padding: Padding) -> Tensor:
        del padding  # zeros, which stay zeros
        result: Tensor = self.module(piece)
        return result


class Rectifier(Pointwise):
    """max(x, 0)."""


class Unchanged(Pointwise):
    """A layer that does nothing: an identity, or dropout in a frozen network."""


@dataclass(frozen=True)
class Convolution(Layer):
    """A convolution with frozen weights, padded with zeros."""

    module: nn.Conv2d

    @property
    def products(self) -> int:
        return self.module.weight.numel()

    def run(self, piece: Tensor, padding: Padding) -> Tensor:
        del padding  # zeros count like any others
        return self._convolved(piece, (0, 0))

    def forward(self, features: Tensor, held: Box, wanted: Box) -> Tensor:
        """The output at `wanted`."""
        both, rest = _common(_margins(self.windows.inputs(wanted), held))
        return self._convolved(pad(features, rest), both)

    def backward(self, gradient: Tensor, given: Box, wanted: Box) -> Tensor:
        """The input's gradient at `wanted`, from the output's at `given`, where all that `wanted` feeds is.

        The adjoint is the convolution with the flipped, transposed weights (Dumoulin & Visin 2016, section 4). torch
        calls it a transposed convolution: that takes the weights as they are, and was as fast as a flipped copy.
        """
        module = self.module
        # It makes all that `given` reads; its own padding cuts that off equally at both ends.
        both, rest = _common(_margins(self.windows.inputs(given), wanted))
        made = functional.conv_transpose2d(
            gradient, module.weight, None, module.stride, both, 0, module.groups, module.dilation
        )
        return pad(made, _negative(rest))

    def _convolved(self, features: Tensor, padding: tuple[int, int]) -> Tensor:
        module = self.module
        return functional.conv2d(
            features, module.weight, module.bias, module.stride, padding, module.dilation, module.groups
        )


@dataclass(frozen=True)
class MaxPool(Layer):
    """Max pooling; `forward` says for each output which place of its window was the largest."""

    padding_value = -math.inf

    @property
    def planes(self) -> int:
        """Bits that a choice takes."""
        return (self.windows.rows.kernel * self.windows.columns.kernel - 1).bit_length()

    def run(self, piece: Tensor, padding: Padding) -> Tensor:
        del padding  # never the largest
        kernel, stride, dilation = _pairs(self.windows)
        return functional.max_pool2d(piece, kernel, stride, 0, dilation, self.windows.rows.ceil_mode)

    def forward(self, features: Tensor, held: Box, wanted: Box) -> tuple[Tensor, Tensor]:
        """The output at `wanted`, and its choices: places in the window in reading order, as uint8."""
        rows, columns = self.windows
        kernel, stride, dilation = _pairs(self.windows)
        features = pad(features, _margins(self.windows.inputs(wanted), held), self.padding_value)
        width = features.shape[3]
        pooled, place = functional.max_pool2d(features, kernel, stride, 0, dilation, return_indices=True)
        # From places in the piece to places in the window.
        down, across = (torch.arange(size, device=place.device) for size in pooled.shape[2:])
        place -= (down * (rows.stride * width)).unsqueeze(1) + across * columns.stride
        if dilation != (1, 1):
            row_pitch = rows.dilation * width
            place = place // row_pitch * columns.kernel + place % row_pitch // columns.dilation
            return pooled, place.to(torch.uint8)
        # By comparison: integer division is slow.
        choice = place.to(torch.uint8)  # right in the first row; uint8 counts round, so differences stay right
        for row in range(1, rows.kernel):
            choice -= (place >= row * width).to(torch.uint8) * ((width - columns.kernel) % 256)
        return pooled, choice

    def backward(self, gradient: Tensor, choice: Tensor, given: Box, wanted: Box) -> Tensor:
        """The input's gradient at `wanted`, from the output's and the choices at `given`."""
        return _scattered(self.windows, lambda place: gradient * (choice == place), gradient, given, wanted)


@dataclass(frozen=True)
class AveragePool(Layer):
    """Average pooling. Each window is divided by the number of positions that torch counts for it.

    Attributes:
        count_padding: whether padding is among these.
        divisor: the number to divide by instead; None if there is none.
    """

    count_padding: bool
    divisor: int | None

    def run(self, piece: Tensor, padding: Padding) -> Tensor:
        pooled = self._pooled(piece)
        if not any(padding) or self.count_padding or self.divisor:
            return pooled
        # The mean over what is no padding: the same mean of ones tells which share of a window that is.
        left, right, top, bottom = padding
        height, width = piece.shape[-2:]
        real = functional.pad(piece.new_ones(1, 1, height - top - bottom, width - left - right), padding)
        return pooled / self._pooled(real)

    def forward(self, features: Tensor, held: Box, wanted: Box, size: tuple[int, int]) -> Tensor:
        """The output at `wanted`, of an input whose whole map has that height and width."""
        features = pad(features, _margins(self.windows.inputs(wanted), held))
        kernel, stride, _ = _pairs(self.windows)
        sums = functional.avg_pool2d(features, kernel, stride, divisor_override=1)
        return sums / self._counts(features, wanted, size)

    def backward(self, gradient: Tensor, given: Box, wanted: Box, size: tuple[int, int]) -> Tensor:
        """The input's gradient at `wanted`, from the output's at `given`."""
        gradient = gradient / self._counts(gradient, given, size)
        return _scattered(self.windows, lambda _: gradient, gradient, given, wanted)

    def _pooled(self, piece: Tensor) -> Tensor:
        kernel, stride, _ = _pairs(self.windows)
        ceil_mode = self.windows.rows.ceil_mode
        return functional.avg_pool2d(piece, kernel, stride, 0, ceil_mode, divisor_override=self.divisor)

    def _counts(self, like: Tensor, outputs: Box, size: tuple[int, int]) -> Tensor | int:
        if self.divisor:
            return self.divisor
        down, across = (
            like.new_tensor(window.counts(span, length, self.count_padding))
            for window, span, length in zip(self.windows, outputs, size, strict=True)
        )
        return down.unsqueeze(1) * across


def layers_of(network: StyleNetwork, taps: Collection[str], strategy: str) -> tuple[tuple[str, Layer, int], ...]:
    """Name, layer and output channels of the network's layers, up to the last of `taps`.

    Raises:
        InputError: one of them needs the whole image at once, or is of a kind that is not known.
    """
    chain = list(network.layers.named_children())
    count = 1 + max(place for place, (name, _) in enumerate(chain) if name in taps)
    layers, channels = [], 3
    for name, module in chain[:count]:
        try:
            layer = _layer(module)
        except InputError as error:
            raise InputError(
                f"strategy {strategy!r} cannot run layer {name!r} ({error}): it cannot be computed tile by tile, as"
                " convolutions padded with zeros, ReLU, max and average pooling can; use --strategy=plain for this"
                " model"
            ) from None
        channels = module.out_channels if isinstance(module, nn.Conv2d) else channels
        layers.append((name, layer, channels))
    return tuple(layers)


def _layer(module: nn.Module) -> Layer:
    for kind, read in _KINDS.items():
        # A subclass may compute something else: only torch's own forward is known.
        if isinstance(module, kind) and type(module).forward is kind.forward:
            layer = read(module)
            if any(max(window.before, window.after) >= window.reach for window in layer.windows):
                raise InputError("its padding is as wide as its kernel")
            return layer
    raise InputError(type(module).__name__)


def _convolution(module: nn.Module) -> Layer:
    assert isinstance(module, nn.Conv2d)
    if module.padding_mode != "zeros":
        raise InputError(f"Conv2d with padding_mode={module.padding_mode!r}")

    def axis(place: int) -> Window:
        kernel, dilation = module.kernel_size[place], module.dilation[place]
        match module.padding:
            case "valid":
                before = after = 0
            case "same":  # an odd one goes behind, as in torch
                both = dilation * (kernel - 1)
                before, after = both // 2, both - both // 2
            case (*amounts,):
                before = after = int(amounts[place])
        return Window(kernel, module.stride[place], before, after, dilation)

    return Convolution(Windows(axis(0), axis(1)), module)


def _max_pooling(module: nn.Module) -> Layer:
    assert isinstance(module, nn.MaxPool2d)
    if module.return_indices:
        raise InputError("MaxPool2d with return_indices=True")
    return MaxPool(_pooling(module, module.dilation))


def _average_pooling(module: nn.Module) -> Layer:
    assert isinstance(module, nn.AvgPool2d)
    return AveragePool(_pooling(module, 1), module.count_include_pad, module.divisor_override)


def _pooling(module: nn.MaxPool2d | nn.AvgPool2d, dilation: int | tuple[int, int]) -> Windows:
    def pair(value: int | tuple[int, ...]) -> tuple[int, int]:
        return (value, value) if isinstance(value, int) else (value[0], value[-1])

    kernels, strides, paddings, dilations = map(pair, (module.kernel_size, module.stride, module.padding, dilation))
    rows, columns = (
        Window(kernels[axis], strides[axis], paddings[axis], paddings[axis], dilations[axis], module.ceil_mode)
        for axis in (0, 1)
    )
    return Windows(rows, columns)


_KINDS: dict[type[nn.Module], Callable[[nn.Module], Layer]] = {
    nn.Conv2d: _convolution,
    nn.ReLU: lambda module: Rectifier(Windows(), module),
    nn.MaxPool2d: _max_pooling,
    nn.AvgPool2d: _average_pooling,
    nn.Dropout: lambda module: Unchanged(Windows(), module),
    nn.Identity: lambda module: Unchanged(Windows(), module),
}


def pad(piece: Tensor, amounts: Padding, value: float = 0.0) -> Tensor:
    """The piece with padding laid on, or cropped where that is negative; the piece itself where there is none."""
    return functional.pad(piece, amounts, value=value) if any(amounts) else piece


def _scattered(windows: Windows, part: Callable[[int], Tensor], like: Tensor, given: Box, wanted: Box) -> Tensor:
    """Adjoint of gathering windows: adds `part(place)` to that place of every window, for the boxes of `backward`."""
    made = windows.inputs(given)
    rows, columns = windows
    overlapping = any(window.reach > window.stride for window in windows)
    gapless = all(window.kernel == window.stride == window.reach for window in windows)
    size = (1, like.shape[1], *made.lengths)
    total = torch.empty(size, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
    if not gapless:
        total.zero_()
    for place in range(rows.kernel * columns.kernel):
        down, across = divmod(place, columns.kernel)
        top, left = down * rows.dilation, across * columns.dilation
        target = total[
            :, :, top : top + rows.stride * like.shape[2] : rows.stride,
            left : left + columns.stride * like.shape[3] : columns.stride,
        ]  # fmt: skip
        if overlapping:
            target += part(place)
        else:
            target.copy_(part(place))
    return pad(total, _negative(_margins(made, wanted)))


def _pairs(windows: Windows) -> tuple[tuple[int, int], ...]:
    """Kernel, stride and dilation as torch's functions take them."""
    rows, columns = windows
    return (rows.kernel, columns.kernel), (rows.stride, columns.stride), (rows.dilation, columns.dilation)


def _margins(outer: Box, inner: Box) -> Padding:
    """How far `outer` goes beyond `inner`; negative where it does not."""
    rows = inner.rows.start - outer.rows.start, outer.rows.stop - inner.rows.stop
    columns = inner.columns.start - outer.columns.start, outer.columns.stop - inner.columns.stop
    return *columns, *rows


def _common(margins: Padding) -> tuple[tuple[int, int], Padding]:
    """What is the same before and behind, as (rows, columns), which a convolution can do itself; and the rest."""
    left, right, top, bottom = margins
    columns, rows = max(0, min(left, right)), max(0, min(top, bottom))
    return (rows, columns), (left - columns, right - columns, top - rows, bottom - rows)


def _negative(margins: Padding) -> Padding:
    left, right, top, bottom = margins
    return -left, -right, -top, -bottom
