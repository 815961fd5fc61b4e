"""Which part of an image each rank computes, and which part it keeps: integers only, no tensors.

An image is cut into bands along its longer side, one for each rank, and each band into tiles. A rank keeps its band's
pixels; its tiles need some of its neighbours', the halo. Only these are ever exchanged:

    rank 0   |..........|--          . own: gradient and optimiser state are kept here
    rank 1          ----|..........|--          - halo: pixels come from their owner, their gradient goes to it
    rank 2                     ----|..........|

All ranks work out the bands of all, so that each knows what the others have and want.

How much the ranks of a group send each other. No torch here: plans need these numbers, too.
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
    """What one rank sends so that all have the sum of a message over all.

    2 (n - 1) / n of the message, in a ring: the least that does without one rank sending more than another (Patarasuk
    & Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations", sections 2 and 3).
    """
    return 2 * (ranks - 1) * message_bytes // ranks


def style_volume_bytes(
    style_channels: Iterable[int], exchanged_pixels: int, ranks: int, history: int = 0, number_bytes: int = 4
) -> int:
    """What one rank sends in an iteration of `models.steps.distributed.sharded`.

    V = R(g) + 3 e h + s R(e), with R(m) = 2 (n - 1) / n m as in `all_reduce_bytes`, and e bytes for a number:
        g = e (1 + sum of C^2): the Gram sums of all style layers, and the content loss, as one message;
        h: pixels of the halo, sent in the forward direction with their values, backward with their gradient;
        s = 2 k + 4: of L-BFGS with k pairs in its history, for two loops of k dot products, the two of the newest
            pair, the slope, and the largest element of the gradient; 0 for Adam.
    The image's gradient is not summed over the ranks: halos are all that two of them have in common.

    Args:
        style_channels: of each style layer.
        exchanged_pixels: of this rank, see `models.steps.tiling.partition.Bands.exchanged_pixels`.
        history: pairs that L-BFGS has; 0 for Adam.
    """
    if ranks == 1:
        return 0
    sums = all_reduce_bytes(number_bytes * (1 + sum(channels**2 for channels in style_channels)), ranks)
    scalars = 2 * history + 4 if history else 0
    return sums + 3 * number_bytes * exchanged_pixels + scalars * all_reduce_bytes(number_bytes, ranks)


# Halvings of the interval that the largest work of a rank is looked for in: far below one row of positions.
_HALVINGS = 30


@dataclass(frozen=True)
class Band:
    """The share of one rank.

    Attributes:
        own: pixels along the cut side that this rank keeps; each pixel is kept by exactly one rank.
        window: these and its halo.
        tiles: what is computed, with positions counted from the window at level 0, from the band's own in the others.
    """

    own: Span
    window: Span
    tiles: tuple[Tile, ...]


class Bands(NamedTuple):
    """An image as cut into the shares of all ranks.

    Attributes:
        axis: along which a tensor of shape (1, channels, height, width) is cut: 2 into bands of rows, 3 of columns.
        across_px: side of the image that is not cut.
        of_ranks: in the order of the ranks; the last may be empty where there are more ranks than positions.
    """

    axis: int
    across_px: int
    of_ranks: tuple[Band, ...]

    def lent(self, lender: int, borrower: int) -> Span:
        """What of the pixels that one rank owns is in the halo of another."""
        bands = self.of_ranks
        return bands[borrower].window.shared(bands[lender].own) if lender != borrower else Span(0, 0)

    def exchanged_pixels(self, rank: int) -> int:
        """How many pixels a rank sends in one iteration: those that it lends, and the gradient of those it borrows."""
        ranks = range(len(self.of_ranks))
        return self.across_px * sum(self.lent(rank, other).length + self.lent(other, rank).length for other in ranks)


def bands_of(
    rows: Sequence[Window],
    columns: Sequence[Window],
    size: tuple[int, int],
    side_px: int,
    ranks: int,
    taps: Collection[int],
    products: Sequence[int],
) -> Bands:
    """Cut an image of that height and width for so many ranks, about the same work each.

    Args:
        rows, columns: a chain of layers, down and across.
        side_px: most of a tile, in both directions.
        taps: the levels at which a loss looks.
        products: multiplications for one position of each layer.
    """
    in_rows = size[0] >= size[1]
    axes = (rows, size[0]), (columns, size[1])
    (along, along_px), (across, across_px) = axes if in_rows else axes[::-1]
    step = alignment(along)
    amounts = [amount * length for amount, length in zip(products, sizes(across, across_px)[1:], strict=True)]

    def strips_of(start: int, stop: int) -> tuple[Strip, ...]:
        return strips_between(along, along_px, even_cuts(start * step, stop * step, side_px, step), taps)

    def work(start: int, stop: int) -> int:
        return sum(
            span.length * amount
            for strip in strips_of(start, stop)
            for span, amount in zip(strip.need[1:], amounts, strict=True)
        )

    strips_across = strips(across, across_px, side_px, taps)
    shares = []
    for start, stop in itertools.pairwise(balanced_cuts(-(-along_px // step), ranks, work)):
        own = Span(start * step, stop * step).within(along_px)
        seen, window = _seen_from_window(strips_of(start, stop), own)
        grid = (seen, strips_across) if in_rows else (strips_across, seen)
        shares.append(Band(own, window, tiles(*grid, taps)))
    return Bands(2 if in_rows else 3, across_px, tuple(shares))


def _seen_from_window(strips: Sequence[Strip], own: Span) -> tuple[tuple[Strip, ...], Span]:
    """A band's strips, and its window: what is own and what any strip needs."""
    if not strips:
        return (), own
    window = own
    for strip in strips:
        window = window.joined(strip.need[0])
    origins = (window.start, *(span.start for span in strips[0].own[1:]))
    return tuple(strip.seen_from(origins) for strip in strips), window


def balanced_cuts(units: int, parts: int, work: Callable[[int, int], float]) -> list[int]:
    """Where to cut `units` into so many consecutive parts that the largest is as little work as can be.

    Parts are filled one after the other up to a bound, the last takes what is left, and the least bound that it keeps
    to is found by halving.

    Args:
        work: of the units from one up to another; more of them are more work. Where they are not, because an edge
            saves a halo, the parts are not quite the best.
    """

    def filled(bound: float) -> list[int]:
        cuts = [0]
        for _ in range(parts - 1):
            start = cuts[-1]
            full = bisect_right(range(start, units + 1), bound, key=lambda stop: work(start, stop))
            cuts.append(start + full - 1)
        return [*cuts, units]

    low, high = 0.0, work(0, units)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if work(*filled(middle)[-2:]) <= middle else (middle, high)
    return filled(high)
