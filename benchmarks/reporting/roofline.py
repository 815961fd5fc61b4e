"""The roofline of each device (Williams, Waterman & Patterson 2009), with the cells under it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from benchmarks.reporting.drawing import DASHES, INK, Look, canvas, legend_below, looks, plain_numbers, tag
from benchmarks.reporting.material import Material, ShownCell
from benchmarks.reporting.section import Chart, Section, Table, number, percent, row, size, word
from fixtures.figures import figure


@dataclass(frozen=True)
class Roof:
    """What a device can do in one precision: FLOP/s, and bytes/s where that is known."""

    precision: str
    flops_per_second: float
    bytes_per_second: float | None


def roofline(material: Material) -> Section | None:
    """The section; None if the share of the ceiling is known of no cell."""
    placed = [cell for cell in material.cells if cell.ran and cell.number("ceiling_share")]
    if not placed:
        return None
    places = list(dict.fromkeys(cell.place for cell in placed))
    charts = [
        Chart(
            "roofline" if len(places) == 1 else f"roofline-{number_ + 1}",
            f"Roofline of {place}",
            partial(_draw, [cell for cell in placed if cell.place == place], looks(material)),
        )
        for number_, place in enumerate(places)
    ]
    best = max(placed, key=lambda cell: cell.number("ceiling_share") or 0)
    notes = [
        "Across: arithmetic intensity. Hollow: training. The roof: copies and matrix products, measured there as well."
    ]
    if (best.number("ceiling_share") or 0) > 1:
        notes.append(
            "Above the roof: Winograd or FFT convolutions do fewer operations than are counted, layers that stay in a"
            " cache move fewer bytes, or the limits were measured on a busy machine."
        )
    return Section(
        "roofline",
        "Roofline",
        f"{best.name} ({_question(best)}) comes nearest to its ceiling on {best.place}:"
        f" {(best.number('ceiling_share') or 0) * 100:.0f} %.",
        charts=charts,
        tables=[_table(placed)],
        notes=notes,
    )


def roofs_of(cells: Sequence[ShownCell]) -> list[Roof]:
    """The roof of each precision, from the ceilings of cells: flat where arithmetic binds, sloped where memory does."""
    slope = None
    flat: dict[str, float] = {}
    for cell in cells:
        ceiling, intensity = _ceiling(cell), _intensity(cell)
        if cell.word("ceiling_bound_by") == "memory":
            slope = max(slope or 0.0, ceiling / intensity)
        else:
            precision = str(cell.axes["precision"])
            flat[precision] = max(flat.get(precision, 0.0), ceiling)
    return [Roof(precision, peak, slope) for precision, peak in flat.items()]


def _ceiling(cell: ShownCell) -> float:
    return cell.number("ceiling_flops_per_second") or 0.0


def _intensity(cell: ShownCell) -> float:
    return cell.number("arithmetic_intensity_flops_per_byte") or 1.0


def _reached(cell: ShownCell) -> float:
    """FLOP per second."""
    return (cell.number("ceiling_share") or 0.0) * _ceiling(cell)


def _draw(cells: Sequence[ShownCell], known: Mapping[tuple[str, str], Look], width_inches: float) -> Figure:
    drawn = canvas(width_inches, 4.4)
    axes = drawn.subplots()
    axes.set_xscale("log")
    axes.set_yscale("log")
    intensities = [_intensity(cell) for cell in cells]
    along = np.geomspace(min(intensities) / 2, max(intensities) * 2, 200)
    for place, roof in enumerate(roofs_of(cells)):
        sloped = along * (roof.bytes_per_second or np.inf)
        height = np.minimum(sloped, roof.flops_per_second) / 1e9
        axes.plot(along, height, color=INK, linestyle=DASHES[place % len(DASHES)], linewidth=1.2)
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
            markerfacecolor="none" if cell.word("mode") == "training" else look.colour,
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
    return drawn


def _question(cell: ShownCell) -> str:
    words = [f"{cell.size_px} px", cell.word("mode"), f"batch {cell.axes['batch']}" if cell.word("mode") else ""]
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
            word(cell.word("benchmark").removeprefix("test_")),
            word(cell.name),
            size(cell),
            word(cell.axes["batch"]),
            word(cell.word("mode")),
            word(cell.axes["precision"]),
            number(_intensity(cell)),
            number(_reached(cell), 1e9),
            number(_ceiling(cell), 1e9),
            word(cell.word("ceiling_bound_by")),
            percent(cell.number("ceiling_share")),
        )
        for cell in cells
    ]
    return Table("Share of the ceiling that each cell reaches", header, rows)
