r"""Runs one cell of test_scaling over several machines: every rank runs this under torchrun, rank 0 writes the record.

On each machine, in a checkout of the same revision; HOST is the first machine:

torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=HOST:29400 \
    -m benchmarks.ranks --benchmark=data_parallel_weak --model=resnet50 --record=PATH

The benchmarks, their steps and the defaults of the options are those of benchmarks/test_scaling.py. The record of a
failed cell names the rank that failed. Exit status: 0 the cell was measured, 1 it failed, 2 after a sentence about bad
input.
"""

import argparse
import dataclasses
import datetime
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import test_scaling
from benchmarks.cli import argument_type, parser_of
from fixtures import parsing
from fixtures.host import threads_of_rank
from fixtures.marker import Matrix
from fixtures.options import PICTURES
from fixtures.progress.events import ignore_progress
from fixtures.records.cell_record import record_of
from fixtures.records.recorder import Recorder, commit_facts
from fixtures.records.relative import group_rate
from fixtures.runner.group_runner import group_setup, with_group_result
from fixtures.runner.launchers import SUITE
from fixtures.schema import (
    MIN_ROUNDS,
    RUN_OPTIONS,
    SCHEMA_VERSION,
    Cell,
    Failure,
    GroupSetup,
    Measurement,
    Outcome,
    Rendezvous,
    Timing,
)
from fixtures.summaries.scaling import gain
from models import api
from models.errors import InputError

# Networks by the catalog that a benchmark's marker names.
_CATALOGS = {"classifiers": api.CLASSIFIERS, "denoisers": api.DENOISERS, "decoders": api.DECODERS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as one rank of the cell. Returns the exit status, see the module's docstring."""
    options = _parser().parse_args(arguments)
    try:
        cell = GroupCell(options)
    except InputError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"ranks: {error}", file=sys.stderr)
        return 2
    outcome = cell.outcome()
    if outcome is None:  # rank 0 reports for all ranks
        return 0
    print(sentence_of(outcome), flush=True)
    return int(outcome.status != "ok")


class GroupCell:
    """The cell of the group of which this process is a rank.

    Raises:
        InputError: an option is invalid, or the command was not started by torchrun.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        if "WORLD_SIZE" not in os.environ:
            raise InputError("torchrun must start this command, see --help; on one machine, run pytest instead")
        self._options = options
        self._matrix = matrix = matrix_of(options.benchmark)
        assert matrix.scaling is not None, "each benchmark of test_scaling has a kind of scaling"
        assert matrix.model is not None, "each benchmark of test_scaling has a default model"
        assert matrix.resolution is not None, "each benchmark of test_scaling has a default resolution"
        self._scaling = matrix.scaling
        catalog = _CATALOGS.get(matrix.catalog, api.STYLE_NETWORKS)
        name = parsing.option_value("--model", options.model or matrix.model[0], parsing.one_of("model", catalog))
        self._factory = catalog[name]
        image = parsing.option_value(
            "--resolution", options.resolution or str(matrix.resolution[0]), parsing.resolution
        )
        self._cell = Cell(
            f"test_{options.benchmark}",
            options.device,
            name,
            image.text,
            image.width,
            image.height,
            optimizer=options.optimizer,
            precision=options.precision,
            strategy=matrix.fixed.get("strategy", "plain"),
            batch=options.batch or (matrix.batch or (1,))[0],
            mode=matrix.fixed.get("mode", ""),
            ranks=int(os.environ["WORLD_SIZE"]),
            kind=matrix.kind,
        )
        if self._scaling == "strong" and self._cell.batch % self._cell.ranks:
            raise InputError(
                f"a batch of {self._cell.batch} cannot be divided among {self._cell.ranks} ranks;"
                f" give --batch=N with a multiple of {self._cell.ranks}"
            )

    def outcome(self) -> Outcome | None:
        """Run and record the cell; None in all ranks but rank 0."""
        from fixtures.worker.rank_process import run_under_torchrun  # noqa: PLC0415 - brings torch

        started = datetime.datetime.now(datetime.UTC)
        threads = self._options.threads or threads_of_rank(self._cell.device, int(os.environ["LOCAL_WORLD_SIZE"]))
        results = run_under_torchrun(self._setup(threads), ignore_progress)
        if os.environ["RANK"] != "0":
            return None
        not_run = Failure("error", "build", "not run")
        outcome = Outcome(self._cell, not_run, details={"scaling": self._scaling, "threads_per_rank": threads})
        outcome = detailed(with_group_result(outcome, results))
        machines = {
            rank["host"]: rank["machine"] for rank in results.get("measured", {}).get("ranks", ()) if rank["machine"]
        }
        self._record(outcome, started, machines)
        return outcome

    def _setup(self, threads: int) -> GroupSetup:
        options, cell = self._options, self._cell
        axes = ("width", "height", "optimizer", "precision", "strategy", "mode", "ranks")
        workload = {axis: getattr(cell, axis) for axis in axes} | {
            "step": self._matrix.step,
            "model": self._factory,
            "weights": options.weights,
            "content": options.content,
            "style": options.style,
            "tile_px": options.tile,
            "lbfgs_history": options.lbfgs_history,
        }
        timing = Timing(options.cell_seconds, min_parts_rounds=MIN_ROUNDS)
        limit, timeout = options.memory_limit, options.cell_timeout
        # No rendezvous: torchrun has already connected the ranks.
        run_options = {key: getattr(options, key) for key in RUN_OPTIONS}
        return group_setup(cell, workload, self._scaling, timing, threads, Rendezvous(), limit, timeout, run_options)

    def _record(self, outcome: Outcome, started: datetime.datetime, machines: dict[str, Any]) -> None:
        from fixtures.worker import devices  # noqa: PLC0415 - brings torch

        options = {
            key: value for key, value in vars(self._options).items() if key not in ("record", "content", "style")
        }
        header = {
            "schema": SCHEMA_VERSION,
            "started": started.isoformat(timespec="seconds"),
            "machine": devices.machine_facts(),
            "machines": machines,
            "commit": commit_facts(SUITE),
            "options": options,
        }
        self._options.record.parent.mkdir(parents=True, exist_ok=True)
        recorder = Recorder(self._options.record, header)
        recorder.add(outcome)
        recorder.finish()


def detailed(outcome: Outcome) -> Outcome:
    """The outcome with the details of pytest's cells; there is no single rank to compare it with."""
    gains = gain(outcome, []) if isinstance(outcome.result, Measurement) else {}
    return dataclasses.replace(outcome, details={**outcome.details, **gains})


