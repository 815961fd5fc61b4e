"""What a section is made of: a finding, charts, and tables whose entries know what they are sorted by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from benchmarks.reporting.data import ShownCell
from fixtures.formatting import figure, readable_size

NOTHING = "–"


@dataclass(frozen=True)
class Datum:
    """An entry of a table: its text, and what it is sorted by where that is a number."""

    text: str
    value: float | None = None

    @property
    def is_number(self) -> bool:
        return self.value is not None or self.text == NOTHING


def word(text: object) -> Datum:
    """A text, or nothing."""
    return Datum(str(text) if text not in (None, "") else NOTHING)


def number(value: float | None, per: float = 1.0) -> Datum:
    """A number with four digits, in units of `per`."""
    return Datum(NOTHING) if value is None else Datum(figure(value / per), value)


def memory(amount_bytes: float | None) -> Datum:
    """Bytes in a unit for people."""
    return Datum(NOTHING) if amount_bytes is None else Datum(readable_size(amount_bytes), amount_bytes)


def percent(share: float | None) -> Datum:
    """A share of 1."""
    return Datum(NOTHING) if share is None else Datum(f"{share * 100:.3g} %", share)


def size(cell: ShownCell) -> Datum:
    """The resolution of a cell, sorted by its pixels."""
    return Datum(cell.size_px or NOTHING, cell.pixels)


@dataclass(frozen=True)
class Row:
    """A line of a table, and what the page's filter knows of it."""

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
    """Names of columns, with units, and rows with as many data.

    Attributes:
        is_open: whether it is seen before anyone asks for it.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Row]
    is_open: bool = False


@dataclass(frozen=True)
class Chart:
    """A plot, drawn for a width: a phone gets a drawing of its own, not a smaller one.

    Attributes:
        name: stem of its files.
        draw: from the width in inches; called with the report's style set.
    """

    name: str
    title: str
    draw: Callable[[float], Figure]


@dataclass(frozen=True)
class Picture:
    """A generated picture, in the gallery.

    Attributes:
        data_uri: of a copy that is small enough for the page.
    """

    data_uri: str
    caption: str
    cell: ShownCell


@dataclass(frozen=True)
class Section:
    """A part of the report. One without data is not made at all.

    Attributes:
        name: its anchor.
        finding: one sentence on what is seen.
        notes: what a reader must know to read it rightly.
        facts: names and values, for a section that is a list of facts, by heading.
    """

    name: str
    title: str
    finding: str
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    notes: Sequence[str] = ()
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
