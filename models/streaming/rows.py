"""Forward streams: operations on a map whose rows arrive in strips, in order, each row once.

A stream takes strips of shape (1, channels, rows, width) and returns the rows of its output that are complete by then.
A convolution of 3x3 keeps the two rows that the next strip needs, so that nothing is computed twice. All of a stream's
memory is proportional to the width of the map.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad, relu, silu

from models.streaming.operations import (
    Activation,
    Convolution,
    Nearest,
    Normalisation,
    Operation,
    Residual,
    UpsamplingConvolution,
    norms_of,
    row_before,
)
from models.streaming.statistics import NormStatistics, wide

Statistics = Mapping[Normalisation, NormStatistics]


# Whether there are zeros above and below the rows that streams get, because they are all of an image's.
Zeros = tuple[bool, bool]
BOTH = (True, True)


class Stream(ABC):
    """One operation on rows."""

    @abstractmethod
    def push(self, rows: Tensor | None, last: bool) -> Tensor | None:
        """The next rows of the output; None if none are complete.

        Args:
            rows: the next of the input; None for none.
            last: whether the input ends with them. Called so once, at the end.
        """


class RowQueue:
    """Rows that wait to be used by another stream.

    Args:
        dropped: how many of the first that come are left out.
    """

    def __init__(self, dropped: int = 0) -> None:
        self._strips: deque[Tensor] = deque()
        self._dropped = dropped
        self.rows = 0

    def put(self, rows: Tensor) -> None:
        dropped = min(self._dropped, rows.shape[2])
        self._dropped -= dropped
        if dropped < rows.shape[2]:
            self._strips.append(rows[:, :, dropped:])
            self.rows += rows.shape[2] - dropped

    def take(self, rows: int) -> Tensor:
        """The next rows, in the order in which they came."""
        assert rows <= self.rows, "rows are taken before they arrive"
        self.rows -= rows
        parts = []
        while rows:
            strip = self._strips.popleft()
            if strip.shape[2] > rows:
                self._strips.appendleft(strip[:, :, rows:])
                strip = strip[:, :, :rows]
            parts.append(strip)
            rows -= strip.shape[2]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


class OverlappingStrips:
    """Strips with one further row above and below, zeros beyond the map's ends.

    Args:
        multiple: the number of inner rows of every window is one of it.
        zeros: whether there are zeros above the first and below the last row; else these are no inner rows.
    """

    def __init__(self, multiple: int = 1, zeros: Zeros = BOTH) -> None:
        self._carried: Tensor | None = None
        self._multiple, (self._above, self._below) = multiple, zeros

    def push(self, rows: Tensor | None, last: bool) -> Tensor | None:
        """A window whose inner rows come next; None if there are no inner rows yet."""
        # No tensor without rows among them, with which `cat` would change the layout of all that follow.
        parts = [part for part in (self._carried, rows) if part is not None]
        assert parts, "a map without rows"
        if self._carried is None and self._above:
            parts.insert(0, torch.zeros_like(parts[0][:, :, :1]))
        if last and self._below:
            parts.append(torch.zeros_like(parts[-1][:, :, :1]))
        window = torch.cat(parts, 2) if len(parts) > 1 else parts[0]
        inner = max(0, window.shape[2] - 2) // self._multiple * self._multiple
        # A copy: the window's memory is not kept, and the rows of the source may be overwritten.
        self._carried = window[:, :, inner:].clone()
        return window[:, :, : inner + 2] if inner else None


class Pipeline(Stream):
    """Streams one after the other."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = streams

    def push(self, rows: Tensor | None, last: bool) -> Tensor | None:
        for stream in self._streams:
            if rows is None and not last:
                return None
            rows = stream.push(rows, last)
        return rows

    def passed(self, source: Iterable[tuple[Tensor, bool]]) -> Iterator[Tensor]:
        """What comes out for a whole map, strip by strip.

        Args:
            source: its strips, and whether each is the last.
        """
        for strip, last in source:
            rows = self.push(strip, last)
            if rows is not None:
                yield rows


class RowConvolution(Stream):
    """A convolution of 3x3 with zeros around the map."""

    def __init__(self, weight: Tensor, bias: Tensor | None, zeros: Zeros = BOTH) -> None:
        self._weight, self._bias, self._windows = weight, bias, OverlappingStrips(zeros=zeros)

    def push(self, rows: Tensor | None, last: bool) -> Tensor | None:
        window = self._windows.push(rows, last)
        return None if window is None else conv2d(window, self._weight, self._bias, padding=(0, 1))


class RowUpsampling(Stream):
    """Nearest x2, then 3x3, as a convolution of 2x2 for each of the four positions of a block: 4/9 of the work.

    Of the three taps in one direction two fall onto the same input position, so that their weights add up.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, zeros: Zeros = BOTH) -> None:
        self._out_channels, self._bias, self._windows = weight.shape[0], bias, OverlappingStrips(zeros=zeros)
        full = wide(weight)
        self._phases = [
            (row, column, _fold(_fold(full, 2, row), 3, column).to(weight.dtype)) for row in (0, 1) for column in (0, 1)
        ]

    def push(self, rows: Tensor | None, last: bool) -> Tensor | None:
        window = self._windows.push(rows, last)
        if window is None:
            return None
        height, width = window.shape[2] - 2, window.shape[3]
        window = pad(window, (1, 1))
        out = window.new_empty(1, 2 * height, 2 * width, self._out_channels).permute(0, 3, 1, 2)
        for row, column, weight in self._phases:
            part = window[:, :, row : row + height + 1, column : column + width + 1]
            out[:, :, row::2, column::2] = conv2d(part, weight, self._bias)
        return out


def _fold(weight: Tensor, dim: int, phase: int) -> Tensor:
    """Three taps as the two of an upsampled row's even (0) or odd (1) position."""
    first, middle, last = weight.unbind(dim)
    return torch.stack((first, middle + last) if phase == 0 else (first + middle, last), dim)


