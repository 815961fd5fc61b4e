"""One image over ranks: each has a slab (consecutive rows), and gets what it needs of the others.

At every point of a chain a rank has the rows that its rows of the latents have become. A stream over a slab starts with
some rows of the neighbours on both sides. Every convolution of 3x3 loses the outermost of them, until the slab's own
rows are left; zeros are only beyond the image's own ends. Normalisations and attention span all slabs.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from models.errors import InputError
from models.streaming.arena import Arena
from models.streaming.operations import Operation, row_before, scale_of
from models.streaming.statistics import NormStatistics


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of a map that a stream gets or returns, and the slab's own among them; numbers in the whole map.

    Attributes:
        start, stop: rows of the stream.
        own_start, own_stop: rows of the slab.
        height: of the whole map.
    """

    start: int
    stop: int
    own_start: int
    own_stop: int
    height: int

    @property
    def has_top(self) -> bool:
        """Whether the first row is the whole map's, above which are zeros."""
        return self.start == 0

    @property
    def has_bottom(self) -> bool:
        return self.stop == self.height

    def behind(self, operations: Iterable[Operation]) -> "Rows":
        """The rows of the operations' output that follow from these."""
        start, stop = self.start, self.stop
        own_start, own_stop, height = self.own_start, self.own_stop, self.height
        for operation in operations:
            lost, scale = rows_around([operation]), scale_of(operation)
            start, stop = (start + lost if start else 0), (stop if stop == height else stop - lost)
            start, stop, own_start, own_stop, height = (
                scale * row for row in (start, stop, own_start, own_stop, height)
            )
        return Rows(start, stop, own_start, own_stop, height)


@dataclass(frozen=True)
class Slab:
    """The rows of the latents that one rank has.

    Attributes:
        height: of the latents of all ranks.
        highest: rows of the highest slab.
    """

    start: int
    stop: int
    height: int
    highest: int

    @property
    def is_part(self) -> bool:
        """Whether other ranks have slabs too."""
        return self.stop - self.start < self.height

    def rows(self, scale: int, around: int = 0) -> Rows:
        """Rows of a map that is `scale` times as high as the latents, with up to `around` more on both sides."""
        start, stop, height = (scale * row for row in (self.start, self.stop, self.height))
        return Rows(max(0, start - around), min(height, stop + around), start, stop, height)


def even_slabs(height: int, ranks: int) -> list[Slab]:
    """Slabs whose numbers of rows differ by one at most.

    Raises:
        InputError: there are fewer rows than ranks.
    """
    if height < ranks:
        raise InputError(
            f"latents of {height} rows cannot be cut into a slab for each of {ranks} ranks; give at most {height}"
            " ranks, or decode a higher image"
        )
    cuts = [height * rank // ranks for rank in range(ranks + 1)]
    return [Slab(start, stop, height, -(-height // ranks)) for start, stop in pairwise(cuts)]


def rows_around(operations: Sequence[Operation]) -> int:
    """Rows of the input on both sides of a slab that streams need to return all of the slab's own rows."""
    return -row_before(operations, 0)


def read_rows(reader: Rows, owner: Rows) -> tuple[int, int]:
    """The first of a slab's rows that another slab reads, and the row behind the last."""
    start = max(reader.start, owner.own_start)
    return start, max(start, min(reader.stop, owner.own_stop))


class Ranks(ABC):
    """What a pass gets from the other ranks. Every rank makes the same calls in the same order."""

    @abstractmethod
    def slab(self, rows: int) -> Slab:
        """This rank's slab, which has so many rows of the latents."""

    @abstractmethod
    def exchange(self, first: Tensor, last: Tensor, scale: int, rows: int) -> tuple[Tensor, Tensor]:
        """The neighbours' rows above and below the slab, as many as there are up to `rows`.

        Args:
            first, last: of the slab's own rows; as many each, or all if there are less.
            scale: of the map, relative to the latents.
        """

    @abstractmethod
    def merge(self, statistics: NormStatistics) -> None:
        """Make statistics of the slab those of the whole map."""

    @abstractmethod
    def gather(self, tokens: Tensor, scale: int) -> None:
        """Overwrite the other slabs' part of tokens with theirs.

        Args:
            tokens: shape (count, positions, channels), of the positions of the whole map.
            scale: of the map, relative to the latents.
        """

    @abstractmethod
    def least(self, number: int | None) -> int | None:
        """The smallest of all ranks' numbers; None means infinity."""


class OneRank(Ranks):
    """A rank without others, whose slab is the image."""

    def slab(self, rows: int) -> Slab:
        return Slab(0, rows, rows, rows)

    def exchange(self, first: Tensor, last: Tensor, scale: int, rows: int) -> tuple[Tensor, Tensor]:
        del scale, rows
        return first[:, :, :0], last[:, :, :0]

    def merge(self, statistics: NormStatistics) -> None:
        del statistics

    def gather(self, tokens: Tensor, scale: int) -> None:
        del tokens, scale

    def least(self, number: int | None) -> int | None:
        return number


@dataclass(frozen=True)
class Surrounded:
    """A slab of a map, between the rows of its neighbours.

    Attributes:
        above, below: shape (1, channels, rows, width), maybe without rows.
        rows: of all three.
        arena: with the slab.
    """

    above: Tensor
    own: Tensor
    below: Tensor
    rows: Rows
    arena: Arena

    def strips(self, rows: int, first: int = 0) -> Iterator[tuple[Tensor, bool]]:
        """Copies of strips of so many rows, and whether each is the last.

        Args:
            first: row with which they start, relative to `rows.start`.
        """
        above = self.above.shape[2]
        parts = self.above[:, :, first:], self.own[:, :, max(0, first - above) :], self.below
        total = self.rows.stop - self.rows.start - first
        return flagged((strip for part in parts for strip, _ in self.arena.strips(part, rows)), total)


def flagged(parts: Iterable[Tensor], rows: int) -> Iterator[tuple[Tensor, bool]]:
    """Strips of so many rows altogether, and whether each is the last."""
    for strip in parts:
        rows -= strip.shape[2]
        if strip.shape[2]:
            yield strip, rows == 0


class Ends:
    """Copies of the first and the last rows of what passes, at most so many each."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._first: Tensor | None = None
        self._last: Tensor | None = None

    def add(self, strip: Tensor) -> None:
        """The next rows, shape (1, channels, rows, width)."""
        end = strip[:, :, max(0, strip.shape[2] - self._rows) :]
        if self._first is None or self._last is None:
            self._first, self._last = strip[:, :, : self._rows].clone(), end.clone()
            return
        missing = self._rows - self._first.shape[2]
        if missing:
            self._first = torch.cat((self._first, strip[:, :, :missing]), 2)
        last = torch.cat((self._last, end), 2)
        self._last = last[:, :, max(0, last.shape[2] - self._rows) :].clone()

    @property
    def both(self) -> tuple[Tensor, Tensor]:
        assert self._first is not None, "no rows passed"
        assert self._last is not None
        return self._first, self._last


def ends_of(features: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """The first and the last rows of a map, as views."""
    return features[:, :, :rows], features[:, :, max(0, features.shape[2] - rows) :]
