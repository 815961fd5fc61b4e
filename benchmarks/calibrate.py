"""How reliable is the gate on this machine?

python -m benchmarks.calibrate --model=nin --resolution=128 --minutes=20

Compares a cell with itself, and with itself plus added work that takes 2.5, 5 and 10 % of its throughput, with the code
of the gate: side by side like `--against`, and run against run like `benchmarks.gate`. Prints how often each gate gives
a false alarm and how often it finds a true drop. Stores these rates, and the noise between runs, which
`benchmarks.gate` reads. Every trial is stored when it is done: after Ctrl-C the same command continues.
"""

import argparse
import contextlib
import functools
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import cli
from fixtures.comparing.calibration import (
    HEADER,
    NotCalibrated,
    Row,
    TrialRunner,
    achieved_drop,
    deviation_of_logs,
    products_for,
    resolved_by_files,
    rows,
    smallest_drop,
    steady_runner,
)
from fixtures.comparing.file_comparison import CALIBRATION_KIND, LEAST_RUNS
from fixtures.formatting import table
from fixtures.parsing import comma_separated, one_of, option_value, resolution, seconds, share
from fixtures.progress.events import ProgressCallback, ProgressState
from fixtures.progress.plugin import LineBelowCursor, LogLines, StatusLine, is_interactive, shown_in
from fixtures.records.cell_record import identity_of
from fixtures.records.recorder import commit_facts
from fixtures.runner.cell_runner import Runner
from fixtures.runner.launchers import SUITE, default_launcher
from fixtures.runner.session import CellFailed
from fixtures.runner.worker_handle import WorkerFailed
from fixtures.schema import Cell, strict_json, write_atomically
from models import api
from models.errors import InputError

