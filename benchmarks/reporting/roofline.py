"""The roofline of each device (Williams, Waterman & Patterson 2009), with its cells.

Also the limits of the devices: rates by working size, all devices in one plot.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.reporting.data import ReportData, ShownCell
from benchmarks.reporting.plotting import (
    DASHES,
    INK,
    Look,
    canvas,
    is_narrow,
    legend_below,
    look,
    looks,
    plain_numbers,
    tag,
)
from benchmarks.reporting.sections import Chart, Datum, Section, Table, number, percent, row, size, word
from fixtures.formatting import figure, readable_size, shown_unit
from fixtures.parsing import amount
from models.microbenchmarks import QUANTITIES


@dataclass(frozen=True)
class Roof:
    """Peak arithmetic of a device in one precision, and its bandwidth; None if unknown."""

    precision: str
    flops_per_second: float
    bytes_per_second: float | None


def roofline(report_data: ReportData) -> Section | None:
    """The section; None if no cell has a share of its ceiling."""
    placed = [cell for cell in report_data.cells if cell.ran and cell.number("ceiling_share")]
    if not placed:
        return None
    places = list(dict.fromkeys(cell.place for cell in placed))
    charts = [
        Chart(
            "roofline" if len(places) == 1 else f"roofline-{index + 1}",
            f"Roofline of {place}",
            partial(_draw, [cell for cell in placed if cell.place == place], looks(report_data)),
        )
        for index, place in enumerate(places)
    ]
    best = max(placed, key=lambda cell: cell.number("ceiling_share") or 0)
    notes = [
        "Across: arithmetic intensity. Hollow: training; half: gradient to the input. The roof: copies and matrix"
        " products, measured there as well."
    ]
    if (best.number("ceiling_share") or 0) > 1:
        notes.append(
            "Above the roof: Winograd or FFT convolutions do fewer operations than are counted, layers that stay in a"
            " cache move fewer bytes, or the limits were measured on a busy machine."
        )
    return Section(
        "roofline",
        "Roofline",
        f"{best.name} ({_axes_of(best)}) comes nearest to its ceiling on {best.place}:"
        f" {(best.number('ceiling_share') or 0) * 100:.0f} %.",
        charts=charts,
        tables=[_table(placed)],
        notes=notes,
    )


def roofs_of(cells: Sequence[ShownCell]) -> list[Roof]:
    """The roof of each precision, from the ceilings of cells: flat if bound by arithmetic, sloped if by memory."""
    slope = None
    flat: dict[str, float] = {}
    for cell in cells:
        ceiling, intensity = _ceiling(cell), _intensity(cell)
        if cell.word("ceiling_bound_by") == "memory":
            slope = max(slope or 0.0, ceiling / intensity)
        else:
            flat[cell.precision] = max(flat.get(cell.precision, 0.0), ceiling)
    return [Roof(precision, peak, slope) for precision, peak in flat.items()]


def _ceiling(cell: ShownCell) -> float:
    return cell.number("ceiling_flops_per_second") or 0.0


def _intensity(cell: ShownCell) -> float:
    return cell.number("arithmetic_intensity_flops_per_byte") or 1.0


def _reached(cell: ShownCell) -> float:
    """FLOP per second."""
    return (cell.number("ceiling_share") or 0.0) * _ceiling(cell)


def _draw(cells: Sequence[ShownCell], known: Mapping[tuple[str, str], Look], width_inches: float) -> Figure:
    fig = canvas(width_inches, 4.4)
    axes = fig.subplots()
    axes.set_xscale("log")
    axes.set_yscale("log")
    intensities = [_intensity(cell) for cell in cells]
    along = np.geomspace(min(intensities) / 2, max(intensities) * 2, 200)
    for index, roof in enumerate(roofs_of(cells)):
        sloped = along * (roof.bytes_per_second or np.inf)
        height = np.minimum(sloped, roof.flops_per_second) / 1e9
        axes.plot(along, height, color=INK, linestyle=DASHES[index % len(DASHES)], linewidth=1.2)
        axes.annotate(
            f"{roof.precision}: {figure(roof.flops_per_second / 1e9)} GFLOP/s",
            (along[-1], height[-1]),
            xytext=(-2, 4),
            textcoords="offset points",
            ha="right",
            fontsize=7.5,
        )
    named: set[str] = set()
    for cell in cells:
        look = known[cell.place, cell.model]
        (point,) = axes.plot(
            [_intensity(cell)],
            [_reached(cell) / 1e9],
            linestyle="none",
            marker=look.marker,
            color=look.colour,
            markerfacecolor="none" if cell.mode == "training" else look.colour,
            markerfacecoloralt="none",
            fillstyle="left" if cell.mode == "input" else "full",
            label=None if cell.model in named else cell.model,
        )
        named.add(cell.model)
        tag(point, cell)
    for axis in (axes.xaxis, axes.yaxis):
        plain_numbers(axis)
    axes.grid(visible=True)
    axes.set_xlabel("FLOP per byte, logarithmic")
    axes.set_ylabel("GFLOP per second, logarithmic", rotation_mode="anchor")
    legend_below(axes, width_inches)
    return fig


def _axes_of(cell: ShownCell) -> str:
    words = [f"{cell.size_px} px", cell.mode, f"batch {cell.batch}" if cell.mode else ""]
    return ", ".join(word for word in words if word)


def _table(cells: Sequence[ShownCell]) -> Table:
    header = (
        "device", "benchmark", "model", "resolution [px]", "batch", "mode", "precision", "intensity [FLOP/B]",
        "reached [GFLOP/s]", "ceiling [GFLOP/s]", "bound by", "of ceiling",
    )  # fmt: skip
    rows = [
        row(
            cell,
            word(cell.place),
            word(cell.benchmark.removeprefix("test_")),
            word(cell.name),
            size(cell),
            word(cell.batch),
            word(cell.mode),
            word(cell.precision),
            number(_intensity(cell)),
            number(_reached(cell), 1e9),
            number(_ceiling(cell), 1e9),
            word(cell.word("ceiling_bound_by")),
            percent(cell.number("ceiling_share")),
        )
        for cell in cells
    ]
    return Table("Share of the ceiling that each cell reaches", header, rows)


_PANEL_INCHES = 2.2
_TITLE_CHARACTERS = 44


def limits(report_data: ReportData) -> Section | None:
    """The section; None if no limit was measured."""
    cells = [cell for cell in report_data.cells if cell.kind == "device_limit"]
    by_quantity: dict[str, list[ShownCell]] = {}
    for cell in cells:
        if cell.ran and cell.rate:
            by_quantity.setdefault(cell.model, []).append(cell)
    if not by_quantity:
        return None
    drawn = {name: own for name, own in by_quantity.items() if len({cell.size for cell in own}) > 1}
    return Section(
        "limits",
        "Limits of the devices",
        _finding(by_quantity),
        charts=[Chart("limits", "Rates by how much there is to do", partial(_draw_limits, drawn))] if drawn else [],
        tables=[_limits_table(cells)],
    )


def _finding(by_quantity: Mapping[str, Sequence[ShownCell]]) -> str:
    """The best copy and the best product or convolution of each device."""
    maxima = []
    for names, what in ((("copy",), "copies"), (("matmul", "convolution"), "computes")):
        best: dict[str, ShownCell] = {}
        for cell in (cell for name in names for cell in by_quantity.get(name, ())):
            if cell.place not in best or _rate(cell) > _rate(best[cell.place]):
                best[cell.place] = cell
        maxima += [f"{place} {what} at {figure(_rate(cell))} {_unit(cell)}" for place, cell in best.items()]
    return "; ".join(maxima) + "." if maxima else "How much must be in flight before a device is busy."


def _rate(cell: ShownCell) -> float:
    return (cell.rate or 0.0) / shown_unit(cell.rate_unit)[0]


def _unit(cell: ShownCell) -> str:
    return shown_unit(cell.rate_unit)[1]


def _draw_limits(by_quantity: Mapping[str, Sequence[ShownCell]], width_inches: float) -> Figure:
    columns = 1 if is_narrow(width_inches) else 2
    rows = -(-len(by_quantity) // columns)
    fig = canvas(width_inches, 0.5 + _PANEL_INCHES * rows)
    panels = fig.subplots(rows, columns, squeeze=False).ravel()
    names = list(dict.fromkeys(_line_name(cell) for cells in by_quantity.values() for cell in cells))
    for axes, (name, cells) in zip(panels, by_quantity.items(), strict=False):
        _fill(axes, name, cells, names)
    for axes in panels[len(by_quantity) :]:
        axes.set_visible(False)
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    fig.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=columns)
    return fig


def _line_name(cell: ShownCell) -> str:
    return cell.place + ("" if cell.precision == "float32" else f", {cell.precision}")


def _fill(axes: Axes, name: str, cells: Sequence[ShownCell], names: Sequence[str]) -> None:
    """Draw one quantity: a line for each device and precision."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for line in names:
        own = sorted((cell for cell in cells if _line_name(cell) == line), key=lambda cell: amount(cell.size))
        if own:
            shown = look(names.index(line))
            (curve,) = axes.plot(
                [amount(cell.size) for cell in own],
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


def _limits_table(cells: Sequence[ShownCell]) -> Table:
    rows = []
    for cell in cells:
        rate = cell.rate if cell.ran else None
        rows.append(
            row(
                cell,
                word(cell.place),
                word(QUANTITIES[cell.model].title),
                Datum(cell.size, amount(cell.size)),
                word(cell.precision),
                number(None if rate is None else _rate(cell)),
                word(_unit(cell)),
                word(cell.status),
            )
        )
    return Table("Every limit", ("device", "limit", "size", "precision", "rate", "unit", "status"), rows)