class RowMap(Stream):
    """A function of single rows: normalisation, activation, convolution of 1x1, nearest x2."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function

    def push(self, rows: Tensor | None, last: bool) -> Tensor | None:
        del last
        return None if rows is None else self._function(rows)


class RowResidual(Stream):
    """body(x) + shortcut(x).

    Args:
        lost: how many rows of x the body's output starts later.
    """

    def __init__(self, body: Stream, shortcut: Callable[[Tensor], Tensor], lost: int = 0) -> None:
        self._body, self._shortcut, self._waiting = body, shortcut, RowQueue(lost)

    def push(self, rows: Tensor | None, last: bool) -> Tensor | None:
        if rows is not None:
            self._waiting.put(rows)
        out = self._body.push(rows, last)
        return None if out is None else out.add_(self._shortcut(self._waiting.take(out.shape[2])))


class Selection(Stream):
    """So many rows, behind some others that are dropped."""

    def __init__(self, dropped: int, rows: int) -> None:
        self._dropped, self._rows = dropped, rows

    def push(self, rows: Tensor | None, last: bool) -> Tensor | None:
        del last
        if rows is None:
            return None
        dropped = min(self._dropped, rows.shape[2])
        rows = rows[:, :, dropped : dropped + self._rows]
        self._dropped, self._rows = self._dropped - dropped, self._rows - rows.shape[2]
        return rows if rows.shape[2] else None


class Measurement(Stream):
    """Adds the rows to statistics; nothing comes out."""

    def __init__(self, statistics: NormStatistics) -> None:
        self._statistics = statistics

    def push(self, rows: Tensor | None, last: bool) -> Tensor | None:
        del last
        if rows is not None:
            self._statistics.add(rows)
        return None


def streams_of(operations: Iterable[Operation], statistics: Statistics, zeros: Zeros = BOTH) -> list[Stream]:
    """The streams of operations; their normalisations have been measured.

    Args:
        zeros: whether there are zeros above and below the rows that are pushed.
    """
    return [stream_of(operation, statistics, zeros) for operation in operations]


def stream_of(operation: Operation, statistics: Statistics, zeros: Zeros = BOTH) -> Stream:
    """The stream of one operation, as in `streams_of`."""
    if isinstance(operation, Convolution):
        return _convolution(operation, zeros)
    if isinstance(operation, Normalisation):
        return RowMap(statistics[operation].apply)
    if isinstance(operation, Activation):
        return RowMap(activate(operation.name))
    if isinstance(operation, Nearest):
        return RowMap(repeat_positions)
    assert isinstance(operation, Residual), f"{operation.place} is no stream"
    body = Pipeline(streams_of(operation.body, statistics, zeros))
    lost = 0 if zeros[0] else -row_before(operation.body, 0)
    return RowResidual(body, identity if operation.shortcut is None else pointwise(operation.shortcut), lost)


def path_to(operations: Sequence[Operation], target: Operation) -> list[Operation]:
    """The operations that lead to the input of one, which may be inside a residual."""
    before: list[Operation] = []
    for operation in operations:
        if operation is target:
            return before
        if isinstance(operation, Residual) and contains(operation.body, target):
            return [*before, *path_to(operation.body, target)]
        before.append(operation)
    raise AssertionError(f"{target.place} is none of the operations")


def contains(operations: Iterable[Operation], target: Operation) -> bool:
    """Whether an operation is one of these, or inside one of them."""
    return any(one is target or (isinstance(one, Residual) and contains(one.body, target)) for one in operations)


def unmeasured(operations: Sequence[Operation], statistics: Statistics) -> Normalisation | None:
    """The first normalisation without complete statistics."""
    return next((norm for norm in norms_of(operations) if not statistics[norm].finished), None)


def activate(name: str) -> Callable[[Tensor], Tensor]:
    """The activation of that name."""
    return silu if name == "silu" else relu


def pointwise(convolution: Convolution) -> Callable[[Tensor], Tensor]:
    """A convolution of 1x1 as a function."""
    return lambda rows: conv2d(rows, convolution.weight, convolution.bias)


def identity(rows: Tensor) -> Tensor:
    """The rows themselves."""
    return rows


def repeat_positions(rows: Tensor) -> Tensor:
    """Nearest x2."""
    return rows.repeat_interleave(2, 2).repeat_interleave(2, 3)


def _convolution(operation: Convolution, zeros: Zeros) -> Stream:
    if isinstance(operation, UpsamplingConvolution):
        return RowUpsampling(operation.weight, operation.bias, zeros)
    if operation.side == 3:
        return RowConvolution(operation.weight, operation.bias, zeros)
    return RowMap(pointwise(operation))