def matrix_of(benchmark: str) -> Matrix:
    """The marker of a benchmark of test_scaling."""
    (mark,) = (mark for mark in vars(test_scaling)[f"test_{benchmark}"].pytestmark if mark.name == "matrix")
    return Matrix.from_mark(mark, benchmark)


def benchmarks() -> list[str]:
    """Names of the benchmarks of test_scaling."""
    return [name.removeprefix("test_") for name in vars(test_scaling) if name.startswith("test_")]


def sentence_of(outcome: Outcome) -> str:
    """One sentence on the cell."""
    cell, result, details = outcome.cell, outcome.result, outcome.details
    if not isinstance(result, Measurement):
        return f"{cell.benchmark} {cell.model} with {cell.ranks} ranks: {result.status}: {result.message}"
    return (
        f"{cell.benchmark} {cell.model} with {cell.ranks} ranks on {', '.join(details['hosts'])}:"
        f" {result.median_seconds * 1e3:.4g} ms/iteration, {group_rate(record_of(outcome)) or 0.0:.4g} images/s,"
        f" {details['communication_share']:.1%} of it communication"
    )


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("torchrun ... -m benchmarks.ranks", __doc__)

    def add(option: str, parse: Callable[[str], Any], help_text: str, default: Any = None) -> None:
        parser.add_argument(option, type=argument_type(parse), default=default, help=help_text)

    known = benchmarks()
    add("--benchmark", parsing.one_of("benchmark", known), f"any of {', '.join(known)} (default: {known[0]})", known[0])
    add("--device", str, "type of the ranks' devices: cpu, cuda, ... (default: cpu)", "cpu")
    add("--model", str, "(default: that of the benchmark)")
    add("--resolution", str, "a side or WIDTHxHEIGHT in pixels (default: that of the benchmark)")
    add(
        "--batch",
        parsing.count("batch"),
        "images of each rank in weak scaling, of the group in strong scaling (default: that of the benchmark)",
    )
    add("--optimizer", parsing.one_of("optimizer", api.OPTIMIZERS), "for an image (default: adam)", "adam")
    add("--precision", parsing.one_of("precision", api.PRECISIONS), "(default: float32)", "float32")
    add("--tile", parsing.tile, "side of a tile in pixels, or auto (default: auto)", 0)
    add(
        "--threads",
        parsing.count("number of threads"),
        "of each rank (default: its share of the cores; 1 with a GPU)",
    )
    add("--cell-seconds", parsing.seconds, "measuring budget (default: 2)", 2.0)
    add(
        "--cell-timeout",
        parsing.seconds,
        "a rank waits at most a quarter of it for another rank (default: 600)",
        600.0,
    )
    add("--memory-limit", parsing.size, "budget of each accelerator, or of all ranks of a host on cpu, e.g. 2GiB")
    add("--cudnn-benchmark", parsing.switch, "on or off: whether cuDNN times its algorithms (default: off)", False)
    add(
        "--lbfgs-history",
        parsing.count("number of pairs"),
        f"pairs in the history of lbfgs (default: {api.LBFGS_HISTORY})",
        api.LBFGS_HISTORY,
    )
    add("--weights", str, "random, imagenet or a path (default: random)", "random")
    add("--content", str, "content picture (default: that of the suite)", str(PICTURES / "content.jpg"))
    add("--style", str, "style picture (default: that of the suite)", str(PICTURES / "style.jpg"))
    add("--record", Path, "the record file (default: results/ranks.json)", Path("results/ranks.json"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
