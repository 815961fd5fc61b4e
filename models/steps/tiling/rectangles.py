"""Layers that work on a rectangle of their map, forwards and, without autograd, backwards to their input.

Each takes and gives tensors of shape (1, channels, height, width), and is told which boxes of the whole maps they
stand for. Beyond the border of the whole map there is the layer's padding, at the border of a rectangle there is none:
what is held must contain all that the wanted box is computed from.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.steps.tiling.spans import Box, Span, Windows


@dataclass(frozen=True)
class Convolution:
    """A convolution with frozen weights."""

    layer: nn.Conv2d
    windows: Windows

    def forward(self, features: Tensor, held: Box, wanted: Box) -> Tensor:
        """The output at `wanted`."""
        layer = self.layer
        both, rest = _common(_margins(self.windows.reads(wanted), held))
        features = _grown(features, rest)
        return functional.conv2d(features, layer.weight, layer.bias, layer.stride, both, layer.dilation, layer.groups)

    def backward(self, gradient: Tensor, given: Box, wanted: Box) -> Tensor:
        """The input's gradient at `wanted`, from the output's at `given`, where all that `wanted` feeds is.

        The adjoint is the convolution with the flipped, transposed weights (Dumoulin & Visin 2016, section 4). torch
        calls it a transposed convolution: that takes the weights as they are, and was as fast as a flipped copy.
        """
        layer = self.layer
        # It makes all that `given` reads; its own padding cuts that off equally at both ends.
        both, rest = _common(_margins(self.windows.reads(given), wanted))
        made = functional.conv_transpose2d(
            gradient, layer.weight, None, layer.stride, both, 0, layer.groups, layer.dilation
        )
        return _grown(made, [-margin for margin in rest])


@dataclass(frozen=True)
class MaxPool:
    """Max pooling, which says for each output which place of its window was the largest."""

    windows: Windows

    @property
    def planes(self) -> int:
        """Bits that a choice takes."""
        return (self.windows.rows.kernel * self.windows.columns.kernel - 1).bit_length()

    def forward(self, features: Tensor, held: Box, wanted: Box) -> tuple[Tensor, Tensor]:
        """The output at `wanted`, and its choices: places in the window in reading order, as uint8."""
        rows, columns = self.windows.rows, self.windows.columns
        features = _grown(features, _margins(self.windows.reads(wanted), held), float("-inf"))
        width = features.shape[3]
        pooled, place = functional.max_pool2d(
            features, (rows.kernel, columns.kernel), (rows.stride, columns.stride), return_indices=True
        )
        # From places in the rectangle to places in the window, by comparison: integer division is slow.
        down, across = (torch.arange(size, device=place.device) for size in pooled.shape[2:])
        place -= (down * (rows.stride * width)).unsqueeze(1) + across * columns.stride
        choice = place.to(torch.uint8)  # right in the first row; uint8 counts round, so differences stay right
        for row in range(1, rows.kernel):
            choice -= (place >= row * width).to(torch.uint8) * ((width - columns.kernel) % 256)
        return pooled, choice

    def backward(self, gradient: Tensor, choice: Tensor, given: Box, wanted: Box) -> Tensor:
        """The input's gradient at `wanted`, from the output's and the choices at `given`."""
        return _scattered(self.windows, lambda place: gradient * (choice == place), gradient, given, wanted)


@dataclass(frozen=True)
class AveragePool:
    """Average pooling. Each window is divided by the number of positions that torch counts for it."""

    windows: Windows
    size: tuple[int, int]
    count_padding: bool
    divisor: int | None

    def forward(self, features: Tensor, held: Box, wanted: Box) -> Tensor:
        """The output at `wanted`."""
        rows, columns = self.windows.rows, self.windows.columns
        features = _grown(features, _margins(self.windows.reads(wanted), held))
        kernel, stride = (rows.kernel, columns.kernel), (rows.stride, columns.stride)
        return functional.avg_pool2d(features, kernel, stride, divisor_override=1) / self._counts(features, wanted)

    def backward(self, gradient: Tensor, given: Box, wanted: Box) -> Tensor:
        """The input's gradient at `wanted`, from the output's at `given`."""
        gradient = gradient / self._counts(gradient, given)
        return _scattered(self.windows, lambda _: gradient, gradient, given, wanted)

    def _counts(self, like: Tensor, outputs: Box) -> Tensor | int:
        if self.divisor:
            return self.divisor
        lengths = []
        for window, span, size in zip((self.windows.rows, self.windows.columns), outputs, self.size, strict=True):
            padding = window.padding if self.count_padding else 0
            inside = Span(-padding, size + padding)
            read = [window.reads(Span(place, place + 1)) for place in range(*span)]
            lengths.append([min(one.stop, inside.stop) - max(one.start, inside.start) for one in read])
        down, across = (like.new_tensor(counts) for counts in lengths)
        return down.unsqueeze(1) * across


def _scattered(windows: Windows, part: Callable[[int], Tensor], like: Tensor, given: Box, wanted: Box) -> Tensor:
    """Adjoint of gathering windows: adds `part(place)` to that place of every window."""
    rows, columns = windows.rows, windows.columns
    made = windows.reads(given)
    overlapping = rows.kernel > rows.stride or columns.kernel > columns.stride
    gapless = rows.kernel == rows.stride and columns.kernel == columns.stride
    size = (1, like.shape[1], made.rows.length, made.columns.length)
    total = torch.empty(size, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
    if not gapless:
        total.zero_()
    for place in range(rows.kernel * columns.kernel):
        down, across = divmod(place, columns.kernel)
        target = total[
            :, :, down : down + rows.stride * like.shape[2] : rows.stride,
            across : across + columns.stride * like.shape[3] : columns.stride,
        ]  # fmt: skip
        if overlapping:
            target += part(place)
        else:
            target.copy_(part(place))
    return _grown(total, [-margin for margin in _margins(made, wanted)])


def _margins(outer: Box, inner: Box) -> list[int]:
    """How far `outer` goes beyond `inner`: left, right, top, bottom, as torch's pad counts; negative if it does not."""
    rows = inner.rows.start - outer.rows.start, outer.rows.stop - inner.rows.stop
    columns = inner.columns.start - outer.columns.start, outer.columns.stop - inner.columns.stop
    return [*columns, *rows]


def _common(margins: list[int]) -> tuple[tuple[int, int], list[int]]:
    """What is the same before and behind, as (rows, columns), which a convolution can do itself; and the rest."""
    columns, rows = (max(0, min(margins[place : place + 2])) for place in (0, 2))
    return (rows, columns), [
        margin - common for margin, common in zip(margins, (columns, columns, rows, rows), strict=True)
    ]


def _grown(features: Tensor, margins: list[int], value: float = 0.0) -> Tensor:
    """With `value` around it, or cropped where a margin is negative."""
    return functional.pad(features, margins, value=value) if any(margins) else features
