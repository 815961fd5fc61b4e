"""One preallocated piece of memory in which all large maps lie, and how a map is moved within it.

A map is a tensor of shape (1, channels, height, width) whose numbers lie as rows of (width, channels). Rows may be
further apart than they are long, so that two maps can have their rows next to each other. A result overwrites rows of
its source that have been read.
"""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

# A strip of that many positions is large enough for the convolutions to run at their full rate.
STRIP_POSITIONS = 16384


class Arena:
    """Memory for `numbers` numbers."""

    def __init__(self, numbers: int, like: Tensor) -> None:
        self._memory = torch.empty(numbers, dtype=like.dtype, device=like.device)

    def map(self, channels: int, height: int, width: int, row: int = 0, offset: int = 0) -> Tensor:
        """An uninitialised map.

        Args:
            row: numbers from the start of one row to the next; 0 for rows without gaps.
            offset: of its first number.
        """
        row = row or width * channels
        last = offset + (height - 1) * row + width * channels
        assert last <= self._memory.numel(), f"a map ends at {last} of {self._memory.numel()} numbers"
        return self._memory.as_strided((1, channels, height, width), (height * row, 1, row, channels), offset)

    def map_at_end(self, channels: int, height: int, width: int, behind: int = 0) -> Tensor:
        """An uninitialised map without gaps, with so many numbers of the arena behind it."""
        return self.map(channels, height, width, offset=self._memory.numel() - behind - channels * height * width)

    def strips(self, source: Tensor, rows: int, first: int = 0) -> Iterator[tuple[Tensor, bool]]:
        """As the function `strips`, of a map in this arena or elsewhere; copies are where they are computed."""
        return strips(source, rows, first)

    def read(self, part: Tensor) -> Tensor:
        """Rows of a map where they are computed; they must not be changed."""
        return part

    def write(self, rows: Tensor, out: Tensor) -> None:
        """Overwrite rows of a map, or of an image."""
        out.copy_(rows)

    @contextlib.contextmanager
    def resident(self, features: Tensor, positions: int) -> Iterator[tuple[Tensor, Tensor]]:
        """A map at the arena's start where it can be computed and changed as a whole, and two uninitialised matrices of
        shape (positions, channels).
        """
        yield features, self.matrices(2, positions, features.shape[1], offset=features.numel())

    def matrices(self, count: int, positions: int, channels: int, offset: int) -> Tensor:
        """Uninitialised matrices, shape (count, positions, channels)."""
        return self._memory[offset : offset + count * positions * channels].view(count, positions, channels)

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in this arena."""
        return tensor.untyped_storage()._cdata == self._memory.untyped_storage()._cdata

    def moved_to_end(self, source: Tensor) -> Tensor:
        """A map moved to the arena's end, without gaps."""
        _, channels, height, width = source.shape
        return _copied_backwards(source, self.map_at_end(channels, height, width))

    def without_gaps(self, source: Tensor) -> Tensor:
        """A map at the arena's start with its rows moved together."""
        _, channels, height, width = source.shape
        target = self.map(channels, height, width)
        if source.stride(2) > target.stride(2):
            for row in range(height):  # no row ends behind the same row of the source
                target[:, :, row] = source[:, :, row].clone()
        return target

    def spread(self, source: Tensor, row: int) -> Tensor:
        """A map moved to the arena's start, with rows `row` numbers apart, which is more than they are."""
        _, channels, height, width = source.shape
        return _copied_backwards(source, self.map(channels, height, width, row))


def _copied_backwards(source: Tensor, target: Tensor) -> Tensor:
    """The target with the source's numbers; no row of it begins before the same row of the source."""
    height, width = source.shape[2:]
    step = max(1, STRIP_POSITIONS // width)
    for first in reversed(range(0, height, step)):
        target[:, :, first : first + step] = source[:, :, first : first + step].clone()
    return target


def write_rows(strips_of_rows: Iterable[Tensor], out: Tensor) -> None:
    """Overwrite a map with its strips, in order."""
    row = 0
    for strip in strips_of_rows:
        out[:, :, row : row + strip.shape[2]] = strip
        row += strip.shape[2]


def strips(source: Tensor, rows: int, first: int = 0) -> Iterator[tuple[Tensor, bool]]:
    """Copies of strips of so many rows from row `first` on, and whether each is the last."""
    height = source.shape[2]
    for row in range(first, height, rows):
        # A copy: rows of the source are overwritten while streams still use those that they were given.
        yield source[:, :, row : row + rows].clone(), row + rows >= height
