"""Backward streams: from the rows of the gradient at an operation's output to those of the gradient at its input.

They work like the forward streams, in the same order of rows. What the gradient needs of the input itself, the rows of
a normalisation or an activation, comes from queues that a forward stream fills.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from models.streaming.operations import (
    Activation,
    Convolution,
    Nearest,
    Normalisation,
    Operation,
    Residual,
    UpsamplingConvolution,
)
from models.streaming.rows import (
    OverlappingStrips,
    Pipeline,
    RowConvolution,
    RowMap,
    RowQueue,
    RowResidual,
    Statistics,
    Stream,
    contains,
    identity,
)
from models.streaming.statistics import NormStatistics, wide

# For each normalisation and activation, the rows of its input.
Inputs = Mapping[Operation, RowQueue]


class NormGradient(Stream):
    """Through a normalisation and its activation, whose two sums are known."""

    def __init__(self, statistics: NormStatistics, inputs: RowQueue) -> None:
        self._statistics, self._inputs = statistics, inputs

    def push(self, rows: Tensor | None, last: bool) -> Tensor | None:
        del last
        return None if rows is None else self._statistics.input_gradient(rows, self._inputs.take(rows.shape[2]))


class NormGradientSums(Stream):
    """Adds to the two sums of a normalisation; nothing comes out."""

    def __init__(self, statistics: NormStatistics, inputs: RowQueue) -> None:
        self._statistics, self._inputs = statistics, inputs

    def push(self, rows: Tensor | None, last: bool) -> Tensor | None:
        del last
        if rows is not None:
            self._statistics.add_gradient(rows, self._inputs.take(rows.shape[2]))
        return None


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

    def __init__(self, weight: Tensor) -> None:
        full = transposed(wide(weight))
        shifted = [pad(full, (column, 1 - column, row, 1 - row)) for row in (0, 1) for column in (0, 1)]
        self._weight = torch.stack(shifted).sum(0).to(weight.dtype)
        # An output row takes four rows, from the one above its own two to the one below.
        self._windows = OverlappingStrips(multiple=2)

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


def gradient_streams(operations: Sequence[Operation], statistics: Statistics, inputs: Inputs) -> list[Stream]:
    """The streams from the gradient behind the operations to that before them.

    Args:
        inputs: for each normalisation and activation, the rows of its input.
    """
    return [_gradient_of(operation, statistics, inputs) for operation in reversed(operations)]


def gradient_streams_to(
    operations: Sequence[Operation], target: Normalisation, statistics: Statistics, inputs: Inputs
) -> list[Stream]:
    """The streams that measure the two sums of a normalisation, which may be inside a residual."""
    streams: list[Stream] = []
    for operation in reversed(operations):
        if operation is target:
            return [*streams, NormGradientSums(statistics[target], inputs[target])]
        if isinstance(operation, Residual) and contains(operation.body, target):
            return [*streams, *gradient_streams_to(operation.body, target, statistics, inputs)]
        streams.append(_gradient_of(operation, statistics, inputs))
    raise AssertionError(f"{target.place} is none of the operations")


def transposed(weight: Tensor) -> Tensor:
    """The weight of the convolution that takes the gradient at the output to that at the input."""
    return weight.flip(2, 3).transpose(0, 1).contiguous()


def _gradient_of(operation: Operation, statistics: Statistics, inputs: Inputs) -> Stream:
    if isinstance(operation, Convolution):
        return _convolution_gradient(operation)
    if isinstance(operation, Normalisation):
        return NormGradient(statistics[operation], inputs[operation])
    if isinstance(operation, Activation):
        return ActivationGradient(operation.name, inputs[operation])
    if isinstance(operation, Nearest):
        return NearestGradient()
    assert isinstance(operation, Residual), f"{operation.place} is no stream"
    body = Pipeline(gradient_streams(operation.body, statistics, inputs))
    return RowResidual(body, identity if operation.shortcut is None else _pointwise_gradient(operation.shortcut))


def _convolution_gradient(operation: Convolution) -> Stream:
    if isinstance(operation, UpsamplingConvolution):
        return UpsamplingGradient(operation.weight)
    if operation.side == 3:
        return RowConvolution(transposed(operation.weight), None)
    return RowMap(_pointwise_gradient(operation))


def _pointwise_gradient(convolution: Convolution) -> Callable[[Tensor], Tensor]:
    weight = transposed(convolution.weight)
    return lambda rows: conv2d(rows, weight)
