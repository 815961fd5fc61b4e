"""Layers that can be computed tile by tile: which layers these are, their geometry, and how to compute a part of each.

Long because each layer stands beside its explicit gradient, and the helpers of both.

There are two ways. `run` is for autograd: its input includes the padding, and torch computes the gradient. `forward`
and `backward` are explicit, for callers that store less than autograd does. They take and return parts of feature
maps, shape (1, channels, height, width), and the boxes of these parts: `input_box` on the layer's input, `output_box`
on its output. Padding is applied at the border of the whole map only, so the given part must contain all positions on
the map that the result depends on.
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
from models.steps.tiling.geometry import Box, Span, Window, Windows

# Number of padding positions, in the order of torch's `pad`: left, right, top, bottom. Negative numbers crop.
Padding = tuple[int, int, int, int]


@dataclass(frozen=True)
class Layer(ABC):
    """One layer of a chain; its input is padded with `padding_value`."""

    windows: Windows
    padding_value: ClassVar[float] = 0.0

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations for one output position, all channels; only convolutions are counted."""
        return 0

    @abstractmethod
    def run(self, piece: Tensor, padding: Padding) -> Tensor:
        """The layer's output for a piece of its input, which already includes the given padding."""


@dataclass(frozen=True)
class Pointwise(Layer):
    """An elementwise layer that maps zero to zero."""

    module: nn.Module

    def run(self, piece: Tensor, padding: Padding) -> Tensor:
        del padding  # zero before and after
        result: Tensor = self.module(piece)
        return result


class Relu(Pointwise):
    """max(x, 0)."""


class Identity(Pointwise):
    """A layer whose output is its input: an identity, or dropout in a frozen network."""


@dataclass(frozen=True)
class Convolution(Layer):
    """A convolution with frozen weights, padded with zeros."""

    module: nn.Conv2d

    @property
    def macs(self) -> int:
        return self.module.weight.numel()

    def run(self, piece: Tensor, padding: Padding) -> Tensor:
        del padding  # zeros are convolved like any other input
        return self._convolve(piece, (0, 0))

    def forward(self, features: Tensor, input_box: Box, output_box: Box) -> Tensor:
        """The output at `output_box`."""
        symmetric, remainder = _split_symmetric(_margins(self.windows.inputs(output_box), input_box))
        return self._convolve(pad(features, remainder), symmetric)

    def backward(self, gradient: Tensor, output_box: Box, input_box: Box) -> Tensor:
        """The input's gradient at `input_box`, from the output's gradient at `output_box`.

        The transposed convolution (Dumoulin & Visin 2016, section 4). torch's function takes the weights as they are,
        and was as fast as a convolution with a flipped copy of them.
        """
        # The result covers all inputs of `output_box`; the function's padding crops it symmetrically.
        symmetric, remainder = _split_symmetric(_margins(self.windows.inputs(output_box), input_box))
        return pad(self._transposed(gradient, symmetric), _negated(remainder))

    def _convolve(self, features: Tensor, padding: tuple[int, int]) -> Tensor:
        module = self.module
        return functional.conv2d(
            features, module.weight, module.bias, module.stride, padding, module.dilation, module.groups
        )

    def _transposed(self, gradient: Tensor, padding: tuple[int, int]) -> Tensor:
        module = self.module
        return functional.conv_transpose2d(
            gradient, module.weight, None, module.stride, padding, 0, module.groups, module.dilation
        )


