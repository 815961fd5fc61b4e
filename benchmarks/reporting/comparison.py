"""Before and after: the verdict on each cell, with the interval of its throughput ratio.

Also the history of cells over the files of a machine, commit by commit.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.reporting.data import Machine, ReportData, commit_of
from benchmarks.reporting.plotting import BLUE, GREEN, GRID, MUTED, VERMILLION, canvas, is_narrow, legend_below, look
from benchmarks.reporting.sections import Chart, Datum, Row, Section, Table, number, word
from fixtures.comparing.file_comparison import compare_files
from fixtures.comparing.limits import RunLimits, read_floors
from fixtures.comparing.verdicts import COMPARED_HEADER, FAILING, compared_row
from fixtures.records.cell_record import IDENTITY, CellRecord, Identity, cell_id
from fixtures.records.reader import RecordFile, differences

_BAR_INCHES = 0.24
_MOST_DRAWN = 30
_COLOURS = {"regressed": VERMILLION, "improved": GREEN, "unchanged": BLUE}
_SHAPES = {"regressed": "v", "improved": "^", "unchanged": "o"}


@dataclass(frozen=True)
class Compared:
    """The verdict on a cell.

    Attributes:
        details: `verdict` and `comparison`, as in a record.
    """

    name: str
    device: str
    model: str
    details: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        return str(self.details["verdict"])

    @property
    def ratio(self) -> float | None:
        """Candidate throughput over baseline throughput."""
        ratio = self.details["comparison"].get("throughput_ratio")
        return float(ratio) if ratio else None

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Interval of the ratio; None if it is unbounded or unknown."""
        low, high = (self.details["comparison"].get(f"throughput_ratio_{end}") for end in ("low", "high"))
        return (low, high) if low and high and math.isfinite(high) else None


def comparison(report_data: ReportData) -> Section | None:
    """The section; None if nothing was compared, and no cell is in two files of a machine."""
    compared, notes = compared_of(report_data)
    if not compared:
        return None
    with_ratio = sorted((one for one in compared if one.ratio), key=lambda one: one.ratio or 0)
    drawn = with_ratio if len(with_ratio) <= _MOST_DRAWN else _extremes(with_ratio)
    title = "Throughput after, relative to before"
    return Section(
        "comparison",
        "Before and after",
        finding(compared),
        charts=[Chart("comparison", title, partial(_draw, drawn))] if drawn else [],
        tables=[_table(compared)],
        notes=["Left of 0 is slower; lines are intervals, where one is known.", *notes]
        + ([f"The plot has the {_MOST_DRAWN} largest changes."] if drawn != with_ratio else []),
    )


def compared_of(report_data: ReportData) -> tuple[list[Compared], list[str]]:
    """The cells of runs with --against, and of files of one machine against each other; and notes on the conditions."""
    compared = [Compared(cell.id, cell.place, cell.model, cell.facts) for cell in report_data.cells if cell.verdict]
    notes = ["Side by side: both revisions in warm workers that alternate, on the same machine."] if compared else []
    side_by_side = {one.name for one in compared}
    for machine in report_data.machines:
        bases, head = before_and_after(report_data.files_of(machine))
        if not bases:
            continue
        notes.append(_conditions(bases, head))
        for identity, (name, details) in _verdicts(bases, head).items():
            if name not in side_by_side:
                compared.append(Compared(name, _place(report_data, machine, identity), str(identity[2]), details))
    return compared, notes


def before_and_after(files: Sequence[RecordFile]) -> tuple[list[RecordFile], RecordFile]:
    """The files that the last one is compared with, and the last one.

    Earlier files of the last one's commit are merged into it; their cells that a later file measured again are bases.
    A cell of another commit that the last file lacks counts as missing only if the last file ran its benchmark with the
    same options; otherwise it was not requested.
    """
    *earlier, last = files
    commit = commit_of(last)
    bases: list[RecordFile] = []
    head: dict[Identity, CellRecord] = dict(last.cells)
    for file in reversed(earlier):
        repeats = commit_of(file) != commit and _requested(file) == _requested(last)
        repeated = _benchmarks(last) if repeats else set()
        base = {identity: cell for identity, cell in file.cells.items() if identity in head or identity[0] in repeated}
        if commit_of(file) == commit:
            head = {**file.cells, **head}
        if set(base) & set(head):
            bases.insert(0, dataclasses.replace(file, cells=base))
    return bases, dataclasses.replace(last, cells=head)


