"""How far can the gate be trusted on this machine? Measure it before anyone does.

python -m benchmarks.calibrate --model=nin --resolution=128 --minutes=60

Compares a cell with itself, to the end of the budget and with new fork servers for each trial, and prints what the
gate's rule makes of it: how often it would cry wolf in a run of --cells cells, and, with the values shifted by a true
drop, how often it would find it. Trials with real extra work check the shifting. Runs by themselves do the same for
two record files, and give `benchmarks.gate` the noise between runs. Each trial is stored when it is done: Ctrl-C loses
none, and the same command goes on.
"""

import argparse
import contextlib
import functools
import itertools
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import cli
from fixtures.comparing.between_runs import CALIBRATION_KIND, LEAST_RUNS
from fixtures.comparing.calibration import NotCalibrated, TrialRunner, products_for, steady_runner
from fixtures.comparing.decision import drop_of
from fixtures.comparing.error_rates import (
    HEADER,
    LEAST_ADDED_TRIALS,
    Row,
    alarms,
    deviation_of_logs,
    file_rows,
    loose_intervals_without_1,
    rate_of,
    resolved_by_files,
    side_by_side_rows,
    smallest_drop,
    variance_components,
)
from fixtures.comparing.servers import servers_for
from fixtures.comparing.worker_pairs import SideEnded
from fixtures.formatting import table
from fixtures.parsing import comma_separated, count, one_of, option_value, resolution, seconds, share
from fixtures.progress.events import ProgressState
from fixtures.progress.plugin import LineBelowCursor, LogLines, StatusLine, is_interactive, shown_in
from fixtures.records.cell_record import identity_of
from fixtures.records.recorder import commit_facts
from fixtures.runner.launchers import SUITE, import_path
from fixtures.runner.session import CellFailed
from fixtures.runner.worker_handle import WorkerFailed
from fixtures.schema import Cell, strict_json, write_atomically
from models import api
from models.errors import InputError