@dataclass(frozen=True)
class MaxPool(Layer):
    """Max pooling; `forward` also returns, for each output, the index of the maximum within its window."""

    padding_value = -math.inf

    @property
    def argmax_bits(self) -> int:
        """Number of bits of one index."""
        return (self.windows.rows.kernel * self.windows.columns.kernel - 1).bit_length()

    def run(self, piece: Tensor, padding: Padding) -> Tensor:
        del padding  # never the maximum
        kernel, stride, dilation = _pairs(self.windows)
        return functional.max_pool2d(piece, kernel, stride, 0, dilation, self.windows.rows.ceil_mode)

    def forward(self, features: Tensor, input_box: Box, output_box: Box) -> tuple[Tensor, Tensor]:
        """The output at `output_box`, and the indices of the maxima within their windows (row-major, uint8)."""
        rows, columns = self.windows
        kernel, stride, dilation = _pairs(self.windows)
        features = pad(features, _margins(self.windows.inputs(output_box), input_box), self.padding_value)
        width = features.shape[3]
        pooled, index = functional.max_pool2d(features, kernel, stride, 0, dilation, return_indices=True)
        # From the offset in `features` to the offset from the window's first position.
        down, across = (torch.arange(size, device=index.device) for size in pooled.shape[2:])
        index -= (down * (rows.stride * width)).unsqueeze(1) + across * columns.stride
        if dilation != (1, 1):
            row_pitch = rows.dilation * width
            index = index // row_pitch * columns.kernel + index % row_pitch // columns.dilation
            return pooled, index.to(torch.uint8)
        # Comparisons instead of integer division, which is slow.
        argmax = index.to(torch.uint8)  # correct in the window's first row; differences are correct modulo 256
        for row in range(1, rows.kernel):
            argmax -= (index >= row * width).to(torch.uint8) * ((width - columns.kernel) % 256)
        return pooled, argmax

    def backward(self, gradient: Tensor, argmax: Tensor, output_box: Box, input_box: Box) -> Tensor:
        """The input's gradient at `input_box`, from the output's gradient and the indices at `output_box`."""
        return _scatter_windows(
            self.windows, lambda index: gradient * (argmax == index), gradient, output_box, input_box
        )


@dataclass(frozen=True)
class AveragePool(Layer):
    """Average pooling: the sum of each window over its number of positions.

    Attributes:
        count_padding: whether padding positions are counted (torch's `count_include_pad`).
        divisor: divisor of the sums instead of the count (torch's `divisor_override`); None if there is none.
    """

    count_padding: bool
    divisor: int | None

    def run(self, piece: Tensor, padding: Padding) -> Tensor:
        pooled = self._pool(piece)
        if not any(padding) or self.count_padding or self.divisor:
            return pooled
        # Divide by the share of each window that is no padding: the average of a map of ones, padded with zeros.
        left, right, top, bottom = padding
        height, width = piece.shape[-2:]
        ones = functional.pad(piece.new_ones(1, 1, height - top - bottom, width - left - right), padding)
        return pooled / self._pool(ones)

    def forward(self, features: Tensor, input_box: Box, output_box: Box, size: tuple[int, int]) -> Tensor:
        """The output at `output_box`; `size` is the (height, width) of the whole input map."""
        features = pad(features, _margins(self.windows.inputs(output_box), input_box))
        kernel, stride, _ = _pairs(self.windows)
        sums = functional.avg_pool2d(features, kernel, stride, divisor_override=1)
        return sums / self._counts(features, output_box, size)

    def backward(self, gradient: Tensor, output_box: Box, input_box: Box, size: tuple[int, int]) -> Tensor:
        """The input's gradient at `input_box`, from the output's gradient at `output_box`."""
        gradient = gradient / self._counts(gradient, output_box, size)
        return _scatter_windows(self.windows, lambda _: gradient, gradient, output_box, input_box)

    def _pool(self, piece: Tensor) -> Tensor:
        kernel, stride, _ = _pairs(self.windows)
        ceil_mode = self.windows.rows.ceil_mode
        return functional.avg_pool2d(piece, kernel, stride, 0, ceil_mode, divisor_override=self.divisor)

    def _counts(self, like: Tensor, outputs: Box, size: tuple[int, int]) -> Tensor | int:
        if self.divisor:
            return self.divisor
        down, across = (
            window_counts(window, span, length, self.count_padding, like)
            for window, span, length in zip(self.windows, outputs, size, strict=True)
        )
        return down.unsqueeze(1) * across


def window_counts(window: Window, outputs: Span, size: int, padding: bool, like: Tensor) -> Tensor:
    """For each output the number of positions of its window on a map of `size`, with or without padding.

    Only for dilation 1. Positions beyond the padded end never count. Computed on the device of `like`, in its type: a
    copy of a list would wait for all that is queued there.
    """
    first, stop = (-window.before, size + window.after) if padding else (0, size)
    starts = torch.arange(outputs.start, outputs.stop, device=like.device) * window.stride - window.before
    return ((starts + window.reach).clamp(max=stop) - starts.clamp(min=first)).to(like.dtype)


