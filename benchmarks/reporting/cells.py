"""Every cell of every file, to be sorted and filtered."""

from benchmarks.reporting.material import Material, ShownCell
from benchmarks.reporting.section import Datum, Section, Table, memory, number, row, size, word

_HEADER = (
    "benchmark", "device", "model", "further", "resolution [px]", "iterations/min", "images/s",
    "ms/iteration", "peak memory", "status", "message",
)  # fmt: skip


def all_cells(material: Material) -> Section | None:
    """The section; None if there are no cells."""
    if not material.cells:
        return None
    rows = [
        row(
            cell,
            word(cell.word("benchmark").removeprefix("test_")),
            word(cell.place),
            word(cell.model),
            word(cell.further),
            size(cell) if cell.pixels else word(cell.axes["resolution"]),
            number(cell.per_minute),
            number(cell.number("images_per_second") if cell.ran else None),
            number(cell.seconds, 1e-3),
            memory(cell.peak_bytes),
            word(_status(cell)),
            _message(cell),
        )
        for cell in material.cells
    ]
    doubtful = sum(bool(cell.doubts) for cell in material.cells)
    marked = f"{doubtful} cell is" if doubtful == 1 else f"{doubtful} cells are"
    notes = [f"{marked} marked *: the device throttled, or was shared with others."] if doubtful else []
    finding = "Click a heading to sort; the filter above narrows all tables and dims the plots."
    return Section(
        "cells", "All cells", finding, tables=(Table("Every cell", _HEADER, rows, is_open=True),), notes=notes
    )


def _status(cell: ShownCell) -> str:
    cause = cell.word("cause") or cell.word("phase")
    return cell.status + (f" ({cause})" if cause and not cell.ran else "")


def _message(cell: ShownCell) -> Datum:
    said = cell.word("message") if not cell.ran else "; ".join(cell.doubts)
    return word(said if len(said) <= 200 else said[:199] + "…")
