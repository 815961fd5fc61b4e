"""Which maps are kept in the arena, and what is computed again: the cheapest way for a given amount of memory.

A plan is a sequence of steps from the latents to the image. Each leaves one whole map in the arena, so that the choice
is a shortest path over the points of a chain, among the steps that fit. Two maps of the largest size let every
convolution be computed once; with one map, the convolutions before a residual's second normalisation are computed
twice; with less, a share of the last rows is computed again from a smaller map.
"""

import math
from dataclasses import dataclass

from models.streaming.operations import Attention, Residual, channels_behind, row_before
from models.streaming.work import Extent, passes, pieces_of, portions, writing_work

# An attention's input, keys and values, and the gradients of keys, values and normalised input.
_ATTENTION_GRADIENT_MAPS = 6


@dataclass(frozen=True)
class Step:
    """Leads from the map at point `start` to that at `stop`.

    Attributes:
        numbers: of the arena, that it needs.
        work: multiply-adds of its convolutions.
    """

    start: int
    stop: int
    numbers: int
    work: int


@dataclass(frozen=True)
class Fused(Step):
    """Some operations in passes over the map at `start`: one for each normalisation, and one that writes in place."""


@dataclass(frozen=True)
class Paired(Step):
    """One residual with its inner map beside the shortcut's: each convolution once."""


@dataclass(frozen=True)
class Attended(Step):
    """Attention, in place."""


@dataclass(frozen=True)
class Split(Step):
    """To the image, with the first rows of each map kept in place; other rows are computed again from that at `start`.

    Attributes:
        points: whose maps are kept.
        kept_rows: of each.
        rows: of the map at `start`.
    """

    points: tuple[int, ...]
    kept_rows: int
    rows: int


@dataclass(frozen=True)
class ForwardPlan:
    """Steps to the image.

    Attributes:
        numbers: size of the arena.
        work: multiply-adds of the convolutions.
    """

    steps: tuple[Step, ...]

    @property
    def numbers(self) -> int:
        return max(step.numbers for step in self.steps)

    @property
    def work(self) -> int:
        return sum(step.work for step in self.steps)


def forward_plan(extent: Extent, numbers: float = math.inf) -> ForwardPlan | None:
    """The plan with the least work for an arena of so many numbers; None if none fits."""
    chain = extent.chain
    # Best work, number of steps, and steps to each point.
    best: dict[int, tuple[int, int, tuple[Step, ...]]] = {0: (0, 0, ())}
    for start in range(len(chain.operations)):
        if start not in best:
            continue
        work, _, steps = best[start]
        for step in _steps_from(extent, start, numbers):
            if step.numbers <= numbers:
                reached = (work + step.work, len(steps) + 1, (*steps, step))
                if step.stop not in best or reached[:2] < best[step.stop][:2]:
                    best[step.stop] = reached
    end = len(chain.operations)
    return ForwardPlan(best[end][2]) if end in best else None


def smallest_numbers(extent: Extent) -> int:
    """Size of the smallest arena for which there is a plan."""
    needed = {0: 0}
    for start in range(len(extent.chain.operations)):
        for step in _steps_from(extent, start, 0):
            if start in needed:
                least = max(needed[start], step.numbers)
                needed[step.stop] = min(least, needed.get(step.stop, least))
    return needed[len(extent.chain.operations)]


def attention_gradient_numbers(extent: Extent) -> int:
    """Numbers that the gradient of the largest attention needs in the arena."""
    return max((_ATTENTION_GRADIENT_MAPS * extent.size(stop) for _, stop in portions(extent.chain)[:-1]), default=0)


def _steps_from(extent: Extent, start: int, numbers: float) -> list[Step]:
    chain = extent.chain
    if isinstance(chain.operations[start], Attention):
        # Its input, and the keys and values of all positions.
        return [Attended(start, start + 1, extent.size(start) + 2 * extent.image_size(start), 0)]
    steps: list[Step] = []
    (last,) = (stop for first, stop in portions(chain) if first <= start < stop)
    for stop in range(start + 1, last + 1):
        # Latents and image are not in the arena.
        sizes = [extent.size(point) for point in (start, stop) if 0 < point < len(chain.operations)]
        work = writing_work(chain, start, stop) * extent.positions
        steps.append(Fused(start, stop, max(sizes, default=0), work))
    paired, split = _paired(extent, start), _split(extent, start, numbers)
    return [*steps, *([paired] if paired else []), *([split] if split else [])]


def pair_row(extent: Extent, start: int) -> int:
    """Numbers of a row that has a residual's inner map beside the shortcut's, or its input."""
    operation = extent.chain.operations[start]
    assert isinstance(operation, Residual)
    channels, inner = extent.chain.channels[start], []
    for piece in pieces_of(operation.body)[:-1]:
        for one in piece:
            channels = channels_behind(one, channels)
        inner.append(channels)
    width = extent.chain.scales[start] * extent.width
    return max(extent.row(start), (extent.chain.channels[start + 1] + max(inner)) * width)


def _paired(extent: Extent, start: int) -> Paired | None:
    operation = extent.chain.operations[start]
    if not start or not isinstance(operation, Residual) or len(pieces_of(operation.body)) < 2:
        return None
    numbers = extent.rows(start) * pair_row(extent, start)
    return Paired(start, start + 1, numbers, extent.chain.work[start] * extent.positions)


def _split(extent: Extent, start: int, numbers: float) -> Split | None:
    """The split with the most kept rows that fits; None if no rows can be kept."""
    chain, end = extent.chain, len(extent.chain.operations)
    if not start or portions(chain)[-1][0] > start or start + 2 > end or numbers == math.inf:
        return None
    # A map behind an operation without work is computed from the one before it as fast as it is read.
    inner = [
        point for point in range(start + 1, end) if chain.scales[point] == chain.scales[end] and chain.work[point - 1]
    ]
    row = min((extent.row(point) for point in inner), default=0)
    points = tuple(point for point in inner if extent.row(point) == row)
    if not points or extent.size(start) > numbers:
        return None
    low, high = 0, extent.rows(end)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _split_numbers(extent, start, points, middle) <= numbers else (low, middle - 1)
    if not low:
        return None
    work = _split_work(extent, start, points, low / extent.rows(end))
    return Split(start, end, _split_numbers(extent, start, points, low), work, points, low, extent.rows(start))


def _split_numbers(extent: Extent, start: int, points: tuple[int, ...], kept_rows: int) -> int:
    operations = extent.chain.operations[start : points[-1]]
    rows, row, source = extent.rows(start), extent.row(points[0]), extent.row(start)
    scale = extent.chain.scales[points[0]] // extent.chain.scales[start]
    # The first map is written over the rows of the source that were read: those that follow, and those that are
    # needed later, lie behind it.
    read = [min(rows, 1), min(rows, -(-kept_rows // scale))]
    while_written = [min(kept_rows, scale * one) * row + (rows - one) * source for one in read]
    first = max(0, row_before(operations, kept_rows))
    return max(extent.size(start), kept_rows * row + (rows - min(first, rows)) * source, *while_written)


def _split_work(extent: Extent, start: int, points: tuple[int, ...], share: float) -> int:
    chain, total = extent.chain, float(writing_work(extent.chain, start, points[0]))
    for point, following in zip(points, [*points[1:], len(chain.operations)], strict=True):
        again = sum(chain.work[start:point]) * passes(chain, point, following)
        total += writing_work(chain, point, following) + (1 - share) * again
    return round(total * extent.positions)
