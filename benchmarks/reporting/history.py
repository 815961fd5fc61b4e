"""The history of cells over the files of a machine, commit by commit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from benchmarks.reporting.drawing import GRID, MUTED, canvas, is_narrow, legend_below, look
from benchmarks.reporting.material import Machine, Material, commit_of
from benchmarks.reporting.section import Chart, Datum, Row, Section, Table, word
from fixtures.figures import figure
from fixtures.records.record_files import Identity, RecordFile, cell_id

# Two files are a before and an after; a history begins with three.
_LEAST_FILES = 3
_MOST_NAMED = 6


@dataclass(frozen=True)
class Course:
    """Iterations per minute of a cell, file by file; None where a file has no figures of it."""

    identity: Identity
    per_minute: Sequence[float | None]

    @property
    def relative(self) -> list[float]:
        """To the first figure, in percent; not a number where there is none."""
        first = next(rate for rate in self.per_minute if rate)
        return [math.nan if rate is None else rate / first * 100 for rate in self.per_minute]

    @property
    def moved(self) -> float:
        """How far it came from where it began, as a log ratio."""
        return max(abs(math.log(value / 100)) for value in self.relative if not math.isnan(value))


def history(material: Material) -> Section | None:
    """The section; None if no cell was measured in three files of one machine."""
    charts, tables, findings = [], [], []
    for place, machine in enumerate(material.machines):
        files = material.files_of(machine)
        courses = sorted(courses_of(files), key=lambda course: -course.moved)
        if not courses:
            continue
        stem = "history" if len(material.machines) == 1 else f"history-{place + 1}"
        labels = [commit_of(file) or file.path.stem for file in files]
        title = f"Throughput over commits on {machine.name}, relative to the first"
        charts.append(Chart(stem, title, partial(_draw, courses, labels)))
        tables.append(_table(machine, courses, labels))
        most = courses[0]
        change = next(value for value in reversed(most.relative) if not math.isnan(value)) - 100
        findings.append(f"{cell_id(most.identity)} moved most; it ends {change:+.3g} % from where it began.")
    if not charts:
        return None
    notes = ["A + is for uncommitted changes. Named are the cells that moved most; grey lines are the others."]
    return Section("history", "History over commits", " ".join(findings), charts=charts, tables=tables, notes=notes)


def courses_of(files: Sequence[RecordFile]) -> list[Course]:
    """The cells with figures in three files or more."""
    rates: dict[Identity, list[float | None]] = {}
    for place, file in enumerate(files):
        for identity, cell in file.cells.items():
            course = rates.setdefault(identity, [None] * len(files))
            course[place] = 60 / cell["median_seconds"] if cell["status"] == "ok" else None
    return [
        Course(identity, course)
        for identity, course in rates.items()
        # Searches end at other sizes.
        if sum(rate is not None for rate in course) >= _LEAST_FILES and "largest" not in identity
    ]


def _draw(courses: Sequence[Course], labels: Sequence[str], width_inches: float) -> Figure:
    drawn = canvas(width_inches, 4.2)
    axes = drawn.subplots()
    places = range(len(labels))
    for course in courses[_MOST_NAMED:]:
        axes.plot(places, course.relative, color=GRID, linewidth=1)
    for place, course in enumerate(courses[:_MOST_NAMED]):
        own = look(place)
        name = cell_id(course.identity).removeprefix("test_")
        axes.plot(places, course.relative, color=own.colour, marker=own.marker, linestyle=own.dash, label=name)
    axes.axhline(100, color=MUTED, linewidth=1)
    every = -(-len(labels) // (5 if is_narrow(width_inches) else 14))
    axes.set_xticks(places[::every], labels[::every])
    axes.tick_params(axis="x", labelsize=7.5)
    axes.set_xlabel("commit, in the order of the files")
    axes.set_ylabel("throughput [% of the first]", rotation_mode="anchor")
    axes.grid(visible=True)
    legend_below(axes, width_inches)
    return drawn


def _table(machine: Machine, courses: Sequence[Course], labels: Sequence[str]) -> Table:
    rows = [
        Row(
            [
                word(cell_id(course.identity)),
                *(word(None) if rate is None else Datum(figure(rate), rate) for rate in course.per_minute),
            ],
            model=str(course.identity[2]),
        )
        for course in courses
    ]
    return Table(f"Iterations per minute on {machine.name}", ["cell", *labels], rows)
