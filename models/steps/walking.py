"""How a pass goes through its tiles. They are independent: any order will do, and any share of them.

A prediction walks the one that takes the most memory; see `fixtures.planning.prediction`.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar

from models.steps.geometry import Tile

Walk = Callable[[Sequence[Tile]], Iterable[Tile]]

_WALK: ContextVar[Walk] = ContextVar("walk", default=iter)


def walk(tiles: Sequence[Tile]) -> Iterable[Tile]:
    """The tiles that are really computed: all of them, unless `walking` says otherwise."""
    return _WALK.get()(tiles)


@contextlib.contextmanager
def walking(how: Walk) -> Iterator[None]:
    """Let every pass inside go through its tiles as `how` says. What it leaves out is missing in the results."""
    before = _WALK.set(how)
    try:
        yield
    finally:
        _WALK.reset(before)
