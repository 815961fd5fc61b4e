"""Backward streams: from the rows of the gradient at an operation's output to those of the gradient at its input.

They work like the forward streams, in the same order of rows. What the gradient needs of the input itself, the rows of
a normalisation or an activation, comes from queues that forward streams fill.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from models.streaming.operations import (
    Activation,
    Convolution,
    Nearest,
    Normalisation,
    Operation,
    UpsamplingConvolution,
)
from models.streaming.rows import (
    BOTH,
    OverlappingStrips,
    RowConvolution,
    RowMap,
    RowQueue,
    Statistics,
    Stream,
    Zeros,
    identity,
    pointwise,
)
from models.streaming.statistics import NormStatistics, wide


class NormGradient(Stream):
    """Through a normalisation and its activation, whose two sums are known."""

    def __init__(self, statistics: NormStatistics, inputs: RowQueue) -> None:
        self._statistics, self._inputs = statistics, inputs

    def push(self, rows: Tensor | None, last: bool) -> Tensor | None:
        del last
        return None if rows is None else self._statistics.input_gradient(rows, self._inputs.take(rows.shape[2]))


class ActivationGradient(Stream):
    """Through an activation that follows no normalisation."""

    def __init__(self, name: str, inputs: RowQueue) -> None:
        self._name, self._inputs = name, inputs

    def push(self, rows: Tensor | None, last: bool) -> Tensor | None:
        del last
        if rows is None:
            return None
        inputs = self._inputs.take(rows.shape[2])
        return torch.ops.aten.silu_backward(rows, inputs) if self._name == "silu" else rows * (inputs > 0)


class UpsamplingGradient(Stream):
    """Through nearest x2 and 3x3: one convolution of 4x4 with stride 2."""

    def __init__(self, weight: Tensor, zeros: Zeros = BOTH) -> None:
        full = transposed(wide(weight))
        shifted = [pad(full, (column, 1 - column, row, 1 - row)) for row in (0, 1) for column in (0, 1)]
        self._weight = torch.stack(shifted).sum(0).to(weight.dtype)
        # An output row takes four rows, from the one above its own two to the one below.
        self._windows = OverlappingStrips(multiple=2, zeros=zeros)

    def push(self, rows: Tensor | None, last: bool) -> Tensor | None:
        window = self._windows.push(rows, last)
        return None if window is None else conv2d(window, self._weight, stride=2, padding=(0, 1))


class NearestGradient(Stream):
    """Through nearest x2: sums of blocks of 2x2."""

    def __init__(self) -> None:
        self._kept: Tensor | None = None

    def push(self, rows: Tensor | None, last: bool) -> Tensor | None:
        del last
        if rows is None:
            return None
        window = rows if self._kept is None else torch.cat((self._kept, rows), 2)
        even = window.shape[2] // 2 * 2
        self._kept = window[:, :, even:].clone() if even < window.shape[2] else None
        return window[:, :, :even].unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).sum((3, 5)) if even else None


class RowSum(Stream):
    """The gradient before a residual, or the map behind it: the body's, and the other end's through the shortcut.

    Args:
        others: rows of the gradient behind the residual, or of the map before it.
    """

    def __init__(self, others: RowQueue, shortcut: Convolution | None, back: bool) -> None:
        self._others = others
        self._shortcut: Callable[[Tensor], Tensor] = identity
        if shortcut is not None:
            self._shortcut = _pointwise_gradient(shortcut) if back else pointwise(shortcut)

    def push(self, rows: Tensor | None, last: bool) -> Tensor | None:
        del last
        return None if rows is None else rows + self._shortcut(self._others.take(rows.shape[2]))


def gradient_stream(operation: Operation, statistics: Statistics, inputs: RowQueue, zeros: Zeros = BOTH) -> Stream:
    """The stream from the gradient behind an operation, which is no residual, to that before it.

    Args:
        inputs: rows of the input of a normalisation or activation.
        zeros: whether there are zeros above and below the rows that are pushed.
    """
    if isinstance(operation, Convolution):
        return _convolution_gradient(operation, zeros)
    if isinstance(operation, Normalisation):
        return NormGradient(statistics[operation], inputs)
    if isinstance(operation, Activation):
        return ActivationGradient(operation.name, inputs)
    assert isinstance(operation, Nearest), f"{operation.place} is no stream"
    return NearestGradient()


def transposed(weight: Tensor) -> Tensor:
    """The weight of the convolution that takes the gradient at the output to that at the input."""
    return weight.flip(2, 3).transpose(0, 1).contiguous()


def _convolution_gradient(operation: Convolution, zeros: Zeros) -> Stream:
    if isinstance(operation, UpsamplingConvolution):
        return UpsamplingGradient(operation.weight, zeros)
    if operation.side == 3:
        return RowConvolution(transposed(operation.weight), None, zeros)
    return RowMap(_pointwise_gradient(operation))


def _pointwise_gradient(convolution: Convolution) -> Callable[[Tensor], Tensor]:
    weight = transposed(convolution.weight)
    return lambda rows: conv2d(rows, weight)
