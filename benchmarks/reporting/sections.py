"""The parts of a section: a finding, charts, and tables with sortable entries."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from benchmarks.reporting.data import ShownCell
from fixtures.formatting import figure, readable_size
from fixtures.records.device_time import launch_marked

NOTHING = "–"


@dataclass(frozen=True)
class Datum:
    """An entry of a table: its text, and for a number its value, by which the page sorts."""

    text: str
    value: float | None = None

    @property
    def is_number(self) -> bool:
        return self.value is not None or self.text == NOTHING


def word(text: object) -> Datum:
    """A text; a dash if it is empty."""
    return Datum(str(text) if text not in (None, "") else NOTHING)


def number(value: float | None, per: float = 1.0) -> Datum:
    """A number with four digits, in units of `per`."""
    return Datum(NOTHING) if value is None else Datum(figure(value / per), value)


def memory(amount_bytes: float | None) -> Datum:
    """Bytes in a readable unit."""
    return Datum(NOTHING) if amount_bytes is None else Datum(readable_size(amount_bytes), amount_bytes)


def percent(share: float | None) -> Datum:
    """A share of 1."""
    return Datum(NOTHING) if share is None else Datum(f"{share * 100:.3g} %", share)


def size(cell: ShownCell) -> Datum:
    """The resolution of a cell, sorted by its pixels."""
    return Datum(cell.size_px or NOTHING, cell.pixels)


# Columns that identify any cell.
IDENTIFIED = ("benchmark", "device", "model", "further", "resolution [px]")


def identified(cell: ShownCell) -> tuple[Datum, ...]:
    """The columns `IDENTIFIED` of a cell."""
    return (
        word(cell.benchmark.removeprefix("test_")),
        word(cell.place),
        word(cell.model),
        word(cell.further),
        size(cell) if cell.pixels else word(cell.resolution),
    )


# Columns that identify a style iteration among all of them.
STYLE_CELL = ("device", "model", "variant", "resolution [px]")


def style_cell(cell: ShownCell) -> tuple[Datum, ...]:
    """The columns `STYLE_CELL` of a cell."""
    return word(cell.place), word(cell.model), word(cell.variant or "plain"), size(cell)


def status(cell: ShownCell) -> Datum:
    """The status of a cell; `ok, launch-bound` where the device waited for the host."""
    return word(launch_marked(cell, cell.status))


@dataclass(frozen=True)
class Row:
    """A line of a table, with the values for the page's filter."""

    data: Sequence[Datum]
    place: str = ""
    model: str = ""
    status: str = ""
    doubts: Sequence[str] = ()


def row(cell: ShownCell, *data: Datum) -> Row:
    """A line about a cell."""
    return Row(data, cell.place, cell.model, cell.status, cell.doubts)


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        header: names of the columns, with units.
        is_open: whether it is unfolded at first.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Row]
    is_open: bool = False


@dataclass(frozen=True)
class Chart:
    """A plot. It is drawn for wide pages and again for narrow ones.

    Attributes:
        name: stem of its files.
        draw: makes the figure for a width in inches; called within `plotting.style`.
    """

    name: str
    title: str
    draw: Callable[[float], Figure]


@dataclass(frozen=True)
class Picture:
    """A generated picture in the gallery.

    Attributes:
        data_uri: a small copy for the page.
    """

    data_uri: str
    caption: str
    cell: ShownCell


@dataclass(frozen=True)
class Section:
    """A part of the report; there are none without data.

    Attributes:
        name: its anchor in the page.
        finding: one sentence with the main result.
        notes: conditions that a reader must know.
        facts: by heading, names and values for a section that is a list of facts.
    """

    name: str
    title: str
    finding: str
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    notes: Sequence[str] = ()
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
