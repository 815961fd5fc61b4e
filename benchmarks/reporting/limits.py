"""What each device can do at most: rates by how much there is to do, all devices in one plot."""

import textwrap
from collections.abc import Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.reporting.drawing import canvas, is_narrow, look, plain_numbers, tag
from benchmarks.reporting.material import Material, ShownCell
from benchmarks.reporting.section import Chart, Datum, Section, Table, number, row, word
from fixtures.figures import figure, shown_unit
from fixtures.parsing import amount, readable_size
from models.quantities import QUANTITIES

_PANEL_INCHES = 2.2
_TITLE_CHARACTERS = 44


def limits(material: Material) -> Section | None:
    """The section; None if no limit was measured."""
    cells = [cell for cell in material.cells if cell.model in QUANTITIES and cell.word("size")]
    by_quantity: dict[str, list[ShownCell]] = {}
    for cell in cells:
        if cell.ran and cell.number("rate"):
            by_quantity.setdefault(cell.model, []).append(cell)
    if not by_quantity:
        return None
    drawn = {name: own for name, own in by_quantity.items() if len({cell.word("size") for cell in own}) > 1}
    return Section(
        "limits",
        "Limits of the devices",
        _finding(by_quantity),
        charts=[Chart("limits", "Rates by how much there is to do", partial(_draw, drawn))] if drawn else [],
        tables=[_table(cells)],
    )


def _finding(by_quantity: Mapping[str, Sequence[ShownCell]]) -> str:
    """The best copy and the best product of each device."""
    said = []
    for names, what in ((("copy",), "copies"), (("matmul", "convolution"), "computes")):
        best: dict[str, ShownCell] = {}
        for cell in (cell for name in names for cell in by_quantity.get(name, ())):
            if cell.place not in best or _rate(cell) > _rate(best[cell.place]):
                best[cell.place] = cell
        said += [f"{place} {what} at {figure(_rate(cell))} {_unit(cell)}" for place, cell in best.items()]
    return "; ".join(said) + "." if said else "How much must be in flight before a device is busy."


def _rate(cell: ShownCell) -> float:
    return (cell.number("rate") or 0.0) / shown_unit(QUANTITIES[cell.model].rate_unit)[0]


def _unit(cell: ShownCell) -> str:
    return shown_unit(QUANTITIES[cell.model].rate_unit)[1]


def _draw(by_quantity: Mapping[str, Sequence[ShownCell]], width_inches: float) -> Figure:
    columns = 1 if is_narrow(width_inches) else 2
    rows = -(-len(by_quantity) // columns)
    drawn = canvas(width_inches, 0.5 + _PANEL_INCHES * rows)
    panels = drawn.subplots(rows, columns, squeeze=False).ravel()
    names = list(dict.fromkeys(_line_name(cell) for cells in by_quantity.values() for cell in cells))
    for axes, (name, cells) in zip(panels, by_quantity.items(), strict=False):
        _fill(axes, name, cells, names)
    for axes in panels[len(by_quantity) :]:
        axes.set_visible(False)
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    drawn.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=columns)
    return drawn


def _line_name(cell: ShownCell) -> str:
    precision = cell.axes["precision"]
    return cell.place + ("" if precision == "float32" else f", {precision}")


def _fill(axes: Axes, name: str, cells: Sequence[ShownCell], names: Sequence[str]) -> None:
    """One quantity: a line for each device and precision."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for line in names:
        own = sorted((cell for cell in cells if _line_name(cell) == line), key=lambda cell: amount(cell.word("size")))
        if own:
            shown = look(names.index(line))
            (curve,) = axes.plot(
                [amount(cell.word("size")) for cell in own],
                [_rate(cell) for cell in own],
                color=shown.colour,
                marker=shown.marker,
                linestyle=shown.dash,
                label=line,
            )
            tag(curve, own[0])
    quantity = QUANTITIES[name]
    axes.set_title(textwrap.fill(quantity.title, _TITLE_CHARACTERS))
    axes.set_ylabel(_unit(cells[0]), rotation_mode="anchor")
    axes.set_xlabel(quantity.size_unit)
    in_bytes = quantity.size_unit == "bytes"
    axes.xaxis.set_major_locator(LogLocator(base=2 if in_bytes else 10, numticks=5))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: readable_size(value) if in_bytes else figure(value)))
    plain_numbers(axes.yaxis)
    axes.grid(visible=True)


def _table(cells: Sequence[ShownCell]) -> Table:
    rows = []
    for cell in cells:
        rate = cell.number("rate") if cell.ran else None
        rows.append(
            row(
                cell,
                word(cell.place),
                word(QUANTITIES[cell.model].title),
                Datum(cell.word("size"), amount(cell.word("size"))),
                word(cell.axes["precision"]),
                number(None if rate is None else _rate(cell)),
                word(_unit(cell)),
                word(cell.status),
            )
        )
    return Table("Every limit", ("device", "limit", "size", "precision", "rate", "unit", "status"), rows)