_SIDE_BY_SIDE, _FILES = _GATES = ("side-by-side", "files")
_TIMEOUT_SECONDS = 600.0
_QUESTION_SECONDS = 300.0
# So many trials with extra work check the shifting of values.
_ADDED_TRIALS = 20
# Trials of identical code, of which both rates come, to one trial with extra work.
_SAME_TRIALS_IN_A_ROUND = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code: 0, 2 where nothing can be calibrated, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    servers = servers_for((sys.executable,) * 2, (import_path(),) * 2)
    try:
        settings = _settings(options)
        _, launchers = servers.pair_for(0)
        with launchers["candidate"].worker() as worker:
            survey = worker.call("survey", timeout_seconds=_QUESTION_SECONDS)
        option_value("--device", settings["device"], one_of("device", survey["devices"]))
        calibration = Calibration(settings, survey["machine"], options.output)
        status_line = _status_line()
        progress = shown_in(status_line, ProgressState("now", f"{settings['model']} at {settings['resolution']} px"))

        def say(text: str) -> None:
            status_line.clear()
            print(text, flush=True)

        runner = steady_runner(launchers["candidate"], _TIMEOUT_SECONDS, progress)
        lengths = settings["cell_seconds"], settings["run_seconds"], settings["cells"]
        chance = random.Random()  # noqa: S311 - a coin, no secret
        trials = TrialRunner(runner, servers, calibration.cell, *lengths, chance, progress)
        try:
            calibration.go_on(trials, options.gates, 60 * options.minutes, say)
        except KeyboardInterrupt:
            say("\ninterrupted; the same command goes on from here")
            print("\n".join(calibration.report()))
            return 130
        finally:
            status_line.clear()
        print("\n".join(calibration.report()))
    except (InputError, NotCalibrated, ValueError, CellFailed, SideEnded, WorkerFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        servers.close()
    return 0


def _status_line() -> StatusLine:
    if is_interactive(sys.stdout.isatty()):
        return LineBelowCursor(functools.partial(print, end="", flush=True))
    return LogLines(functools.partial(print, flush=True))


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser_of("python -m benchmarks.calibrate", __doc__)
    add = parser.add_argument
    add("--device", default="cpu", help="(default: cpu)")
    add("--model", default="nin", help=f"any of {', '.join(sorted(api.STYLE_NETWORKS))} (default: nin)")
    add("--resolution", default="128", help="a side or WIDTHxHEIGHT in pixels (default: 128)")
    add("--minutes", default="60", metavar="M", help="time for this call; others add to it (default: 60)")
    add("--gates", default=",".join(_GATES), metavar="LIST", help="what to make trials of (default: %(default)s)")
    add("--cells", default="10", metavar="N", help="cells of a run, which share its false alarms (default: 10)")
    add("--cell-seconds", default="20", metavar="S", help="budget of a decision side by side (default: 20)")
    add(
        "--run-seconds",
        metavar="S",
        help="length of a run for files (default: half of --cell-seconds: two are compared)",
    )
    add(
        "--drops",
        default="2%,5%,10%",
        metavar="LIST",
        help="true drops; the gate is set to half (default: 2%%,5%%,10%%)",
    )
    add("--output", default="results/calibration.json", type=Path, metavar="PATH", help="(default: %(default)s)")
    return parser


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What the calibration is of; a file of another one is not gone on with."""
    size = option_value("--resolution", options.resolution, resolution)
    options.minutes = option_value("--minutes", options.minutes, seconds)
    gate = one_of("gate", _GATES)
    options.gates = option_value("--gates", options.gates, lambda text: comma_separated("--gates", [text], gate))
    cell_seconds = option_value("--cell-seconds", options.cell_seconds, seconds)
    run_seconds = options.run_seconds
    return {
        "device": options.device,
        "model": option_value("--model", options.model, one_of("model", api.STYLE_NETWORKS)),
        "resolution": size.text,
        "width": size.width,
        "height": size.height,
        "cells": option_value("--cells", options.cells, count("number of cells")),
        "cell_seconds": cell_seconds,
        "run_seconds": cell_seconds / 2 if run_seconds is None else option_value("--run-seconds", run_seconds, seconds),
        "drops": list(option_value("--drops", options.drops, lambda text: comma_separated("--drops", [text], share))),
    }


class Calibration:
    """What is known so far, on disk after every trial.

    Raises:
        InputError: the file holds something else, or cannot be written.
    """

    def __init__(self, settings: dict[str, Any], machine: dict[str, Any], path: Path) -> None:
        self._path = path
        self._settings = settings
        self.cell = Cell(
            "test_style_iteration", *(settings[key] for key in ("device", "model", "resolution", "width", "height"))
        )
        self._identity = identity_of(self.cell)
        self._content: dict[str, Any] = {
            "kind": CALIBRATION_KIND, "schema": 2, "machine": machine, "commit": commit_facts(SUITE),
            "settings": settings, "products_per_slowdown": None, "same": [], "added": [], "rounds": [],
        }  # fmt: skip
        _check_output(path)
        if path.exists():
            self._content = _resumed(path, self._content)

    def go_on(
        self, trials: TrialRunner, gates: Collection[str], time_seconds: float, say: Callable[[str], None]
    ) -> None:
        """Make trials for those gates until the time is used, at least one."""
        start, content = time.monotonic(), self._content
        if content["products_per_slowdown"] is None:
            say("measuring how much extra work makes a slowdown ...")
            content["products_per_slowdown"] = trials.products_per_slowdown()
            self._store()
        drops = itertools.cycle(self._settings["drops"])
        steps: list[Callable[[], str]] = []
        while True:
            if not steps:
                if _SIDE_BY_SIDE in gates:
                    steps += self._side_by_side(trials, drops)
                if _FILES in gates:
                    steps += self._round(trials)
            text = steps.pop(0)()
            self._store()
            left = time_seconds - (time.monotonic() - start)
            say(f"{text}  {max(0.0, left) / 60:.1f} min left")
            if left <= 0:
                return

    def _side_by_side(self, trials: TrialRunner, drops: Iterator[float]) -> list[Callable[[], str]]:
        """Some trials of identical code, and one with extra work until there are enough of those."""
        steps = [functools.partial(self._same, trials)] * _SAME_TRIALS_IN_A_ROUND
        if len(self._content["added"]) < _ADDED_TRIALS:
            return [*steps, functools.partial(self._added, trials, next(drops))]
        return [*steps]

    def _same(self, trials: TrialRunner) -> str:
        trial = trials.same()
        self._content["same"].append(trial)
        values = trial["units"][trial["clock"]]
        mean = drop_of(statistics.fmean(values)) * 100
        return f"identical code: {-mean:+.2f} % by {len(values)} units, {trial['clock']} clock"

    def _added(self, trials: TrialRunner, drop: float) -> str:
        products = products_for(drop, self._content["products_per_slowdown"])
        trial = trials.slower(products, drop / 2) | {"drop": drop, "max_drop": drop / 2}
        self._content["added"].append(trial)
        return f"drop {drop * 100:g} %, --max-drop={drop * 50:g}%: {trial['verdict']} ({trial['units']} units)"

    def _round(self, trials: TrialRunner) -> list[Callable[[], str]]:
        """Runs by themselves, one after the other: two of identical code, then one with each drop."""
        runs: list[dict[str, Any]] = []

        def run(drop: float) -> str:
            if not runs:
                self._content["rounds"].append(runs)
            products = products_for(drop, self._content["products_per_slowdown"])
            runs.append(trials.run(products) | {"drop": drop})
            return f"run alone, drop {drop * 100:g} %: median {runs[-1]['median_seconds'] * 1e3:.2f} ms"

        return [functools.partial(run, drop) for drop in (0.0, 0.0, *self._settings["drops"])]

    def report(self) -> list[str]:
        """The table, and what follows from it."""
        content, settings = self._content, self._settings
        same, added = content["same"], content["added"]
        rows = self._rows()
        lines = table([HEADER, *(row.texts() for row in rows)])
        if same:
            if components := variance_components(same):
                lines.append(str(components))
            outside = loose_intervals_without_1(same)
            lines.append(f"identical code: {outside} of the 90 % intervals leave out 1; one in ten should")
        for drop in settings["drops"]:
            of_drop = [trial for trial in added if trial["drop"] == drop]
            if len(of_drop) >= LEAST_ADDED_TRIALS:
                achieved = drop_of(statistics.median(trial["log_slowdown"] for trial in of_drop))
                really = rate_of(trial["verdict"] == "regressed" for trial in of_drop)
                shifted = rate_of(alarms(same, achieved, drop / 2, settings["cells"], settings["cell_seconds"]))
                lines.append(
                    f"extra work meant to be {drop * 100:g} % was {achieved * 100:.2f} %: content {really},"
                    f" by shifting {shifted}"
                )
        best = smallest_drop(rows, "side by side")
        trusted = "none of those tried" if best is None else f"{best * 100:g} %"
        lines.append(f"smallest drop that side by side gates at 1 % false alarms and 90 % power: {trusted}")
        files = resolved_by_files(self._plain_medians())
        if files is not None:
            lines.append(f"the same for two files, by the noise between runs: {files * 100:.3g} %")
        every = [*same, *added, *(run for runs in content["rounds"] for run in runs)]
        loads = [entry["load_average"] for entry in every if entry["load_average"] is not None]
        if loads:
            lines.append(f"load average {min(loads):.2f} to {max(loads):.2f}, median {statistics.median(loads):.2f}")
        return [*lines, f"stored in {self._path}"]

    def _rows(self) -> list[Row]:
        content, settings = self._content, self._settings
        drops = settings["drops"]
        rows = side_by_side_rows(content["same"], drops, settings["cells"], settings["cell_seconds"])
        return rows + file_rows(content["rounds"], drops, self._identity, settings["run_seconds"])

    def _plain_medians(self) -> list[float]:
        runs = itertools.chain.from_iterable(self._content["rounds"])
        return [run["median_seconds"] for run in runs if run["drop"] == 0.0]

    def _store(self) -> None:
        medians, between = self._plain_medians(), []
        if len(medians) >= LEAST_RUNS:
            deviation = deviation_of_logs(medians)
            between = [{"identity": list(self._identity), "log_deviation": deviation, "runs": len(medians)}]
        derived = {"between_runs": between, "rates": [row.facts() for row in self._rows()]}
        write_atomically(self._path, strict_json(self._content | derived, indent=1) + "\n")


def _check_output(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            if path.exists():
                stack.enter_context(path.open("a"))
    except OSError as error:
        raise InputError(f"--output={path} cannot be written ({error.strerror}); give another path") from error


def _resumed(path: Path, fresh: dict[str, Any]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        same = all(content[key] == fresh[key] for key in ("kind", "schema", "machine", "settings"))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"--output={path} is no calibration ({error}); give another path, or remove it") from error
    if not same:
        raise InputError(f"--output={path} holds a calibration of something else; give another path, or remove it")
    return {key: content[key] for key in fresh}


if __name__ == "__main__":
    cli.run(main)
