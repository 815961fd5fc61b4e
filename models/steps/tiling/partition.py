"""The partition of an image over ranks, and how many bytes the ranks send. Integers, no tensors and no torch.

The image is cut along its longer side into one range of rows (or columns) per rank, and each range into tiles. A rank
stores the pixels of its range. Its tiles also read pixels of adjacent ranks, the halo, which are all that is exchanged:

    rank 0   |..........|--          . owned: pixels, gradient and optimiser state are stored by this rank
    rank 1          ----|..........|--          - halo: pixels are received from their owner, gradients sent to it
    rank 2                     ----|..........|

Every rank computes the whole partition, so it knows what every other rank sends and receives.
"""

import itertools
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from models.steps.tiling.geometry import (
    Span,
    Strip,
    Tile,
    Window,
    alignment,
    even_cuts,
    sizes,
    strips,
    strips_between,
    tiles,
)


def all_reduce_bytes(message_bytes: int, ranks: int) -> int:
    """Bytes that one rank sends in an all-reduce of a message over `ranks` ranks.

    2 (n - 1) / n of the message, in a ring: the minimum if all ranks send the same amount (Patarasuk & Yuan 2009,
    "Bandwidth optimal all-reduce algorithms for clusters of workstations", sections 2 and 3).
    """
    return 2 * (ranks - 1) * message_bytes // ranks


def style_volume_bytes(
    style_channels: Iterable[int], exchanged_pixels: int, ranks: int, optimizer_sums: int = 0, number_bytes: int = 4
) -> int:
    """Bytes that one rank sends in an iteration of `models.steps.distributed.sharded`.

    V = R(g) + 3 e h + R(8 s), with R(m) = 2 (n - 1) / n m as in `all_reduce_bytes`, and e bytes per number:
        g = e (1 + sum of C^2): one message with the Gram sums of all style layers and the content loss;
        h: pixels that this rank sends, either their values or their gradient;
        s: sums over pixels that the optimiser needs, in one message of float64; none for Adam.
    The image's gradient is not summed over the ranks: two ranks share no pixels but those of halos.

    Args:
        style_channels: number of channels of each style layer.
        exchanged_pixels: of this rank; see `Partition.exchanged_pixels`.
        optimizer_sums: of L-BFGS `models.steps.lbfgs.message_numbers`; 0 for Adam.
        number_bytes: size of one number.
    """
    if ranks == 1:
        return 0
    sums = all_reduce_bytes(number_bytes * (1 + sum(channels**2 for channels in style_channels)), ranks)
    return sums + 3 * number_bytes * exchanged_pixels + all_reduce_bytes(8 * optimizer_sums, ranks)


# Bisection steps of `balanced_cuts`: the remaining interval is far below the work of one row.
_BISECTION_STEPS = 30


@dataclass(frozen=True)
class RankPart:
    """The part of an image that one rank stores and computes.

    Attributes:
        owned: pixels along the cut side that belong to this rank alone.
        local: the owned pixels and their halo.
        tiles: tiles of this rank; positions are relative to `local` at level 0, to the rank's own at other levels.
    """

    owned: Span
    local: Span
    tiles: tuple[Tile, ...]


class Partition(NamedTuple):
    """An image cut into one part per rank.

    Attributes:
        axis: axis of a tensor of shape (1, channels, height, width) that is cut: 2 for rows, 3 for columns.
        uncut_side_px: length of the other side.
        parts: one for each rank, in order; the last are empty if there are too many ranks.
    """

    axis: int
    uncut_side_px: int
    parts: tuple[RankPart, ...]

    def halo_overlap(self, owner: int, reader: int) -> Span:
        """Pixels along the cut side that rank `owner` owns and that are in the halo of rank `reader`; may be empty."""
        if owner == reader:
            return Span(0, 0)
        return self.parts[reader].local.intersection(self.parts[owner].owned)

    def exchanged_pixels(self, rank: int) -> int:
        """Number of pixels that a rank sends per iteration: values to other halos, gradients of its own halo."""
        return self.uncut_side_px * sum(
            self.halo_overlap(rank, other).length + self.halo_overlap(other, rank).length
            for other in range(len(self.parts))
        )


def partition_image(
    rows: Sequence[Window],
    columns: Sequence[Window],
    size: tuple[int, int],
    side_px: int,
    ranks: int,
    loss_levels: Collection[int],
    macs_per_position: Sequence[int],
) -> Partition:
    """Cut an image into parts of about equal work.

    Args:
        rows, columns: kernel geometry of the chain of layers along both axes.
        size: height and width of the image.
        side_px: largest side of a tile.
        loss_levels: the levels at which a loss is computed.
        macs_per_position: multiply-accumulate operations for one position of each layer.
    """
    cuts_rows = size[0] >= size[1]
    axes = (rows, size[0]), (columns, size[1])
    (along, along_px), (across, uncut_side_px) = axes if cuts_rows else axes[::-1]
    step = alignment(along)
    lengths_across = sizes(across, uncut_side_px)[1:]
    macs_per_row = [macs * length for macs, length in zip(macs_per_position, lengths_across, strict=True)]

    def strips_in(start: int, stop: int) -> tuple[Strip, ...]:
        return strips_between(along, along_px, even_cuts(start * step, stop * step, side_px, step), loss_levels)

    def work(start: int, stop: int) -> int:
        return sum(
            span.length * macs
            for strip in strips_in(start, stop)
            for span, macs in zip(strip.computed[1:], macs_per_row, strict=True)
        )

    strips_across = strips(across, uncut_side_px, side_px, loss_levels)
    parts = []
    for start, stop in itertools.pairwise(balanced_cuts(-(-along_px // step), ranks, work)):
        owned = Span(start * step, stop * step).clipped(along_px)
        local_strips, local = _local_strips(strips_in(start, stop), owned)
        grid = (local_strips, strips_across) if cuts_rows else (strips_across, local_strips)
        parts.append(RankPart(owned, local, tiles(*grid, loss_levels)))
    return Partition(2 if cuts_rows else 3, uncut_side_px, tuple(parts))


def _local_strips(strips: Sequence[Strip], owned: Span) -> tuple[tuple[Strip, ...], Span]:
    """A rank's strips, relative to its local pixels, and the span of these: owned pixels and halo."""
    if not strips:
        return (), owned
    local = owned
    for strip in strips:
        local = local.hull(strip.computed[0])
    origins = (local.start, *(span.start for span in strips[0].owned[1:]))
    return tuple(strip.relative_to(origins) for strip in strips), local


def balanced_cuts(units: int, parts: int, work: Callable[[int, int], float]) -> list[int]:
    """Cuts of `units` into consecutive parts that minimise the largest work of a part.

    Parts are filled one after the other up to a bound, and the last part takes the rest. Bisection finds the smallest
    bound that the last part does not exceed.

    Args:
        work: work of units start to stop. The result is optimal if work grows with the number of units; a part at the
            image's border can be an exception, because it has one halo less.
    """

    def filled(bound: float) -> list[int]:
        cuts = [0]
        for _ in range(parts - 1):
            start = cuts[-1]
            full = bisect_right(range(start, units + 1), bound, key=lambda stop: work(start, stop))
            cuts.append(start + full - 1)
        return [*cuts, units]

    low, high = 0.0, work(0, units)
    for _ in range(_BISECTION_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if work(*filled(middle)[-2:]) <= middle else (middle, high)
    return filled(high)
