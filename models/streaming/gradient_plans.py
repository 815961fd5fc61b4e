"""Which maps are computed again, and where the gradient is stored, on the way back from the image to the latents.

A gradient is taken from point to point backwards. Activations come from a map that is computed again from the latents,
or from the output of the attention before, and that lies in the arena beside the gradient. The plan is a shortest path,
as for the forward pass.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass

from models.streaming.kept_maps import MOST_PLACES, Kept, best_kept, place_point
from models.streaming.operations import scale_of
from models.streaming.plans import attention_gradient_numbers
from models.streaming.work import Extent, gradient_work, portions


@dataclass(frozen=True)
class Back:
    """Takes the gradient from point `stop` to `start`, with activations computed from the map at `source`.

    Attributes:
        work: multiply-adds of the convolutions.
        kept: what is kept between its passes, if `start` is `source`; None for nothing but the gradient at `stop`.
        places: in the arena, for whole maps that are kept.
        part_rows: of the map that is kept in part, as many as have a place.
        rows: of a whole one.
    """

    source: int
    start: int
    stop: int
    work: int
    kept: Kept | None = None
    places: int = 0
    part_rows: int = 0
    rows: int = 0


@dataclass(frozen=True)
class Portion:
    """The way back from one attention, or the image, to the point behind the attention before, or to the latents.

    Attributes:
        base: the point at its start, whose map has been kept.
        end: the point whose gradient is known.
        steps: in their order. Where `source` changes, the map at it is computed again from that at `base`.
        numbers: of the arena.
        work: multiply-adds of the convolutions.
    """

    base: int
    end: int
    steps: tuple[Back, ...]
    numbers: int
    work: int


@dataclass(frozen=True)
class GradientPlan:
    """Portions in their order, from the image backwards."""

    portions: tuple[Portion, ...]
    numbers: int

    @property
    def work(self) -> int:
        """Multiply-adds of the convolutions, with those that compute the inputs of attention again."""
        return sum(portion.work for portion in self.portions)


@dataclass(frozen=True)
class _Way:
    """Steps back with their cost."""

    work: int = 0
    numbers: int = 0
    steps: tuple[Back, ...] = ()

    def then(self, step: Back, work: int, numbers: int) -> "_Way":
        return _Way(self.work + work, max(self.numbers, numbers), (*self.steps, step))

    @property
    def cost(self) -> tuple[int, int]:
        return self.work, len(self.steps)


def gradient_plan(extent: Extent, numbers: float = math.inf) -> GradientPlan | None:
    """The plan with the least work for an arena of so many numbers; None if none fits."""
    needed = attention_gradient_numbers(extent)
    if needed > numbers:
        return None
    result = []
    for base, end in reversed(portions(extent.chain)):
        way = _portion(extent, base, end, numbers)
        if way is None:
            return None
        # The input of the attention is computed again.
        again = 0 if end == len(extent.chain.operations) else sum(extent.chain.work[base:end]) * extent.positions
        result.append(Portion(base, end, way.steps, way.numbers, way.work + again))
    return GradientPlan(tuple(result), max(needed, *(portion.numbers for portion in result)))


def smallest_gradient_numbers(extent: Extent) -> int:
    """Size of the smallest arena for which there is a plan."""
    sizes = sorted({extent.size(a) + extent.size(b) for a in range(len(extent.chain.work)) for b in range(a + 1)})
    candidates = sorted({attention_gradient_numbers(extent), *sizes, *map(extent.size, range(len(extent.chain.work)))})
    # More memory never makes a plan impossible.
    return candidates[bisect_left(candidates, True, key=lambda numbers: gradient_plan(extent, numbers) is not None)]


def _portion(extent: Extent, base: int, end: int, numbers: float) -> _Way | None:
    """The best way back through one portion; None if none fits."""
    best = {end: _Way()}
    for stop in range(end, base, -1):
        if stop not in best:
            continue
        for source in range(base, stop):
            for find in (_to_source, _with_kept):
                way = find(extent, (base, end), best[stop], source, stop, numbers)
                if way is not None and (source not in best or way.cost < best[source].cost):
                    best[source] = way
    return best.get(base)


def _to_source(
    extent: Extent, portion: tuple[int, int], before: _Way, source: int, stop: int, numbers: float
) -> _Way | None:
    """The best way back from `stop` to `source`, with the map at `source` in the arena."""
    base, end = portion
    chain = extent.chain
    beside = 0 if source == base else extent.size(source)
    again = 0 if source == base else sum(chain.work[base:source]) * extent.positions
    # The gradient at the end of a portion is not in the arena.
    held = 0 if stop == end else extent.size(stop)
    if beside + held > numbers:
        return None
    reached = {stop: _Way(before.work + again, max(before.numbers, beside + held), before.steps)}
    for later in range(stop, source, -1):
        if later not in reached:
            continue
        gradient = 0 if later == end else extent.size(later)
        for start in range(source, later):
            if start > source and not _fits_in_place(extent, start, later, end):
                continue
            stored = extent.size(start) if later == end and start > source else gradient
            if beside + stored > numbers:
                continue
            work = gradient_work(chain, source, start, later) * extent.positions
            way = reached[later].then(Back(source, start, later, work), work, beside + stored)
            if start not in reached or way.cost < reached[start].cost:
                reached[start] = way
    return reached.get(source)


def _with_kept(
    extent: Extent, portion: tuple[int, int], before: _Way, source: int, stop: int, numbers: float
) -> _Way | None:
    """The best way back through maps of one size, from `stop` to `source`, with as many of them kept as fit."""
    (base, end), chain = portion, extent.chain
    inner = chain.operations[source + 1 : stop]
    ends_of_size = (
        source == base or scale_of(chain.operations[source]) > 1,
        stop == end or scale_of(chain.operations[stop]) > 1,
    )
    if not all(ends_of_size) or any(scale_of(operation) > 1 for operation in inner):
        return None
    point = place_point(chain, stop)
    beside, size, row = 0 if source == base else extent.size(source), extent.size(point), extent.row(point)
    if beside > numbers:
        return None
    places, part_rows = MOST_PLACES, 0
    if numbers - beside < MOST_PLACES * size:
        places = int(numbers - beside) // size
        part_rows = (int(numbers - beside) - places * size) // row
    kept = best_kept(chain, source, stop, places, stop != end, part_rows / extent.rows(point))
    if kept is None:
        return None
    again = 0 if source == base else sum(chain.work[base:source]) * extent.positions
    step = Back(source, source, stop, round(kept.work * extent.positions), kept, places, part_rows, extent.rows(point))
    return before.then(step, again + step.work, beside + places * size + part_rows * row)


def _fits_in_place(extent: Extent, start: int, stop: int, end: int) -> bool:
    """Whether the gradient at `start` can overwrite that at `stop`, or has a place of its own."""
    chain = extent.chain
    same_rows = chain.scales[start] == chain.scales[stop]
    return stop == end or (same_rows and chain.channels[start] <= chain.channels[stop])
