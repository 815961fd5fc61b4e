"""What does telemetry cost? Measures a warm cell in blocks with and without telemetry, in random order.

python -m benchmarks.telemetry_cost --device=cpu --model=nin --resolution=128 --minutes=10

A block is long enough for several readings. Each block counts with the mean of its iterations instead of the fastest
one, because telemetry disturbs some iterations only. The interval is that of `fixtures.comparing.decision`, each of
whose bounds misses in one of twenty runs at most.

Exit status: 0 the cost is below --most, 1 it is above, 2 it cannot be measured, 3 inconclusive.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.cli import argument_type, parser_of, run
from fixtures.comparing.calibration import STEP, steady_runner
from fixtures.comparing.decision import Evidence, SequentialEvidence, drop_of, log_slowdown
from fixtures.comparing.interleaving import ORDERS, SIDES, log_ratio_of
from fixtures.parsing import one_of, resolution, seconds, share
from fixtures.runner.cell_runner import Runner
from fixtures.runner.launchers import default_launcher
from fixtures.runner.session import CellFailed, Session
from fixtures.runner.worker_handle import WorkerFailed
from fixtures.schema import Cell, Measurement, Timing
from fixtures.telemetry.sampler import INTERVAL_SECONDS, Watchers
from models import api
from models.errors import InputError

BELOW, ABOVE, CANNOT_MEASURE, INCONCLUSIVE = 0, 1, 2, 3
# Probability that each bound of the interval misses the true cost.
_LEVEL = 0.005
# Readings within a block, in addition to those at its start and end.
_READINGS_PER_BLOCK = 4
_TIMEOUT_SECONDS = 300.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status, see the module's docstring."""
    options = _parser().parse_args(arguments)
    launcher = default_launcher()
    try:
        with launcher.worker() as worker:
            survey = worker.call("survey", timeout_seconds=_TIMEOUT_SECONDS)
        one_of("device", survey["devices"])(options.device)
        budget_seconds, threshold = 60 * options.minutes, log_slowdown(options.most)
        runner = steady_runner(launcher, _TIMEOUT_SECONDS + 2 * budget_seconds)
        size = options.resolution
        cell = Cell("telemetry_cost", options.device, options.model, size.text, size.width, size.height)
        cost = measured(runner, cell, Watchers(survey["addresses"]), budget_seconds, threshold)
    except (InputError, ValueError, CellFailed, WorkerFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return CANNOT_MEASURE
    finally:
        launcher.close()
    print(summary(cost))
    return {"slower": ABOVE, "open": INCONCLUSIVE}.get(cost.evidence.side(threshold), BELOW)


@dataclass(frozen=True)
class Cost:
    """What telemetry costs, as a log ratio of times, by so many pairs of blocks in that time."""

    evidence: Evidence
    pairs: int
    spent_seconds: float


def measured(runner: Runner, cell: Cell, watchers: Watchers, budget_seconds: float, threshold: float) -> Cost:
    """Alternate blocks of a warm cell; the candidate is the side with telemetry.

    Raises:
        CellFailed: the cell failed.
        InputError: the device has no telemetry.
    """
    chance, looks = random.Random(), SequentialEvidence(_LEVEL)  # noqa: S311 - a coin, no secret
    values: list[float] = []
    with runner.warm_session(cell, STEP, Timing(0.0)) as session:
        start = time.monotonic()
        while True:
            blocks: dict[str, list[Sequence[float]]] = {side: [] for side in SIDES}
            for side in chance.choice(ORDERS):
                blocks[side].append(_block(session, cell, watchers if side == "candidate" else None))
            # One process serves both sides, so that pairs of blocks are independent of each other.
            values.append(log_ratio_of([blocks[side] for side in SIDES], stands_for=statistics.fmean))
            spent = time.monotonic() - start
            evidence = looks.look(values, spent / budget_seconds)
            if evidence is not None and (spent >= budget_seconds or evidence.settled(threshold)):
                return Cost(evidence, len(values), spent)


def _block(session: Session, cell: Cell, watchers: Watchers | None) -> Sequence[float]:
    seconds = _READINGS_PER_BLOCK * INTERVAL_SECONDS
    if watchers is None:
        durations: list[float] = session.call("measure", seconds=seconds, min_rounds=1)["durations_seconds"]
        return durations
    watch = watchers(cell.device, 1)
    with watch.measuring():
        durations = session.call("measure", seconds=seconds, min_rounds=1)["durations_seconds"]
    facts = watch.facts(Measurement(tuple(durations), 0, None, None, None, 0, None), len(durations))
    if not facts or not facts.get("sampled"):
        raise InputError(f"{cell.device} has no telemetry: {facts and facts['unavailable']}")
    return durations


def summary(cost: Cost) -> str:
    """What telemetry takes of the rate."""
    size = cost.evidence.size
    share, low, high = (drop_of(bound) * 100 for bound in (size.estimate, size.low, size.high))
    return (
        f"telemetry takes {share:+.3f} % of the rate ({low:+.3f} to {high:+.3f} %), by {cost.pairs} pairs"
        f" of blocks in {cost.spent_seconds:.0f} s"
    )


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("python -m benchmarks.telemetry_cost", __doc__)
    add = parser.add_argument
    add("--device", default="cpu", help="(default: cpu)")
    add("--model", default="nin", type=argument_type(one_of("model", api.STYLE_NETWORKS)), help="(default: nin)")
    add(
        "--resolution",
        default="128",
        type=argument_type(resolution),
        help="a side or WIDTHxHEIGHT in pixels (default: 128)",
    )
    add(
        "--minutes",
        default="10",
        metavar="M",
        type=argument_type(seconds),
        help="time limit; ends earlier when the result is clear (default: 10)",
    )
    add(
        "--most",
        default="1%",
        metavar="SHARE",
        type=argument_type(share),
        help="largest acceptable cost (default: 1%%)",
    )
    return parser


if __name__ == "__main__":
    run(main)
