"""Which maps are kept between the passes of a gradient: the least work for so many places in the arena.

There is one pass for each normalisation, which measures its two sums, and a last one that writes the gradient. A pass
computes activations from a map that is there all the time, and the gradient from the last that was kept. It may keep
any map that passes: what the next passes need of it is not computed again. One map more may be kept in part: its first
rows, as many as fit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

from models.streaming.gradient_graph import Graph, bits, graph_of
from models.streaming.operations import Chain

# What would make the search long, and save little: more places, the inputs of more normalisations that come next, more
# of the last gradients, and more ways that take the least work so far.
MOST_PLACES = 4
_NEXT, _LAST_GRADIENTS, _WAYS = 6, 3, 48


@dataclass(frozen=True)
class Kept:
    """What is kept while the gradient is taken from point `stop` to `source`.

    Attributes:
        whole: for each pass but the last, the maps of `graph_of(chain, source, source, stop)` that are there behind it,
            without those that are there all the time.
        part: for each pass but the last, the map of which the first rows are there; 0 for none.
        work: multiply-adds of the convolutions per position of the latents.
    """

    whole: tuple[frozenset[int], ...]
    part: tuple[int, ...]
    work: float


@dataclass(frozen=True)
class _State:
    """What is there between two passes, and how it was reached.

    Attributes:
        whole, part: sets of bits; `part` has one at most.
        before: the sets `whole` and `part` after each pass.
    """

    whole: int
    part: int
    work: float = 0.0
    before: tuple[tuple[int, int], ...] = ()


@lru_cache(maxsize=4096)
def best_kept(
    chain: Chain, source: int, stop: int, places: int, incoming_is_placed: bool, share: float = 0.0
) -> Kept | None:
    """The maps to keep; None if the known gradient finds no place.

    Args:
        places: of maps with the size of that at `place_point`.
        incoming_is_placed: whether the known gradient takes one of the places, in which it can be overwritten.
        share: of its rows for which a further map has a place.
    """
    if places < incoming_is_placed:
        return None
    graph = graph_of(chain, source, source, stop)
    # The ways that take the least work so far may all have lost the gradient.
    return _best_of(graph, chain, stop, places, incoming_is_placed, share, _WAYS) or _best_of(
        graph, chain, stop, places, incoming_is_placed, share, None
    )


def _best_of(
    graph: Graph, chain: Chain, stop: int, places: int, incoming_is_placed: bool, share: float, ways: int | None
) -> Kept | None:
    """As `best_kept`, with so many ways followed; None if all of them lose the gradient."""
    incoming = 1 << graph.incoming
    always = 1 if incoming_is_placed else 1 | incoming
    states = [_State(incoming if incoming_is_placed else 0, 0)]
    for number, turn in enumerate(graph.turns):
        worthy = _useful(graph, number, place_point(chain, stop), chain)
        best: dict[tuple[int, int], _State] = {}
        passed = sorted(_passed(graph, states, always, (turn.gradient, turn.activation), share), key=_work)
        for state, passing, work in passed[:ways]:
            for whole in _filled(state.whole | passing & worthy, places):
                # A whole map is not cut to a part: it would have to be moved.
                for part in _filled((state.part | passing & worthy) & ~whole, 1 if share else 0):
                    if (whole, part) not in best or work < best[whole, part].work:
                        best[whole, part] = _State(whole, part, work, (*state.before, (whole, part)))
        states = list(best.values())
    ends = sorted(_passed(graph, states, always, (graph.outgoing,), share), key=_work)
    if not ends:
        return None
    state, _, work = ends[0]
    kept = tuple(frozenset(bits(whole)) for whole, _ in state.before)
    return Kept(kept, tuple(part.bit_length() - 1 if part else 0 for _, part in state.before), work)


def place_point(chain: Chain, stop: int) -> int:
    """The point whose map has the size of a place: the last before `stop` if that is the image, which has its own."""
    return stop - 1 if stop == len(chain.operations) else stop


def _passed(
    graph: Graph, states: list[_State], always: int, targets: tuple[int, ...], share: float
) -> Iterator[tuple[_State, int, float]]:
    """The states from which the targets can be computed, each with the maps of which all rows pass, and the work."""
    for state in states:
        needed = graph.needed(state.whole | always, targets)
        if needed >> graph.incoming & 1:
            continue
        with_part = graph.needed(state.whole | state.part | always, targets) if state.part else needed
        work = share * graph.work(with_part) + (1 - share) * graph.work(needed)
        # Of other maps only the rows pass that are not there in part.
        yield state, with_part | needed & state.part, state.work + work


def _work(passed: tuple[_State, int, float]) -> float:
    return passed[2]


def _useful(graph: Graph, number: int, point: int, chain: Chain) -> int:
    """The inputs of the normalisations from turn `number` on, and the last gradients, if they fit into a place."""
    turns = graph.turns[number : number + _NEXT]
    ends = sorted({*graph.gradients, *(turn.gradient for turn in graph.turns)})
    gradients = [node for node in ends if node <= turns[0].gradient and node != graph.incoming][-_LAST_GRADIENTS:]
    shape = chain.channels[point], chain.scales[point]
    fitting = (
        node
        for node in {*(turn.activation for turn in turns), *gradients}
        if node and (graph.nodes[node].channels, graph.nodes[node].scale) == shape
    )
    return sum(1 << node for node in fitting)


@lru_cache(maxsize=65536)
def _filled(maps: int, places: int) -> tuple[int, ...]:
    """All ways to fill so many places; more maps are never worse."""
    there = bits(maps)
    return tuple(sum(1 << node for node in chosen) for chosen in combinations(there, min(places, len(there))))