def _benchmarks(file: RecordFile) -> set[str]:
    return {identity[0] for identity in file.cells}


def _requested(file: RecordFile) -> list[Any]:
    """The values of the options that choose cells."""
    options = file.header.get("options")
    return [options.get(axis) for axis in (*IDENTITY, "tile_px")] if isinstance(options, dict) else []


def _verdicts(bases: Sequence[RecordFile], head: RecordFile) -> dict[Identity, tuple[str, Mapping[str, Any]]]:
    limits = RunLimits(floors=read_floors(Path("pyproject.toml")))
    by_name = compare_files(bases, head, limits).cells
    identities = {cell_id(identity): identity for file in (*bases, head) for identity in file.cells}
    return {
        identities[name]: (name, details)
        for name, details in by_name.items()
        # New cells have no base, and searches end at different sizes.
        if details["verdict"] != "new" and "largest" not in identities[name]
    }


def _conditions(bases: Sequence[RecordFile], head: RecordFile) -> str:
    different = list(dict.fromkeys(one for base in bases for one in differences(base.machine, head.machine, ())))
    names = ", ".join(base.path.name for base in bases)
    text = (
        f"{head.path.name} against {names}, run at different times: only large changes can be distinguished from noise."
    )
    return text + (f" Conditions differ: {'; '.join(different)}." if different else "")


def _place(report_data: ReportData, machine: Machine, identity: Identity) -> str:
    device = str(identity[1])
    here = [cell.place for cell in report_data.cells if cell.machine is machine and cell.device == device]
    return here[0] if here else device


def finding(compared: Sequence[Compared]) -> str:
    """The verdicts, counted; those that fail a gate first."""
    verdicts = [one.verdict for one in compared]
    ordered = sorted(dict.fromkeys(verdicts), key=lambda verdict: verdict not in FAILING)
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in ordered)
    return f"Of {len(verdicts)} cells: {counts}."


def _extremes(by_ratio: Sequence[Compared]) -> list[Compared]:
    far = sorted(by_ratio, key=lambda one: -abs(math.log(one.ratio or 1)))[:_MOST_DRAWN]
    return sorted(far, key=lambda one: one.ratio or 0)


def _draw(compared: Sequence[Compared], width_inches: float) -> Figure:
    fig = canvas(width_inches, 1.0 + _BAR_INCHES * len(compared))
    axes = fig.subplots()
    changes = [((one.ratio or 1) - 1) * 100 for one in compared]
    # A bound may be extremely large.
    far = 2 * max(map(abs, changes)) + 10
    axes.set_xlim(-min(far, 105), far)
    for height, (one, change) in enumerate(zip(compared, changes, strict=True)):
        colour, shape = _COLOURS.get(one.verdict, MUTED), _SHAPES.get(one.verdict, "D")
        if one.bounds is not None:
            low, high = ((bound - 1) * 100 for bound in one.bounds)
            axes.plot([low, high], [height, height], color=colour, linewidth=1.4)
        axes.plot([change], [height], marker=shape, color=colour, linestyle="none", label=one.verdict)
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.set_yticks(range(len(compared)), _short_names(compared))
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=True, axis="x")
    axes.set_xlabel("change of throughput [%]")
    handles, labels = axes.get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))
    fig.legend(by_label.values(), by_label.keys(), loc="outside lower left", ncols=4)
    return fig


def _short_names(compared: Sequence[Compared]) -> list[str]:
    """The part of each id in brackets, with the benchmark if there are several."""
    split = [one.name.removeprefix("test_").removesuffix("]").partition("[") for one in compared]
    several = len({benchmark for benchmark, _, _ in split}) > 1
    return [f"{benchmark}: {inner}" if several else inner for benchmark, _, inner in split]


def _table(compared: Sequence[Compared]) -> Table:
    rows = []
    for one in compared:
        texts = compared_row(one.name, one.details)
        data = [word(text) if text != "-" else word(None) for text in texts]
        data[2:4] = [_rate(text) for text in texts[2:4]]
        data[4] = Datum(texts[4], one.ratio) if one.ratio else word(None)
        rows.append(Row(data, one.device, one.model))
    return Table("Verdicts", COMPARED_HEADER, rows, is_open=len(rows) <= 12)


