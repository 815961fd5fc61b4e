"""Which positions of every layer a piece of an image owns, and which it must compute: integers only, no tensors.

Shared by all strategies that compute an image in pieces. A `Span` is a run of positions along one axis, a `Box` a
rectangle of them. A `Window` is what a layer reads along one axis, `Windows` along both: from these follow the size of
a layer's output, the inputs that outputs are computed from, and the outputs that inputs act on (Dumoulin & Visin 2016,
"A guide to convolution arithmetic for deep learning", section 2). Positions are counted from 0; those below 0, and
from the size of a feature map on, are its padding.

Strips and tiles cut a chain of layers one axis at a time: rows and columns never mix, so a tile is a strip of rows
times a strip of columns. Level 0 is the image, level l the output of the l-th layer. Each position of each level is
*owned* by exactly one strip. What a strip *needs* are the positions that it owns where a loss looks, and all that these
depend on: its halo, wider the further down. Three strips over a chain with a pooling layer, `|` what the middle one
owns, `-` its halo:

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
    """Positions from `start` up to, not including, `stop`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of positions."""
        return max(0, self.stop - self.start)

    def within(self, size: int) -> "Span":
        """The part that lies on a map of `size` positions: what is no padding."""
        start = min(max(0, self.start), size)
        return Span(start, max(start, min(self.stop, size)))

    def joined(self, other: "Span") -> "Span":
        """The smallest span that contains both; an empty one adds nothing."""
        if not self.length or not other.length:
            return self if self.length else other
        return Span(min(self.start, other.start), max(self.stop, other.stop))

    def shared(self, other: "Span") -> "Span":
        """The positions of both; may be empty."""
        start = max(self.start, other.start)
        return Span(start, max(start, min(self.stop, other.stop)))

    def seen_from(self, origin: int) -> "Span":
        """The same positions, counted from `origin`."""
        return Span(self.start - origin, self.stop - origin)


class Box(NamedTuple):
    """A rectangle of positions."""

    rows: Span
    columns: Span

    @property
    def empty(self) -> bool:
        """Whether there is no position in it."""
        return not (self.rows.length and self.columns.length)

    @property
    def lengths(self) -> tuple[int, int]:
        """Height and width."""
        return self.rows.length, self.columns.length

    @property
    def slices(self) -> tuple[slice, slice, slice, slice]:
        """The index of the box in a tensor of shape (1, channels, height, width)."""
        return slice(None), slice(None), slice(*self.rows), slice(*self.columns)

    def within(self, size: tuple[int, int]) -> "Box":
        """The part that lies on a map of that height and width."""
        return Box(self.rows.within(size[0]), self.columns.within(size[1]))

    def joined(self, other: "Box") -> "Box":
        """The smallest box that contains both; an empty one adds nothing."""
        if self.empty or other.empty:
            return other if self.empty else self
        return Box(self.rows.joined(other.rows), self.columns.joined(other.columns))

    def seen_from(self, other: "Box") -> "Box":
        """The same positions, counted from the first of `other`."""
        return Box(self.rows.seen_from(other.rows.start), self.columns.seen_from(other.columns.start))


@dataclass(frozen=True)
class Window:
    """What a layer reads along one axis: output o reads `kernel` inputs from o * stride - before on.

    Attributes:
        before, after: padding at the two ends, in positions.
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
        """Size of the output, as torch computes it (aten/src/ATen/native/Pool.h, pooling_output_shape); 0 if none."""
        room = size + self.before + self.after - self.reach
        count = (-(-room // self.stride) if self.ceil_mode else room // self.stride) + 1
        starts_outside = self.ceil_mode and (count - 1) * self.stride >= size + self.before
        return max(0, count - 1 if starts_outside else count)

    def inputs(self, outputs: Span) -> Span:
        """What these outputs read, padding included; the map's ends play no part."""
        start = outputs.start * self.stride - self.before
        return Span(start, start + (outputs.length - 1) * self.stride + self.reach if outputs.length else start)

    def feeds(self, inputs: Span, outputs: int) -> Span:
        """The outputs, out of so many, whose windows reach over any of `inputs`; may be empty."""
        first = -((self.reach - 1 - self.before - inputs.start) // self.stride)
        stop = (inputs.stop - 1 + self.before) // self.stride + 1 if inputs.length else first
        return Span(first, stop).within(outputs)

    def counts(self, outputs: Span, size: int, padding: bool) -> list[int]:
        """For each of the outputs, how many positions its window has on a map of `size`, with or without padding.

        Only for a dilation of 1. What overhangs the padded end never counts.
        """
        first, stop = (-self.before, size + self.after) if padding else (0, size)
        read = (self.inputs(Span(output, output + 1)) for output in range(*outputs))
        return [min(one.stop, stop) - max(one.start, first) for one in read]


class Windows(NamedTuple):
    """What a layer reads along both axes. Sizes are (height, width)."""

    rows: Window = Window()
    columns: Window = Window()

    def outputs(self, size: tuple[int, int]) -> tuple[int, int]:
        """Size of the output, see `Window.outputs`."""
        return self.rows.outputs(size[0]), self.columns.outputs(size[1])

    def inputs(self, outputs: Box) -> Box:
        """What these outputs read, see `Window.inputs`."""
        return Box(self.rows.inputs(outputs.rows), self.columns.inputs(outputs.columns))

    def feeds(self, inputs: Box, size: tuple[int, int]) -> Box:
        """The outputs, of a map of `size`, that read any of `inputs`, see `Window.feeds`."""
        return Box(self.rows.feeds(inputs.rows, size[0]), self.columns.feeds(inputs.columns, size[1]))


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
    count = -(-(stop_px - start_px) // (side_px // step * step))
    return [start_px + cut for cut in even_parts(stop_px - start_px, count, step)]


def even_parts(length: int, count: int, step: int) -> list[int]:
    """The `count` + 1 cuts of `length` positions into nearly equal parts at multiples of `step`.

    The first cut is 0. The last may lie behind the end, and parts may be empty where there are more than steps.
    """
    steps = -(-length // step)
    return [number * steps // max(1, count) * step for number in range(count + 1)]


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

    def owned(self, level: int) -> Box:
        """What the tile owns of a level; may be empty."""
        return Box(self.rows.own[level], self.columns.own[level])


def tiles(rows: Sequence[Strip], columns: Sequence[Strip], taps: Collection[int]) -> tuple[Tile, ...]:
    """Every strip of rows with every strip of columns, but for those that own nothing that a loss looks at."""
    every = (Tile(row, column) for row in rows for column in columns)
    return tuple(tile for tile in every if any(not tile.owned(level).empty for level in taps))
