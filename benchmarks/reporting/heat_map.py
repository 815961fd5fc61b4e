"""A map of model and resolution for each device: what fits shows its rate, what does not shows why."""

import math
from collections.abc import Sequence
from functools import partial

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from benchmarks.reporting.drawing import GRID, INK, MUTED, PAPER, canvas, is_narrow, lightness, tag
from benchmarks.reporting.material import Material, ShownCell
from benchmarks.reporting.section import Chart, Datum, Row, Section, Table, word
from benchmarks.reporting.throughput import lines_of
from fixtures.figures import figure

_ROW_INCHES = 0.46
# Dark to light for every colour vision, and as a grey (Nunez et al. 2018).
_COLOURS = "cividis"
_DARK = 0.5
_SHORT = {"out_of_memory": "out of\nmemory"}


def heat_map(material: Material) -> Section | None:
    """The section; None if there are no style iterations."""
    lines = lines_of(material.iterations)
    cells = [cell for line in sorted(lines, key=lambda line: line[0].model) for cell in line]
    if not cells:
        return None
    places = list(dict.fromkeys(cell.place for cell in cells))
    charts = []
    for number, place in enumerate(places):
        own = [cell for cell in cells if cell.place == place]
        stem = "fits" if len(places) == 1 else f"fits-{number + 1}"
        charts.append(Chart(stem, f"Iterations per minute by model and resolution on {place}", partial(_draw, own)))
    failed = [cell for cell in cells if not cell.ran]
    return Section(
        "fits",
        "What fits, and how fast",
        _finding(cells, failed),
        charts=charts,
        tables=[_table(place, [cell for cell in cells if cell.place == place]) for place in places],
        notes=["Lighter is faster, on a logarithmic scale. A hatched cell has no figures, and says why."],
    )


def _sizes(cells: Sequence[ShownCell]) -> dict[int, str]:
    return dict(sorted({cell.pixels: cell.size_px for cell in cells}.items()))


def _draw(cells: Sequence[ShownCell], width_inches: float) -> Figure:
    names = list(dict.fromkeys(cell.name for cell in cells))
    sizes = list(_sizes(cells))
    drawn = canvas(width_inches, 0.7 + _ROW_INCHES * len(names))
    axes = drawn.subplots()
    rates = [math.log(cell.per_minute) for cell in cells if cell.per_minute]
    low, high = (min(rates), max(rates)) if rates else (0.0, 1.0)
    for cell in cells:
        where = sizes.index(cell.pixels), names.index(cell.name)
        if cell.per_minute:
            colour = mpl.colormaps[_COLOURS]((math.log(cell.per_minute) - low) / (high - low or 1.0))
            _box(axes, cell, where, figure(cell.per_minute), colour, width_inches)
        else:
            _box(axes, cell, where, _SHORT.get(cell.status, cell.status), None, width_inches)
    axes.set_xlim(0, len(sizes))
    axes.set_ylim(len(names), 0)
    axes.set_xticks([place + 0.5 for place in range(len(sizes))], _labels(cells, width_inches))
    axes.set_yticks([place + 0.5 for place in range(len(names))], names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("resolution [px]; in the cells iterations per minute")
    return drawn


def _labels(cells: Sequence[ShownCell], width_inches: float) -> list[str]:
    broken = " ×\n" if is_narrow(width_inches) else " × "
    return [label.replace(" × ", broken) for label in _sizes(cells).values()]


def _box(
    axes: Axes,
    cell: ShownCell,
    where: tuple[int, int],
    text: str,
    colour: tuple[float, float, float, float] | None,
    width_inches: float,
) -> None:
    """One cell of the map; without a colour it has no figures."""
    x, y = where
    box = Rectangle((x, y), 1, 1, facecolor=colour or "none", edgecolor=PAPER if colour else GRID, linewidth=1.5)
    if colour is None:
        box.set_hatch("////")
    tag(axes.add_patch(box), cell)
    ink = MUTED if colour is None else ("#ffffff" if lightness(colour) < _DARK else "#000000")
    tag(
        axes.text(
            x + 0.5,
            y + 0.5,
            text + (" *" if cell.doubts else ""),
            ha="center",
            va="center",
            color=INK if colour is None else ink,
            fontsize=6.5 if is_narrow(width_inches) else 8.5,
            linespacing=1.0,
        ),
        cell,
    )


def _finding(cells: Sequence[ShownCell], failed: Sequence[ShownCell]) -> str:
    if not failed:
        largest = max(cells, key=lambda cell: cell.pixels)
        return f"Everything that was tried ran, up to {largest.size_px} px."
    statuses = [cell.status.replace("_", " ") for cell in failed]
    counted = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    return f"{len(cells) - len(failed)} of {len(cells)} cells have figures; the others: {counted}."


def _table(place: str, cells: Sequence[ShownCell]) -> Table:
    sizes = _sizes(cells)
    rows = []
    for name in dict.fromkeys(cell.name for cell in cells):
        by_pixels = {cell.pixels: cell for cell in cells if cell.name == name}
        model = next(iter(by_pixels.values())).model
        rows.append(Row([word(name), *(_datum(by_pixels.get(pixels)) for pixels in sizes)], place, model))
    return Table(f"Iterations per minute on {place}", ["model", *(f"{label} px" for label in sizes.values())], rows)


def _datum(cell: ShownCell | None) -> Datum:
    if cell is None or not cell.per_minute:
        return word(cell and cell.status)
    return Datum(figure(cell.per_minute), cell.per_minute)
