"""Index arithmetic of tiles: which positions of each layer a tile owns and which it computes. Integers, no tensors.

Shared by all strategies that compute an image tile by tile. A `Span` is a range of positions along one axis, a `Box` a
rectangle of positions. A `Window` is the kernel geometry of a layer along one axis, `Windows` along both axes. Windows
give the size of a layer's output, the inputs that an output reads, and the outputs that depend on an input (Dumoulin &
Visin 2016, "A guide to convolution arithmetic for deep learning", section 2). Positions are counted from 0. Positions
below 0, or from the size of a feature map on, are padding.

Rows and columns are independent: a tile is a strip of rows times a strip of columns. Level 0 is the image, level l is
the output of layer l. Each position of each level is *owned* by exactly one strip. A strip *computes* the positions
that it owns at the levels of the losses, and all positions that these depend on. The difference is the halo, which is
widest at the image. Three strips over two layers; `|` bounds what the middle strip owns, `-` is its halo:

    level 2   . . . .|. . . .|. . . .         output of a 3x3 convolution, with a loss
    level 1   . . - -|. . . .|- - . .         output of a 2x2 pooling layer
    level 0   ...-----|........|-----...      image

A strip at the image's border reads the padding of that border. No other strip is padded.
"""

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from models.errors import InputError


class Span(NamedTuple):
    """The positions from `start` to `stop`, excluding `stop`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of positions."""
        return max(0, self.stop - self.start)

    def clipped(self, size: int) -> "Span":
        """The part on a map of `size` positions, without padding."""
        start = min(max(0, self.start), size)
        return Span(start, max(start, min(self.stop, size)))

    def hull(self, other: "Span") -> "Span":
        """The smallest span that contains both; an empty span adds nothing."""
        if not self.length or not other.length:
            return self if self.length else other
        return Span(min(self.start, other.start), max(self.stop, other.stop))

    def intersection(self, other: "Span") -> "Span":
        """The common positions; may be empty."""
        start = max(self.start, other.start)
        return Span(start, max(start, min(self.stop, other.stop)))

    def relative_to(self, origin: int) -> "Span":
        """The same positions, relative to `origin`."""
        return Span(self.start - origin, self.stop - origin)


class Box(NamedTuple):
    """A rectangle of positions."""

    rows: Span
    columns: Span

    @property
    def empty(self) -> bool:
        """Whether the box contains no position."""
        return not (self.rows.length and self.columns.length)

    @property
    def lengths(self) -> tuple[int, int]:
        """Height and width."""
        return self.rows.length, self.columns.length

    @property
    def slices(self) -> tuple[slice, slice, slice, slice]:
        """The index of the box in a tensor of shape (1, channels, height, width)."""
        return slice(None), slice(None), slice(*self.rows), slice(*self.columns)

    def clipped(self, size: tuple[int, int]) -> "Box":
        """The part on a map of size (height, width), without padding."""
        return Box(self.rows.clipped(size[0]), self.columns.clipped(size[1]))

    def hull(self, other: "Box") -> "Box":
        """The smallest box that contains both; an empty box adds nothing."""
        if self.empty or other.empty:
            return other if self.empty else self
        return Box(self.rows.hull(other.rows), self.columns.hull(other.columns))

    def relative_to(self, other: "Box") -> "Box":
        """The same positions, relative to the first position of `other`."""
        return Box(self.rows.relative_to(other.rows.start), self.columns.relative_to(other.columns.start))