def tileable_layers(
    network: StyleNetwork, loss_layers: Collection[str], strategy: str
) -> tuple[tuple[str, Layer, int], ...]:
    """Name, layer and output channels of the network's layers, up to the last of `loss_layers`.

    Raises:
        InputError: a layer needs the whole image at once, or its type is unknown.
    """
    chain = list(network.layers.named_children())
    count = 1 + max(index for index, (name, _) in enumerate(chain) if name in loss_layers)
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
    for kind, read in _READERS.items():
        # A subclass may compute something else: its `forward` must be torch's.
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

    def axis(index: int) -> Window:
        kernel, dilation = module.kernel_size[index], module.dilation[index]
        match module.padding:
            case "valid":
                before = after = 0
            case "same":  # an odd total has one more position after than before, as in torch
                total = dilation * (kernel - 1)
                before, after = total // 2, total - total // 2
            case (*amounts,):
                before = after = int(amounts[index])
        return Window(kernel, module.stride[index], before, after, dilation)

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


_READERS: dict[type[nn.Module], Callable[[nn.Module], Layer]] = {
    nn.Conv2d: _convolution,
    nn.ReLU: lambda module: Relu(Windows(), module),
    nn.MaxPool2d: _max_pooling,
    nn.AvgPool2d: _average_pooling,
    nn.Dropout: lambda module: Identity(Windows(), module),
    nn.Identity: lambda module: Identity(Windows(), module),
}


def pad(piece: Tensor, amounts: Padding, value: float = 0.0) -> Tensor:
    """The padded piece, cropped where an amount is negative; the piece itself if all amounts are 0."""
    return functional.pad(piece, amounts, value=value) if any(amounts) else piece


def _scatter_windows(
    windows: Windows, term: Callable[[int], Tensor], like: Tensor, output_box: Box, input_box: Box
) -> Tensor:
    """The gradient at `input_box` of a pooling layer: `term(i)` is added at position i of every window.

    Args:
        term: the gradient that position i (row-major) of each window receives, for the outputs at `output_box`.
        like: a tensor with the shape, type and device of these gradients.
    """
    read_box = windows.inputs(output_box)
    rows, columns = windows
    overlapping = any(window.reach > window.stride for window in windows)
    without_gaps = all(window.kernel == window.stride == window.reach for window in windows)
    size = (1, like.shape[1], *read_box.lengths)
    total = torch.empty(size, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
    if not without_gaps:
        total.zero_()
    for index in range(rows.kernel * columns.kernel):
        down, across = divmod(index, columns.kernel)
        top, left = down * rows.dilation, across * columns.dilation
        target = total[
            :, :, top : top + rows.stride * like.shape[2] : rows.stride,
            left : left + columns.stride * like.shape[3] : columns.stride,
        ]  # fmt: skip
        if overlapping:
            target += term(index)
        else:
            target.copy_(term(index))
    return pad(total, _negated(_margins(read_box, input_box)))


def _pairs(windows: Windows) -> tuple[tuple[int, int], ...]:
    """Kernel, stride and dilation in the form of torch's functions: (rows, columns)."""
    rows, columns = windows
    return (rows.kernel, columns.kernel), (rows.stride, columns.stride), (rows.dilation, columns.dilation)


def _margins(outer: Box, inner: Box) -> Padding:
    """Number of positions by which `outer` extends beyond `inner` on each side; may be negative."""
    rows = inner.rows.start - outer.rows.start, outer.rows.stop - inner.rows.stop
    columns = inner.columns.start - outer.columns.start, outer.columns.stop - inner.columns.stop
    return *columns, *rows


def _split_symmetric(margins: Padding) -> tuple[tuple[int, int], Padding]:
    """Split margins into symmetric ones, as (rows, columns), which a convolution can apply itself, and the rest."""
    left, right, top, bottom = margins
    columns, rows = max(0, min(left, right)), max(0, min(top, bottom))
    return (rows, columns), (left - columns, right - columns, top - rows, bottom - rows)


def _negated(margins: Padding) -> Padding:
    left, right, top, bottom = margins
    return -left, -right, -top, -bottom