def _rate(text: str) -> Datum:
    return word(None) if text == "-" else Datum(text, float(text))


# Two files are a comparison; a history begins with three.
_LEAST_FILES = 3
_MOST_NAMED = 6


@dataclass(frozen=True)
class CellHistory:
    """Iterations per minute of a cell, file by file; None where a file does not have it."""

    identity: Identity
    per_minute: Sequence[float | None]

    @property
    def relative(self) -> list[float]:
        """In percent of the first rate; NaN where there is none."""
        first = next(rate for rate in self.per_minute if rate)
        return [math.nan if rate is None else rate / first * 100 for rate in self.per_minute]

    @property
    def largest_change(self) -> float:
        """Of the rate relative to the first one, as an absolute log ratio."""
        return max(abs(math.log(value / 100)) for value in self.relative if not math.isnan(value))


def history(report_data: ReportData) -> Section | None:
    """The section; None if no cell was measured in three files of one machine."""
    charts, tables, findings = [], [], []
    for index, machine in enumerate(report_data.machines):
        files = report_data.files_of(machine)
        histories = sorted(histories_of(files), key=lambda one: -one.largest_change)
        if not histories:
            continue
        stem = "history" if len(report_data.machines) == 1 else f"history-{index + 1}"
        labels = [commit_of(file) or file.path.stem for file in files]
        title = f"Throughput over commits on {machine.name}, relative to the first"
        charts.append(Chart(stem, title, partial(_draw_history, histories, labels)))
        tables.append(_history_table(machine, histories, labels))
        most = histories[0]
        change = next(value for value in reversed(most.relative) if not math.isnan(value)) - 100
        findings.append(f"{cell_id(most.identity)} moved most; it ends {change:+.3g} % from where it began.")
    if not charts:
        return None
    notes = ["A + is for uncommitted changes. Named are the cells that moved most; grey lines are the others."]
    return Section("history", "History over commits", " ".join(findings), charts=charts, tables=tables, notes=notes)


def histories_of(files: Sequence[RecordFile]) -> list[CellHistory]:
    """The cells that ran in three files or more."""
    rates: dict[Identity, list[float | None]] = {}
    for index, file in enumerate(files):
        for identity, cell in file.cells.items():
            rates.setdefault(identity, [None] * len(files))[index] = cell.iterations_per_minute
    return [
        CellHistory(identity, of_cell)
        for identity, of_cell in rates.items()
        # Searches end at different sizes.
        if sum(rate is not None for rate in of_cell) >= _LEAST_FILES and "largest" not in identity
    ]


def _draw_history(histories: Sequence[CellHistory], labels: Sequence[str], width_inches: float) -> Figure:
    fig = canvas(width_inches, 4.2)
    axes = fig.subplots()
    positions = range(len(labels))
    for one in histories[_MOST_NAMED:]:
        axes.plot(positions, one.relative, color=GRID, linewidth=1)
    for index, one in enumerate(histories[:_MOST_NAMED]):
        own = look(index)
        name = cell_id(one.identity).removeprefix("test_")
        axes.plot(positions, one.relative, color=own.colour, marker=own.marker, linestyle=own.dash, label=name)
    axes.axhline(100, color=MUTED, linewidth=1)
    every = -(-len(labels) // (5 if is_narrow(width_inches) else 14))
    axes.set_xticks(positions[::every], labels[::every])
    axes.tick_params(axis="x", labelsize=7.5)
    axes.set_xlabel("commit, in the order of the files")
    axes.set_ylabel("throughput [% of the first]", rotation_mode="anchor")
    axes.grid(visible=True)
    legend_below(axes, width_inches)
    return fig


def _history_table(machine: Machine, histories: Sequence[CellHistory], labels: Sequence[str]) -> Table:
    rows = [
        Row(
            [
                word(cell_id(one.identity)),
                *(number(rate) for rate in one.per_minute),
            ],
            model=str(one.identity[2]),
        )
        for one in histories
    ]
    return Table(f"Iterations per minute on {machine.name}", ["cell", *labels], rows)
