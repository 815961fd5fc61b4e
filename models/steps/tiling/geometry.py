"""Which part of every layer a tile owns, and which part it must compute: integers only, no tensors.

One axis at a time: rows and columns never mix, so a tile is a strip of rows times a strip of columns. Level 0 is the
image, level l what the l-th layer makes of it. Each position of each level is *owned* by exactly one strip. What a
strip *needs* are the positions that it owns where a loss looks, and all that these depend on: its halo, wider the
further down. Three strips over a chain with a pooling layer, `|` what the middle one owns, `-` its halo:

    level 2   . . . .|. . . .|. . . .         a loss looks here
    level 1   . . - -|. . . .|- - . .         3x3 convolution
    level 0   ...-----|........|-----...      2x2 pooling, and another convolution below it

A strip that reaches the image's border reads the padding of that border; nowhere else is anything padded.
"""

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from models.errors import InputError


class Span(NamedTuple):
    """Positions from `start` up to `stop`, which is not among them. Below 0 and from a level's size on is padding."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return max(0, self.stop - self.start)

    def within(self, size: int) -> "Span":
        """The part that is no padding."""
        start = min(max(0, self.start), size)
        return Span(start, max(start, min(self.stop, size)))

    def joined(self, other: "Span") -> "Span":
        """The smallest span with both in it; an empty one adds nothing."""
        if not self.length or not other.length:
            return self if self.length else other
        return Span(min(self.start, other.start), max(self.stop, other.stop))

    def shared(self, other: "Span") -> "Span":
        """What both have; empty if that is nothing."""
        start = max(self.start, other.start)
        return Span(start, max(start, min(self.stop, other.stop)))

    def seen_from(self, origin: int) -> "Span":
        """The same positions, counted from `origin`."""
        return Span(self.start - origin, self.stop - origin)


@dataclass(frozen=True)
class Window:
    """What a layer does along one axis: output o reads `kernel` inputs from o * stride - before on.

    Attributes:
        before, after: padding at the two ends.
        dilation: distance of the inputs that are read.
        ceil_mode: a last window that overhangs the padded end counts, if it starts before it.
    """

    kernel: int = 1
    stride: int = 1
    before: int = 0
    after: int = 0
    dilation: int = 1
    ceil_mode: bool = False

    @property
    def reach(self) -> int:
        """Inputs from the first to the last that an output reads."""
        return self.dilation * (self.kernel - 1) + 1

    def outputs(self, size: int) -> int:
        """Size of the next level, as torch computes it (aten/src/ATen/native/Pool.h, pooling_output_shape)."""
        room = size + self.before + self.after - self.reach
        count = (-(-room // self.stride) if self.ceil_mode else room // self.stride) + 1
        starts_outside = self.ceil_mode and (count - 1) * self.stride >= size + self.before
        return max(0, count - 1 if starts_outside else count)

    def inputs(self, outputs: Span) -> Span:
        """What these outputs read, as if there were neither an end nor a beginning."""
        start = outputs.start * self.stride - self.before
        return Span(start, start + (outputs.length - 1) * self.stride + self.reach if outputs.length else start)


def sizes(chain: Sequence[Window], size_px: int) -> tuple[int, ...]:
    """Size of every level.

    Raises:
        InputError: a level would be empty.
    """
    levels = [size_px]
    for window in chain:
        levels.append(window.outputs(levels[-1]))
    if min(levels) < 1:
        raise InputError(f"the network shrinks {size_px} px to nothing; give a larger image")
    return tuple(levels)


def strides(chain: Sequence[Window]) -> tuple[int, ...]:
    """How many pixels two neighbours of every level are apart."""
    return tuple(math.prod(window.stride for window in chain[:level]) for level in range(len(chain) + 1))


def alignment(chain: Sequence[Window]) -> int:
    """Strips begin at multiples of this many pixels, so that they begin at a position of every level."""
    return strides(chain)[-1]


def field(chain: Sequence[Window], outputs: Span) -> Span:
    """Pixels that these positions of the last level depend on, padding included: their receptive field."""
    for window in reversed(chain):
        outputs = window.inputs(outputs)
    return outputs


def halo(chain: Sequence[Window], taps: Collection[int]) -> tuple[int, int]:
    """Pixels that a strip within the image needs before and behind those that it owns."""
    side = alignment(chain)
    needed = Span(0, side)
    for level, stride in enumerate(strides(chain)):
        if level in taps:
            needed = needed.joined(field(chain[:level], Span(0, side // stride)))
    return -needed.start, needed.stop - side


@dataclass(frozen=True)
class Strip:
    """One strip, level by level.

    Attributes:
        own: what no other strip owns.
        need: what is computed; empty above the last level where the strip owns something that a loss looks at.
        reads: for each layer what it reads of its input level; what lies outside of that level is padding.
        padding: for each layer the padded positions it reads before and behind its input level.
    """

    own: tuple[Span, ...]
    need: tuple[Span, ...]
    reads: tuple[Span, ...]
    padding: tuple[tuple[int, int], ...]

    @property
    def depth(self) -> int:
        """The last level that is computed."""
        return max((level for level, span in enumerate(self.need) if span.length), default=0)

    def seen_from(self, origins: Sequence[int]) -> "Strip":
        """The same strip with the positions of each level counted from an origin of its own."""
        own, need, reads = (
            # What a layer reads is of the level below it: there is one less.
            tuple(span.seen_from(origin) for span, origin in zip(spans, origins, strict=False))
            for spans in (self.own, self.need, self.reads)
        )
        return Strip(own, need, reads, self.padding)


def strips(chain: Sequence[Window], size_px: int, side_px: int, taps: Collection[int]) -> tuple[Strip, ...]:
    """Cut `size_px` into strips of at most `side_px`, as equal as alignment allows.

    Args:
        side_px: at least `alignment(chain)`; what it is more than a multiple of that is not used.
        taps: the levels at which a loss looks.

    Raises:
        InputError: the side is too small, or the image.
    """
    step = alignment(chain)
    if side_px < step:
        raise InputError(f"a tile of {side_px} px is too small; the smallest that this network allows is {step} px")
    return strips_between(chain, size_px, even_cuts(0, size_px, side_px, step), taps)


def even_cuts(start_px: int, stop_px: int, side_px: int, step: int) -> list[int]:
    """Where to cut from `start_px` to `stop_px` so that pieces are as equal as multiples of `step` allow, and none is
    longer than `side_px`; the last cut may lie behind the end.
    """
    units = -(-(stop_px - start_px) // step)
    count = -(-units // (side_px // step))
    return [start_px + number * units // max(1, count) * step for number in range(count + 1)]


def strips_between(
    chain: Sequence[Window], size_px: int, cuts: Sequence[int], taps: Collection[int]
) -> tuple[Strip, ...]:
    """The strips of `size_px` that lie between neighbouring cuts, which are multiples of the alignment."""
    levels = sizes(chain, size_px)
    return tuple(_strip(chain, levels, Span(start, stop), taps) for start, stop in itertools.pairwise(cuts))


def _strip(chain: Sequence[Window], levels: Sequence[int], pixels: Span, taps: Collection[int]) -> Strip:
    last = pixels.stop >= levels[0]
    own = tuple(
        # Padding can make a level longer than the image is in its units: the last strip owns what is left.
        Span(pixels.start // stride, size if last else pixels.stop // stride).within(size)
        for size, stride in zip(levels, strides(chain), strict=True)
    )
    need = [Span(0, 0)] * len(levels)
    reads = [Span(0, 0)] * len(chain)
    for level in reversed(range(len(levels))):
        if level in taps:
            need[level] = own[level]
        if level < len(chain) and need[level + 1].length:
            window, size = chain[level], levels[level]
            read = window.inputs(need[level + 1])
            # What overhangs the padded end is clipped by the pooling layer itself.
            reads[level] = Span(read.start, min(read.stop, size + window.after))
            need[level] = need[level].joined(read.within(size))
    padding = tuple(
        (max(0, -read.start), max(0, read.stop - size)) for read, size in zip(reads, levels[:-1], strict=True)
    )
    return Strip(own, tuple(need), tuple(reads), padding)


class Owned(NamedTuple):
    """The rectangle of a level that a tile owns."""

    rows: Span
    columns: Span


@dataclass(frozen=True)
class Tile:
    """A strip of rows times a strip of columns."""

    rows: Strip
    columns: Strip

    @property
    def depth(self) -> int:
        """The last level that is computed."""
        return min(self.rows.depth, self.columns.depth)

    @property
    def pixels(self) -> int:
        """How many pixels of the image it needs."""
        return self.rows.need[0].length * self.columns.need[0].length

    def owned(self, level: int) -> Owned | None:
        """What the tile owns of a level; None if that is nothing."""
        owned = Owned(self.rows.own[level], self.columns.own[level])
        return owned if owned.rows.length and owned.columns.length else None


def tiles(rows: Sequence[Strip], columns: Sequence[Strip], taps: Collection[int]) -> tuple[Tile, ...]:
    """Every strip of rows with every strip of columns, but for those that own nothing that a loss looks at."""
    every = (Tile(row, column) for row in rows for column in columns)
    return tuple(tile for tile in every if any(tile.owned(level) for level in taps))
