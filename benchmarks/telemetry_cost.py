"""What does telemetry cost? Measures a warm cell in blocks with and without telemetry, in random order.

python -m benchmarks.telemetry_cost --device=cpu --model=nin --resolution=128 --minutes=10

A block is long enough for several readings. Each block counts with the mean of its iterations instead of the fastest
one, because telemetry disturbs some iterations only. The interval is that of `fixtures.comparing.decision`; at most one
run in a hundred misses the true cost.

Exit status: 0 the cost is below --most, 1 it is above, 2 it cannot be measured, 3 inconclusive.
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
        alternated = measured(runner, cell, Watchers(survey["addresses"]), budget_seconds, threshold)
    except (InputError, ValueError, CellFailed, WorkerFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return CANNOT_MEASURE
    finally:
        launcher.close()
    print(summary(alternated))
    return {"slower": ABOVE, "open": INCONCLUSIVE}.get(alternated.interval.side(threshold), BELOW)


def measured(runner: Runner, cell: Cell, watchers: Watchers, budget_seconds: float, threshold: float) -> Alternated:
    """Alternate blocks of a warm cell; the candidate is the side with telemetry.

    Raises:
        CellFailed: the cell failed.
        InputError: the device has no telemetry.
    """
    with runner.warm_session(cell, STEP, Timing(0.0)) as session:

        def block(side: str, block_seconds: float) -> list[float]:
            if side == "baseline":
                durations: list[float] = session.call("measure", seconds=block_seconds, min_rounds=1)[
                    "durations_seconds"
                ]
                return durations
            watch = watchers(cell.device, 1)
            with watch.measuring():
                durations = session.call("measure", seconds=block_seconds, min_rounds=1)["durations_seconds"]
            facts = watch.facts(Measurement(tuple(durations), 0, None, None, None, 0, None), len(durations))
            if not facts or not facts.get("sampled"):
                raise InputError(f"{cell.device} has no telemetry: {facts and facts['unavailable']}")
            return durations

        return alternate(
            block,
            _READINGS_PER_BLOCK * INTERVAL_SECONDS,
            budget_seconds,
            _LEVEL,
            threshold,
            random.Random(),  # noqa: S311 - not for cryptography
            stands_for=statistics.fmean,
        )


def summary(alternated: Alternated) -> str:
    """One sentence: the cost of telemetry in percent of the rate, with its interval."""
    cost, low, high = (
        drop_of(bound) * 100
        for bound in (alternated.interval.estimate, alternated.interval.low, alternated.interval.high)
    )
    return (
        f"telemetry takes {cost:+.3f} % of the rate ({low:+.3f} to {high:+.3f} %), by {len(alternated.values)} pairs"
        f" of blocks in {alternated.spent_seconds:.0f} s"
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