_TIMEOUT_SECONDS = 600.0
_SURVEY_SECONDS = 300.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, 2 if nothing can be calibrated, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    launchers = default_launcher(), default_launcher()
    try:
        settings = _settings(options)
        with launchers[0].worker() as worker:
            survey = worker.call("survey", timeout_seconds=_SURVEY_SECONDS)
        option_value("--device", settings["device"], one_of("device", survey["devices"]))
        calibration = Calibration(settings, survey["machine"], options.output)
        status_line = _status_line()
        progress = shown_in(status_line, ProgressState("now", f"{settings['model']} at {settings['resolution']} px"))

        def print_line(text: str) -> None:
            status_line.clear()
            print(text, flush=True)

        baseline, candidate = (steady_runner(launcher, _TIMEOUT_SECONDS, progress) for launcher in launchers)
        try:
            calibration.run(baseline, candidate, 60 * options.minutes, print_line, progress)
        except KeyboardInterrupt:
            print_line("\ninterrupted; the same command continues from here")
            print("\n".join(calibration.report()))
            return 130
        finally:
            status_line.clear()
        print("\n".join(calibration.report()))
    except (InputError, NotCalibrated, ValueError, CellFailed, WorkerFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        for launcher in launchers:
            launcher.close()
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
    add("--minutes", default="20", metavar="M", help="duration of this call; later calls add trials (default: 20)")
    add("--cell-seconds", default="20", metavar="S", help="budget of a side by side comparison (default: 20)")
    add(
        "--run-seconds",
        metavar="S",
        help="duration of a run that is compared with another run (default: half of --cell-seconds)",
    )
    add(
        "--drops",
        default="2.5%,5%,10%",
        metavar="LIST",
        help="true drops of throughput; --max-drop is half of each (default: 2.5%%,5%%,10%%)",
    )
    add("--output", default="results/calibration.json", type=Path, metavar="PATH", help="(default: %(default)s)")
    return parser


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings of the calibration; a file with other settings is not continued."""
    size = option_value("--resolution", options.resolution, resolution)
    options.minutes = option_value("--minutes", options.minutes, seconds)
    cell_seconds = option_value("--cell-seconds", options.cell_seconds, seconds)
    run_seconds = options.run_seconds
    return {
        "device": options.device,
        "model": option_value("--model", options.model, one_of("model", api.STYLE_NETWORKS)),
        "resolution": size.text,
        "width": size.width,
        "height": size.height,
        "cell_seconds": cell_seconds,
        "run_seconds": cell_seconds / 2 if run_seconds is None else option_value("--run-seconds", run_seconds, seconds),
        "drops": list(option_value("--drops", options.drops, lambda word: comma_separated("--drops", [word], share))),
    }


class Calibration:
    """The trials so far, written to the file after every trial.

    Raises:
        InputError: the file is another calibration or something else, or cannot be written.
    """

    def __init__(self, settings: dict[str, Any], machine: dict[str, Any], path: Path) -> None:
        self._path = path
        self._settings = settings
        self._cell = Cell(
            "test_style_iteration", *(settings[key] for key in ("device", "model", "resolution", "width", "height"))
        )
        self._identity = identity_of(self._cell)
        self._content: dict[str, Any] = {
            "kind": CALIBRATION_KIND, "schema": 1, "machine": machine, "commit": commit_facts(SUITE),
            "settings": settings, "products_per_slowdown": None, "trials": [], "runs": [],
        }  # fmt: skip
        _check_output(path)
        if path.exists():
            self._content = _resumed(path, self._content)

    def run(
        self,
        baseline: Runner,
        candidate: Runner,
        time_seconds: float,
        print_line: Callable[[str], None],
        progress: ProgressCallback,
    ) -> None:
        """Run trials until the time is over, in rounds with one trial of each kind in random order."""
        end = time.monotonic() + time_seconds
        settings, rng = self._settings, random.Random()  # noqa: S311 - not for cryptography
        lengths = settings["cell_seconds"], settings["run_seconds"]
        trials = TrialRunner(baseline, candidate, self._cell, *lengths, rng, progress)
        if self._content["products_per_slowdown"] is None:
            print_line("measuring how much added work causes a slowdown ...")
            self._content["products_per_slowdown"] = trials.products_per_slowdown()
            self._store()
        done = 0
        while True:
            for kind, drop, max_drop in rng.sample(self._kinds(), k=len(self._kinds())):
                if done and time.monotonic() >= end:  # a call runs at least one trial
                    return
                products = products_for(drop, self._content["products_per_slowdown"])
                if kind == "trials":
                    result = trials.side_by_side(products, max_drop) | {"drop": drop, "max_drop": max_drop}
                else:
                    result = trials.run(products) | {"drop": drop}
                self._content[kind].append(result)
                self._store()
                done += 1
                print_line(
                    f"{done:4d}  {_line_for(kind, result)}  {max(0.0, end - time.monotonic()) / 60:.1f} min left"
                )

    def report(self) -> list[str]:
        """The lines of the table and of the summary."""
        content = self._content
        loads = [entry["load_average"] for key in ("trials", "runs") for entry in content[key] if entry["load_average"]]
        lines = table([HEADER, *(row.words() for row in self._rows())])
        smallest = smallest_drop(self._rows(), "side by side")
        text = "none of those tried" if smallest is None else f"{smallest * 100:g} %"
        lines.append(f"smallest drop found side by side with 1 % false alarms and 90 % power: {text}")
        files = resolved_by_files(content["runs"])
        if files is not None:
            lines.append(f"the same for two files, from the noise between runs: {files * 100:.3g} %")
        for drop in self._settings["drops"]:
            if achieved := achieved_drop(content["trials"], drop):
                lines.append(f"intended drop {drop * 100:g} %: {achieved[0] * 100:.2f} % ({achieved[1]} trials)")
        if loads:
            lines.append(f"load average {min(loads):.2f} to {max(loads):.2f}, median {statistics.median(loads):.2f}")
        return [*lines, f"stored in {self._path}"]

    def _rows(self) -> list[Row]:
        settings, content = self._settings, self._content
        return rows(content["trials"], content["runs"], settings["drops"], self._identity, settings["run_seconds"])

    def _kinds(self) -> list[tuple[str, float, float]]:
        kinds = [("trials", drop, true_drop / 2) for true_drop in self._settings["drops"] for drop in (0.0, true_drop)]
        # Twice as many runs of identical code, because a comparison of identical code takes two of them.
        return kinds + [("runs", drop, 0.0) for drop in (0.0, 0.0, *self._settings["drops"])]

    def _store(self) -> None:
        medians = [run["median_seconds"] for run in self._content["runs"] if run["drop"] == 0.0]
        run_noise = []
        if len(medians) >= LEAST_RUNS:
            deviation = deviation_of_logs(medians)
            run_noise = [{"identity": list(self._identity), "log_deviation": deviation, "runs": len(medians)}]
        derived = {"between_runs": run_noise, "rates": [row.facts() for row in self._rows()]}
        write_atomically(self._path, strict_json(self._content | derived, indent=1) + "\n")


def _line_for(kind: str, result: dict[str, Any]) -> str:
    drop = f"drop {result['drop'] * 100:g} %"
    if kind == "runs":
        return f"run alone, {drop}: median {result['median_seconds'] * 1e3:.2f} ms"
    return (
        f"side by side, {drop}, --max-drop={result['max_drop'] * 100:g}%: {result['verdict']} ({result['pairs']} pairs)"
    )


def _check_output(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            if path.exists():
                stack.enter_context(path.open("a"))
    except OSError as error:
        raise InputError(f"--output={path} cannot be written ({error.strerror}); give another path") from error


def _resumed(path: Path, new: dict[str, Any]) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        same = all(result[key] == new[key] for key in ("kind", "schema", "machine", "settings"))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"--output={path} is no calibration ({error}); give another path, or remove it") from error
    if not same:
        raise InputError(
            f"--output={path} is a calibration of another machine or with other settings; give another path, or remove"
            " it"
        )
    return {key: result[key] for key in new}


if __name__ == "__main__":
    cli.run(main)
