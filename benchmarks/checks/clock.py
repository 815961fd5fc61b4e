"""Does the clock of a round wait for the device, and does nothing within an iteration wait for it?

Three readings of the same iterations: the clock of a round, which starts and ends with an idle device; the device's
own events around iterations that do not wait for each other; and the time in which the host submits them. A clock that
does not wait shows the last one. It is told apart from the others only where the device is slower than the host, so
that the largest of the three images matters most.
"""

import statistics
from collections.abc import Iterator

from benchmarks.checks.base import STEP, Line, Subject, attempted, judged, not_here
from fixtures.formatting import milliseconds
from fixtures.schema import Timing

SIDES_PX = (64, 256, 512)
# Where hidden synchronisations are looked for: a tiled strategy has several tiles.
TRACED_SIDE_PX = 256
_WARM = Timing(0.0, min_warmup_iterations=3, min_warmup_seconds=0.0)
_ROUNDS = 5
_BATCHES = 2
# Clock rates of a device move by some percent from one second to the next. A clock that does not wait shows a small
# part of the device's time, or it waits by accident.
LEAST_SHARE = 0.8
# Above this share of the device's time, submitting an iteration cannot be told apart from it.
CLEARLY_LESS = 0.5


def check(subject: Subject) -> Iterator[Line]:
    """A line for each strategy, then for each size."""
    if subject.device_kind == "cuda":
        for strategy in subject.strategies:
            name = f"no synchronisation in an iteration, {strategy}"
            yield from attempted(name, _without_synchronisation, subject, strategy, name)
    else:
        yield not_here("no synchronisation in an iteration", "torch reports synchronisations on CUDA devices only")
    if subject.device == "cpu":
        yield not_here("wall against device time", "operators of the cpu have ended when they return")
        return
    for side_px in SIDES_PX:
        name = f"wall against device time, {side_px} px"
        yield from attempted(name, _wall_against_device, subject, side_px, name)


def _without_synchronisation(subject: Subject, strategy: str, name: str) -> Iterator[Line]:
    with subject.runner().warm_session(subject.cell(TRACED_SIDE_PX, strategy=strategy), STEP, _WARM) as session:
        places = session.call("synchronizations")
    yield judged(name, not places, f"synchronises at {', '.join(places)}" if places else "none")


def _wall_against_device(subject: Subject, side_px: int, name: str) -> Iterator[Line]:
    with subject.runner().warm_session(subject.cell(side_px), STEP, _WARM) as session:
        measured = session.call("measure", seconds=0.0, min_rounds=_ROUNDS, max_rounds=_ROUNDS)
        batches = [session.call("device_seconds", iterations=_ROUNDS) for _ in range(_BATCHES)]
    if None in batches:
        yield not_here(name, f"{subject.device} has no events with times")
        return
    wall = statistics.median(measured["durations_seconds"])
    # The fastest: what disturbs the host while it submits an iteration makes the device wait.
    device, submitting = (min(batch[key] for batch in batches) for key in ("device_seconds", "submitting_seconds"))
    text = f"{milliseconds(wall)} ms by the clock of a round, {milliseconds(device)} ms by the device's events"
    if submitting > CLEARLY_LESS * device:
        reason = f"{text}; the host takes {milliseconds(submitting)} ms to submit it, so that this says nothing"
        yield not_here(name, reason)
        return
    yield judged(name, wall >= LEAST_SHARE * device, text)
