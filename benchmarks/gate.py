"""Did anything get slower between record files? No torch is imported; the files may come from anywhere.

python -m benchmarks.gate BASE.json [MORE_BASE.json ...] HEAD.json   the last file against those before it
python -m benchmarks.gate RECORD.json                               the verdicts of a run with --against
python -m benchmarks.gate --history A.json B.json C.json D.json ...  at which commit each cell's rate stepped

Exit code: 0 pass, 1 regression, 2 cannot compare, 3 inconclusive where --inconclusive=fail.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import cli
from fixtures.comparing.between_runs import CalibratedCell, read_calibration
from fixtures.comparing.file_comparison import WHOLE_RUN, compare_files
from fixtures.comparing.history import HEADER as HISTORY_HEADER
from fixtures.comparing.history import steps_of
from fixtures.comparing.limits import Limits, RunLimits, read_floors
from fixtures.comparing.verdicts import (
    COMPARED_HEADER,
    FAILING,
    compared_row,
    counted,
    explained,
    missing_model,
    readable_ratio,
)
from fixtures.formatting import markdown_table, table
from fixtures.parsing import comma_separated, one_of, option_value, share
from fixtures.records.cell_record import cell_id
from fixtures.records.reader import (
    COMPARED_FACTS,
    COMPARED_OPTIONS,
    RecordFile,
    differences,
    option_differences,
    read_record,
)
from models.errors import InputError

PASS, REGRESSION, CANNOT_COMPARE, INCONCLUSIVE = 0, 1, 2, 3
_DEFAULT_CALIBRATION = Path("results/calibration.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.history:
            print("\n".join(_history(options)))
            return PASS
        verdicts, notes = _verdicts(options)
        report = _report(verdicts, notes)
        print("\n".join(report))
        if os.environ.get("GITHUB_ACTIONS") == "true":
            print("\n".join(_annotations(verdicts)))
        if options.markdown is not None:
            _write_markdown(options.markdown, verdicts, notes)
    except (InputError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return CANNOT_COMPARE
    reached = {details["verdict"] for details in verdicts.values()}
    if reached & set(FAILING):
        return REGRESSION
    return INCONCLUSIVE if "inconclusive" in reached and options.inconclusive == "fail" else PASS


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser_of("python -m benchmarks.gate", __doc__)
    add = parser.add_argument
    add(
        "files",
        nargs="+",
        type=Path,
        metavar="RECORD.json",
        help="record files, or pytest-benchmark JSON of the suite; the last one is judged, several bases are a history",
    )
    add("--max-drop", default="5%", metavar="SHARE", help="allowed drop of throughput (default: 5%%)")
    add("--max-memory-growth", default="10%", metavar="SHARE", help="allowed growth of peak memory (default: 10%%)")
    add("--inconclusive", default="pass", choices=("pass", "fail"), help="whether undecided cells fail (default: pass)")
    add(
        "--allow",
        action="append",
        metavar="LIST",
        help="facts that may differ between the files: " + ", ".join(COMPARED_FACTS),
    )
    add(
        "--calibration",
        type=Path,
        metavar="PATH",
        help=f"noise of runs here, from benchmarks.calibrate (default: {_DEFAULT_CALIBRATION}, if it exists)",
    )
    add(
        "--history",
        action="store_true",
        help="name the commits at which rates stepped, by the files in their order, the oldest first; needs the extra"
        " 'history'",
    )
    add("--markdown", type=Path, metavar="PATH", help="append the table here, e.g. to $GITHUB_STEP_SUMMARY")
    return parser


def _verdicts(options: argparse.Namespace) -> tuple[Mapping[str, Mapping[str, Any]], list[str]]:
    """Each cell's verdict by its id, and notes on the conditions.

    Raises:
        InputError, ValueError: the files cannot be compared.
    """
    *bases, head = [read_record(path) for path in options.files]
    limits = Limits(
        option_value("--max-drop", options.max_drop, share),
        option_value("--max-memory-growth", options.max_memory_growth, share),
    )
    if not bases:
        return _recorded(head), [f"side by side against {head.header.get('against', {}).get('asked', 'a baseline')}"]
    _check_comparable(bases, head, () if options.allow is None else _allowed(options.allow))
    calibrated, notes = _calibrated(options.calibration, head)
    compared = compare_files(bases, head, RunLimits(limits, read_floors(Path("pyproject.toml"))), calibrated)
    if compared.run is not None and WHOLE_RUN not in compared.verdicts:
        notes = [*notes, f"{WHOLE_RUN}: {readable_ratio(compared.run['comparison'])}, taken out of the cells' ratios"]
    return compared.verdicts, notes


def _history(options: argparse.Namespace) -> list[str]:
    files = [read_record(path) for path in options.files]
    _check_conditions(files[:-1], files[-1], () if options.allow is None else _allowed(options.allow))
    steps = steps_of(files)
    lines = table([HISTORY_HEADER, *(step.texts() for step in steps)]) if steps else []
    cells = len({identity for file in files for identity in file.cells})
    return [*lines, f"{len(steps)} step(s) in {len(files)} files of {cells} cell(s)"]


def _allowed(given: Sequence[str]) -> tuple[str, ...]:
    return comma_separated("--allow", given, one_of("comparable fact", COMPARED_FACTS))


def _recorded(record: RecordFile) -> Mapping[str, Mapping[str, Any]]:
    verdicts: dict[str, Mapping[str, Any]] = {cell.id: cell.facts for cell in record.cells.values() if cell.verdict}
    for identity, facts in verdicts.items():
        _check_pairs(record, identity, facts["comparison"])
    for name in record.header.get("against", {}).get("missing_models", ()):
        verdicts[f"model {name}"] = missing_model(name)
    if not verdicts:
        raise InputError(
            f"{str(record.path)!r} holds no verdicts, because its run had no --against; give a base file before it"
        )
    return verdicts


def _check_pairs(record: RecordFile, cell: str, comparison: Mapping[str, Any]) -> None:
    """A verdict rests on its pairs; files from before they were recorded name no unit."""
    if "unit" in comparison and len(comparison.get("pair_values", ())) != comparison["pairs"]:
        raise InputError(
            f"{cell} in {str(record.path)!r} has {len(comparison.get('pair_values', ()))} of its {comparison['pairs']}"
            " pairs, so that its verdict has nothing to rest on; measure it again"
        )


def _check_options(bases: Sequence[RecordFile], head: RecordFile) -> None:
    """Raise an InputError for files that ran with different values of an option that has one value a run."""
    for base in bases:
        different = option_differences(base, head)
        if different:
            raise InputError(
                f"{str(base.path)!r} and {str(head.path)!r} ran with {', '.join(different)};"
                " measure both with the same value"
            )


def _check_conditions(bases: Sequence[RecordFile], head: RecordFile, allowed: Sequence[str]) -> None:
    _check_options(bases, head)
    for base in bases:
        different = differences(base.machine, head.machine, allowed)
        if different:
            raise InputError(
                f"{str(base.path)!r} and {str(head.path)!r} were not measured under the same conditions:"
                f" {'; '.join(different)}; accept one with --allow=NAME"
            )


def _check_comparable(bases: Sequence[RecordFile], head: RecordFile, allowed: Sequence[str]) -> None:
    _check_conditions(bases, head, allowed)
    if not any(set(base.cells) & set(head.cells) for base in bases):
        raise InputError(f"{str(head.path)!r} has no cell in common with what came before; measure the same ones")
    for key, option in COMPARED_OPTIONS.items():
        text = f"was recorded with {option}={{}} in {{}} and with {{}} in {{}}; measure both with the same value"
        _check_equal(bases, head, key, text)
    if "threads" not in allowed:
        text = "ran with {} thread(s) in {} and with {} in {}; measure both alike, or accept it with --allow=threads"
        _check_equal(bases, head, "threads", text)


def _check_equal(bases: Sequence[RecordFile], head: RecordFile, key: str, text: str) -> None:
    """Raise an InputError for a cell of two files with different values of a key, where both have one."""
    for base in bases:
        for identity in set(base.cells) & set(head.cells):
            before, now = (file.cells[identity].facts.get(key) for file in (base, head))
            if None not in (before, now) and before != now:
                explained_text = text.format(before, repr(str(base.path)), now, repr(str(head.path)))
                raise InputError(f"{cell_id(identity)} {explained_text}")


def _calibrated(given: Path | None, head: RecordFile) -> tuple[list[CalibratedCell], list[str]]:
    path = given or _DEFAULT_CALIBRATION
    if given is None and not path.is_file():
        return [], []
    cells, unused = read_calibration(path, head.machine)
    return cells, [] if unused is None else [unused]


def _report(verdicts: Mapping[str, Mapping[str, Any]], notes: Sequence[str]) -> list[str]:
    rows = [compared_row(name, details) for name, details in verdicts.items()]
    return [*table([COMPARED_HEADER, *rows]), *notes, _counted(verdicts)]


def _counted(verdicts: Mapping[str, Mapping[str, Any]]) -> str:
    return counted(details["verdict"] for details in verdicts.values())


def _annotations(verdicts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Workflow commands that GitHub shows in the pull request."""

    def line(kind: str, name: str, details: Mapping[str, Any]) -> str:
        text = f"{name} {details['verdict']}: {explained(details['comparison'])}"
        return f"::{kind} title=goghmark::" + text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

    kinds = dict.fromkeys(FAILING, "error") | {"inconclusive": "warning"}
    return [
        line(kinds[details["verdict"]], name, details)
        for name, details in verdicts.items()
        if details["verdict"] in kinds
    ]


def _write_markdown(path: Path, verdicts: Mapping[str, Mapping[str, Any]], notes: Sequence[str]) -> None:
    rows = [compared_row(f"`{name}`", details) for name, details in verdicts.items()]
    lines = ["### goghmark", "", *markdown_table(COMPARED_HEADER, rows), "", *notes, "", _counted(verdicts), ""]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines))
    except OSError as error:
        raise InputError(f"--markdown={path} cannot be written ({error.strerror}); give another path") from error


if __name__ == "__main__":
    cli.run(main)
