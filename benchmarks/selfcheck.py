"""Can the numbers of this device be believed? Ten minutes, one page of PASS, FAIL and NOT HERE.

python -m benchmarks.selfcheck --device=cuda:0 [--model=vgg19] [--only=exactness,clock] [--output=DIR]

Sections:

    exactness    every strategy in every precision against the gradient in float64
    clock        nothing in an iteration waits for the device, and the clock of a round does
    memory       out of memory is recognised for each strategy; predicted against allocated and reserved memory
    search       the search for the largest image ends where memory ends
    limits       copy bandwidth and matrix products against the data sheet of a known card
    ranks        one rank and all, through NCCL between GPUs and gloo on cpu
    telemetry    clock, energy, and reasons for a lower clock are read
    comparison   a cell compared with itself is unchanged

Each says how long it took. NOT HERE is what the device or the machine does not have, with the reason. The page is
printed, and written as selfcheck.md and selfcheck.json.

Exit code: 0 if nothing failed, 1 if a line is FAIL, 2 for bad input.
"""

import argparse
import contextlib
import datetime
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from benchmarks import cli
from benchmarks.checks import clock, exactness, limits, memory, surroundings
from benchmarks.checks.base import Line, Subject, Verdict
from fixtures.formatting import markdown_table
from fixtures.parsing import comma_separated, one_of, option_value
from fixtures.records.recorder import commit_facts
from fixtures.runner.launchers import SUITE, Launcher, default_launcher
from fixtures.runner.worker_handle import WorkerFailed
from fixtures.schema import strict_json
from models import api
from models.errors import InputError

SECTIONS: dict[str, Callable[[Subject], Iterator[Line]]] = {
    "exactness": exactness.check,
    "clock": clock.check,
    "memory": memory.check,
    "search": memory.check_search,
    "limits": limits.check,
    "ranks": surroundings.check_ranks,
    "telemetry": surroundings.check_telemetry,
    "comparison": surroundings.check_comparison,
}
_SURVEY_SECONDS = 300.0
_NAME_WIDTH = 48


@dataclass(frozen=True)
class SectionResult:
    """The lines of a section, and how long it took."""

    name: str
    seconds: float
    lines: Sequence[Line]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, 1 if a line is FAIL, 2 after a sentence about bad input."""
    options = _parser().parse_args(arguments)
    try:
        with contextlib.closing(default_launcher()) as launcher:
            names = _requested("--only", options.only, "section", SECTIONS)
            subject = _subject(options, launcher)
            _write(options.output, _page_of(subject, []))  # a folder that cannot be written is reported at once
            print(_title(subject), flush=True)
            results = [_run(name, subject) for name in names]
            page = _page_of(subject, results)
            _write(options.output, page)
    except (InputError, ValueError, WorkerFailed) as error:
        print(f"selfcheck: {error}", file=sys.stderr)
        return 2
    print(f"{_summary(results)}; the page is in {options.output}")
    return int(any(line.verdict == "FAIL" for result in results for line in result.lines))


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser_of("python -m benchmarks.selfcheck", __doc__)
    add = parser.add_argument
    add("--device", default="cpu", help="cpu, cuda:0, ... (default: cpu)")
    add("--model", help=f"any of {', '.join(sorted(api.STYLE_NETWORKS))} (default: nin on cpu, vgg19 elsewhere)")
    add("--only", action="append", metavar="LIST", help=f"sections: {', '.join(SECTIONS)} (default: all)")
    add("--strategy", action="append", metavar="LIST", help="strategies to check (default: all)")
    add("--precision", action="append", metavar="LIST", help="precisions to check (default: all)")
    add("--output", type=Path, default=Path("results/selfcheck"), metavar="DIR", help="(default: %(default)s)")
    return parser


def _requested(option: str, texts: Sequence[str] | None, what: str, known: Iterable[str]) -> list[str]:
    """The values of an option in the order in which they are known; all of them without it.

    Raises:
        ValueError: one does not exist.
    """
    known = list(known)
    given = known if texts is None else comma_separated(option, texts, one_of(what, known))
    return [name for name in known if name in given]


def _subject(options: argparse.Namespace, launcher: Launcher) -> Subject:
    """What is checked.

    Raises:
        InputError, ValueError: an option is invalid.
    """
    model = options.model or ("nin" if options.device == "cpu" else "vgg19")
    model = option_value("--model", model, one_of("model", api.STYLE_NETWORKS))
    strategies = _requested("--strategy", options.strategy, "strategy", api.STRATEGIES)
    precisions = _requested("--precision", options.precision, "precision", api.PRECISIONS)
    with launcher.worker() as worker:
        survey = worker.call("survey", timeout_seconds=_SURVEY_SECONDS)
    device = option_value("--device", options.device, one_of("device", survey["devices"]))
    return Subject(
        device,
        model,
        api.STYLE_NETWORKS[model],
        strategies,
        precisions,
        launcher,
        survey["machine"],
        survey["addresses"],
    )


def _run(name: str, subject: Subject) -> SectionResult:
    """Run a section and print its lines as they come: compilation takes half a minute."""
    print(name, flush=True)
    start, lines = time.monotonic(), []
    for line in SECTIONS[name](subject):
        lines.append(line)
        print(f"  {line.verdict:<8}  {line.name:<{_NAME_WIDTH}}  {line.text}", flush=True)
    seconds = time.monotonic() - start
    print(f"  {_seconds(seconds)}", flush=True)
    return SectionResult(name, seconds, lines)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s"


def _title(subject: Subject) -> str:
    facts = subject.machine
    driver = f", driver {facts['driver']}" if facts["driver"] else ""
    model = subject.device_facts["model"]
    return f"Self-check of {subject.device} ({model}), network {subject.model}, torch {facts['torch']}{driver}"


def _summary(results: Sequence[SectionResult]) -> str:
    verdicts = [line.verdict for result in results for line in result.lines]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in get_args(Verdict))
    return f"{counts} in {_seconds(sum(result.seconds for result in results))}"


@dataclass(frozen=True)
class Page:
    """The page in both formats."""

    markdown: str
    facts: Mapping[str, Any]


def _page_of(subject: Subject, results: Sequence[SectionResult]) -> Page:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    commit = commit_facts(SUITE)
    paragraphs = [f"# {_title(subject)}", f"{now}, commit {commit.get('id') or 'unknown'}. {_summary(results)}."]
    for result in results:
        paragraphs.append(f"## {result.name}, {_seconds(result.seconds)}")
        rows = [(line.verdict, line.name, line.text) for line in result.lines]
        paragraphs.append("\n".join(markdown_table(("verdict", "what", "figures or reason"), rows)))
    facts = {
        "kind": "selfcheck",
        "schema": 1,
        "created": now,
        "machine": subject.machine,
        "commit": commit,
        "device": subject.device,
        "model": subject.model,
        "sections": [asdict(result) for result in results],
    }
    return Page("\n\n".join(paragraphs) + "\n", facts)


def _write(folder: Path, page: Page) -> None:
    """Write both files.

    Raises:
        InputError: they cannot be written.
    """
    cli.write_output(folder / "selfcheck.md", page.markdown)
    cli.write_output(folder / "selfcheck.json", strict_json(page.facts, indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main)