@dataclass(frozen=True)
class Window:
    """Kernel geometry of a layer along one axis: output o reads `kernel` inputs, the first at o * stride - before.

    Attributes:
        before, after: padding at the two ends, in positions.
        dilation: distance between the inputs of one output.
        ceil_mode: as in torch's pooling layers: the last window may extend beyond the padded end.
    """

    kernel: int = 1
    stride: int = 1
    before: int = 0
    after: int = 0
    dilation: int = 1
    ceil_mode: bool = False

    @property
    def reach(self) -> int:
        """Extent of one window, in positions of the input."""
        return self.dilation * (self.kernel - 1) + 1

    def outputs(self, size: int) -> int:
        """Size of the output, computed as in torch (aten/src/ATen/native/Pool.h, pooling_output_shape); may be 0."""
        room = size + self.before + self.after - self.reach
        count = (-(-room // self.stride) if self.ceil_mode else room // self.stride) + 1
        starts_outside = self.ceil_mode and (count - 1) * self.stride >= size + self.before
        return max(0, count - 1 if starts_outside else count)

    def inputs(self, outputs: Span) -> Span:
        """The inputs that these outputs read, including padding; not clipped to the map."""
        start = outputs.start * self.stride - self.before
        return Span(start, start + (outputs.length - 1) * self.stride + self.reach if outputs.length else start)

    def dependents(self, inputs: Span, outputs: int) -> Span:
        """The outputs, of a map of `outputs` positions, whose windows overlap `inputs`; may be empty."""
        first = -((self.reach - 1 - self.before - inputs.start) // self.stride)
        stop = (inputs.stop - 1 + self.before) // self.stride + 1 if inputs.length else first
        return Span(first, stop).clipped(outputs)


class Windows(NamedTuple):
    """Kernel geometry of a layer along both axes. Sizes are (height, width)."""

    rows: Window = Window()
    columns: Window = Window()

    def outputs(self, size: tuple[int, int]) -> tuple[int, int]:
        """Size of the output; see `Window.outputs`."""
        return self.rows.outputs(size[0]), self.columns.outputs(size[1])

    def inputs(self, outputs: Box) -> Box:
        """The inputs that these outputs read; see `Window.inputs`."""
        return Box(self.rows.inputs(outputs.rows), self.columns.inputs(outputs.columns))

    def dependents(self, inputs: Box, size: tuple[int, int]) -> Box:
        """The outputs, on a map of `size`, that depend on `inputs`; see `Window.dependents`."""
        return Box(self.rows.dependents(inputs.rows, size[0]), self.columns.dependents(inputs.columns, size[1]))


def sizes(chain: Sequence[Window], size_px: int) -> tuple[int, ...]:
    """Size of every level, in positions.

    Raises:
        InputError: a level is empty.
    """
    levels = [size_px]
    for window in chain:
        levels.append(window.outputs(levels[-1]))
    if min(levels) < 1:
        raise InputError(f"the network shrinks {size_px} px to nothing; give a larger image")
    return tuple(levels)


def strides(chain: Sequence[Window]) -> tuple[int, ...]:
    """Distance in pixels between adjacent positions of every level."""
    return tuple(math.prod(window.stride for window in chain[:level]) for level in range(len(chain) + 1))


def alignment(chain: Sequence[Window]) -> int:
    """Strips start at multiples of this many pixels, which are multiples of the stride of every level."""
    return strides(chain)[-1]


def receptive_field(chain: Sequence[Window], outputs: Span) -> Span:
    """The pixels that these positions of the last level depend on, including padding."""
    for window in reversed(chain):
        outputs = window.inputs(outputs)
    return outputs


def halo(chain: Sequence[Window], loss_levels: Collection[int]) -> tuple[int, int]:
    """Width in pixels of the halo of an inner strip, before and after the pixels that it owns."""
    side = alignment(chain)
    computed = Span(0, side)
    for level, stride in enumerate(strides(chain)):
        if level in loss_levels:
            computed = computed.hull(receptive_field(chain[:level], Span(0, side // stride)))
    return -computed.start, computed.stop - side


@dataclass(frozen=True)
class Strip:
    """The positions of one strip, level by level.

    Attributes:
        owned: positions that belong to this strip alone.
        computed: positions that the strip computes; empty above the last loss level at which it owns any.
        reads: for each layer the positions of its input level that it reads; those outside of the level are padding.
        padding: for each layer the number of padding positions that it reads before and after its input level.
    """

    owned: tuple[Span, ...]
    computed: tuple[Span, ...]
    reads: tuple[Span, ...]
    padding: tuple[tuple[int, int], ...]

    @property
    def depth(self) -> int:
        """The last level that is computed."""
        return max((level for level, span in enumerate(self.computed) if span.length), default=0)

    def relative_to(self, origins: Sequence[int]) -> "Strip":
        """The same strip, with the positions of each level relative to the level's origin."""
        owned, computed, reads = (
            # There is one layer less than there are levels.
            tuple(span.relative_to(origin) for span, origin in zip(spans, origins, strict=False))
            for spans in (self.owned, self.computed, self.reads)
        )
        return Strip(owned, computed, reads, self.padding)


def strips(chain: Sequence[Window], size_px: int, side_px: int, loss_levels: Collection[int]) -> tuple[Strip, ...]:
    """Cut `size_px` pixels into strips of at most `side_px` pixels, as equal as the alignment allows.

    Args:
        side_px: rounded down to a multiple of `alignment(chain)`.
        loss_levels: the levels at which a loss is computed.

    Raises:
        InputError: the side is below the alignment, or the image is too small for the layers.
    """
    step = alignment(chain)
    if side_px < step:
        raise InputError(f"a tile of {side_px} px is too small; the smallest that this network allows is {step} px")
    return strips_between(chain, size_px, even_cuts(0, size_px, side_px, step), loss_levels)


def even_cuts(start_px: int, stop_px: int, side_px: int, step: int) -> list[int]:
    """The cuts of `start_px` to `stop_px` into pieces of at most `side_px`, as equal as multiples of `step` allow.

    The last cut may lie beyond `stop_px`.
    """
    count = -(-(stop_px - start_px) // (side_px // step * step))
    return [start_px + cut for cut in even_parts(stop_px - start_px, count, step)]


def even_parts(length: int, count: int, step: int) -> list[int]:
    """The `count` + 1 cuts of `length` positions into nearly equal parts at multiples of `step`.

    The first cut is 0. The last may lie beyond `length`. Parts are empty where `count` exceeds the number of steps.
    """
    steps = -(-length // step)
    return [number * steps // max(1, count) * step for number in range(count + 1)]


def strips_between(
    chain: Sequence[Window], size_px: int, cuts: Sequence[int], loss_levels: Collection[int]
) -> tuple[Strip, ...]:
    """The strips of `size_px` pixels between consecutive cuts, which are multiples of the alignment."""
    levels = sizes(chain, size_px)
    return tuple(_strip(chain, levels, Span(start, stop), loss_levels) for start, stop in itertools.pairwise(cuts))


def _strip(chain: Sequence[Window], levels: Sequence[int], pixels: Span, loss_levels: Collection[int]) -> Strip:
    last = pixels.stop >= levels[0]
    owned = tuple(
        # Padding can make a level larger than size_px // stride: the last strip owns the remainder.
        Span(pixels.start // stride, size if last else pixels.stop // stride).clipped(size)
        for size, stride in zip(levels, strides(chain), strict=True)
    )
    computed = [Span(0, 0)] * len(levels)
    reads = [Span(0, 0)] * len(chain)
    for level in reversed(range(len(levels))):
        if level in loss_levels:
            computed[level] = owned[level]
        if level < len(chain) and computed[level + 1].length:
            window, size = chain[level], levels[level]
            read = window.inputs(computed[level + 1])
            # Pooling layers clip a window that extends beyond the padded end themselves.
            reads[level] = Span(read.start, min(read.stop, size + window.after))
            computed[level] = computed[level].hull(read.clipped(size))
    padding = tuple(
        (max(0, -read.start), max(0, read.stop - size)) for read, size in zip(reads, levels[:-1], strict=True)
    )
    return Strip(owned, tuple(computed), tuple(reads), padding)


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
        """Number of pixels of the image that the tile reads, including its halo."""
        return self.rows.computed[0].length * self.columns.computed[0].length

    def owned(self, level: int) -> Box:
        """The positions of a level that the tile owns; may be empty."""
        return Box(self.rows.owned[level], self.columns.owned[level])


def tiles(rows: Sequence[Strip], columns: Sequence[Strip], loss_levels: Collection[int]) -> tuple[Tile, ...]:
    """Every strip of rows with every strip of columns, without tiles that own no position of a loss level."""
    every = (Tile(row, column) for row in rows for column in columns)
    return tuple(tile for tile in every if any(not tile.owned(level).empty for level in loss_levels))
