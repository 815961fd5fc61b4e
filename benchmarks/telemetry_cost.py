"""What does watching the device cost? One warm cell, in blocks with telemetry and without, in an order of chance.

python -m benchmarks.telemetry_cost --device=cpu --model=nin --resolution=128 --minutes=10

A block lasts long enough to be read several times. What stands for a side is the mean of its iterations, not the
fastest one: telemetry disturbs some iterations and spares the others. The interval is that of
`fixtures.comparing.decision`, and misses in one of a hundred runs at most.

Exit code: 0 the cost is below --most, 1 it is above, 2 it cannot be measured, 3 neither could be shown.
"""

import argparse
import random
import statistics
import sys
from collections.abc import Sequence

from benchmarks.cli import argument_type, parser_of, run
from fixtures.comparing.calibration import STEP, steady_runner
from fixtures.comparing.decision import drop_of, log_slowdown
from fixtures.comparing.interleaving import Alternated, alternate
from fixtures.parsing import one_of, resolution, seconds, share
from fixtures.runner.cell_runner import Runner
from fixtures.runner.launchers import default_launcher
from fixtures.runner.session import CellFailed
from fixtures.runner.worker_handle import WorkerFailed
from fixtures.schema import Cell, Measurement, Timing
from fixtures.telemetry.sampler import INTERVAL_SECONDS, Watchers
from models import api
from models.errors import InputError

BELOW, ABOVE, CANNOT_MEASURE, OPEN = 0, 1, 2, 3
# How often each bound may miss.
_LEVEL = 0.005
# A block with telemetry is read when it begins, when it ends, and so many times in between.
_READINGS_IN_A_BLOCK = 4
_TIMEOUT_SECONDS = 300.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
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
        done = measured(runner, cell, Watchers(survey["addresses"]), budget_seconds, threshold)
    except (InputError, ValueError, CellFailed, WorkerFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return CANNOT_MEASURE
    finally:
        launcher.close()
    print(said(done))
    return {"slower": ABOVE, "open": OPEN}.get(done.interval.side(threshold), BELOW)


def measured(runner: Runner, cell: Cell, watchers: Watchers, budget_seconds: float, threshold: float) -> Alternated:
    """Alternate blocks of a warm cell; the candidate is the one that is watched.

    Raises:
        CellFailed: the cell failed.
        InputError: the device cannot be watched, so that there is no cost.
    """
    with runner.warm_session(cell, STEP, Timing(0.0)) as session:

        def block(side: str, block_seconds: float) -> list[float]:
            if side == "baseline":
                found: list[float] = session.call("measure", seconds=block_seconds, min_rounds=1)["durations_seconds"]
                return found
            watch = watchers(cell.device, 1)
            with watch.measuring():
                found = session.call("measure", seconds=block_seconds, min_rounds=1)["durations_seconds"]
            told = watch.facts(Measurement(tuple(found), 0, None, None, None, 0, None), len(found))
            if not told or not told.get("sampled"):
                raise InputError(f"{cell.device} cannot be watched: {told and told['unavailable']}")
            return found

        return alternate(
            block,
            _READINGS_IN_A_BLOCK * INTERVAL_SECONDS,
            budget_seconds,
            _LEVEL,
            threshold,
            random.Random(),  # noqa: S311 - a coin, no secret
            stands_for=statistics.fmean,
        )


def said(done: Alternated) -> str:
    """One sentence: what telemetry takes of the rate."""
    cost, low, high = (
        drop_of(bound) * 100 for bound in (done.interval.estimate, done.interval.low, done.interval.high)
    )
    return (
        f"telemetry takes {cost:+.3f} % of the rate ({low:+.3f} to {high:+.3f} %), by {len(done.values)} pairs"
        f" of blocks in {done.spent_seconds:.0f} s"
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
        help="time to decide in; it ends sooner when all is clear (default: 10)",
    )
    add("--most", default="1%", metavar="SHARE", type=argument_type(share), help="cost that is let pass (default: 1%%)")
    return parser


if __name__ == "__main__":
    run(main)
