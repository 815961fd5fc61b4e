"""Iterations per minute against pixels, up to the size where each line ends.

Also a map of model and resolution for each device: rates, and for sizes that do not fit the reason.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from benchmarks.reporting.data import ReportData, ShownCell
from benchmarks.reporting.plotting import (
    GRID,
    INK,
    MARKERS,
    MUTED,
    PAPER,
    Look,
    canvas,
    curve,
    is_narrow,
    legend_below,
    lightness,
    looks,
    plain_numbers,
    size_ticks,
    tag,
)
from benchmarks.reporting.sections import (
    STYLE_CELL,
    Chart,
    Datum,
    Row,
    Section,
    Table,
    number,
    percent,
    row,
    status,
    style_cell,
    word,
)
from fixtures.formatting import figure

# More lines than this cannot be distinguished.
MOST_LINES = 8

Line = tuple[ShownCell, ...]


def throughput(report_data: ReportData) -> Section | None:
    """The section; None if no style iteration ran."""
    cells = report_data.iterations
    lines = lines_of(cells)[:MOST_LINES]
    if not any(cell.ran for cell in cells):
        return None
    hidden = len({(cell.place, cell.name) for cell in cells}) - len(lines)
    notes = [f"{hidden} more combinations of device, model and strategy are in the table only."] if hidden else []
    if any(not cell.ran for line in lines for cell in line):
        notes.append("A cross on the axis: at this size the line ends, and why.")
    threads = sorted({count for cell in cells if (count := cell.threads)})
    if len(threads) > 1:
        notes.append(f"Threads differ between cells: {', '.join(f'{count:g}' for count in threads)}.")
    return Section(
        "throughput",
        "Iterations per minute by image size",
        _finding(lines),
        charts=(
            Chart(
                "throughput", "Style iterations per minute against pixels", partial(_draw, lines, looks(report_data))
            ),
        ),
        tables=(_table(cells),),
        notes=notes,
    )


def lines_of(cells: Sequence[ShownCell]) -> list[Line]:
    """Cells of each device, model and variant, by size.

    Variants are included if they have several sizes, or a size larger than the plain line.
    """
    groups: dict[tuple[str, str], list[ShownCell]] = {}
    for cell in cells:
        groups.setdefault((cell.place, cell.name), []).append(cell)
    lines = [tuple(sorted(group, key=lambda cell: cell.pixels)) for group in groups.values()]
    most_px = {(line[0].place, line[0].model): _most_px(line) for line in lines if not line[0].variant}
    kept = [
        line
        for line in lines
        if not line[0].variant or len(line) > 1 or _most_px(line) > most_px.get((line[0].place, line[0].model), 0)
    ]
    return sorted(kept, key=lambda line: bool(line[0].variant))


def _most_px(line: Sequence[ShownCell]) -> int:
    return max((cell.pixels for cell in line if cell.ran), default=0)


def look_of(line: Line, lines: Sequence[Line], known: Mapping[tuple[str, str], Look]) -> Look:
    """The look of a line: that of its device and model; variants have other markers and are dotted."""
    own = known[line[0].place, line[0].model]
    if not line[0].variant:
        return own
    variants = list(dict.fromkeys(other[0].variant for other in lines if other[0].variant))
    marker = MARKERS[-1 - variants.index(line[0].variant) % len(MARKERS)]
    return Look(own.colour, marker, ":")


def _draw(lines: Sequence[Line], known: Mapping[tuple[str, str], Look], width_inches: float) -> Figure:
    fig = canvas(width_inches, 4.4)
    axes = fig.subplots()
    axes.set_yscale("log")
    size_ticks(axes, [cell for line in lines for cell in line], width_inches)
    for line in lines:
        look = look_of(line, lines, known)
        ran = [cell for cell in line if cell.ran]
        face = "none" if line[0].variant else look.colour
        label = f"{line[0].name} on {line[0].place}"
        curve(axes, ran, lambda cell: cell.iterations_per_minute, look, line[0], markerfacecolor=face, label=label)
        mark_end(axes, line, look, line[0].name)
    axes.grid(visible=True)
    plain_numbers(axes.yaxis)
    axes.set_ylabel("iterations per minute, logarithmic", rotation_mode="anchor")
    legend_below(axes, width_inches)
    return fig


def mark_end(axes: Axes, line: Line, look: Look, name: str) -> None:
    """A cross on the axis at the first size that failed, with its status."""
    failed = [cell for cell in line if not cell.ran and cell.status != "skipped"]
    if not failed:
        return
    end = failed[0]
    where = axes.get_xaxis_transform()
    tag(axes.axvline(end.pixels, color=look.colour, linestyle=":", linewidth=1), end)
    (cross,) = axes.plot(
        [end.pixels], [0], "x", color=look.colour, markersize=8, markeredgewidth=2.2, transform=where, clip_on=False
    )
    tag(cross, end)
    already = len(axes.texts)
    tag(
        axes.annotate(
            f"{name}: {end.status.replace('_', ' ')}",
            (end.pixels, 0.03 + 0.05 * already),
            xycoords=where,
            xytext=(-5, 0),
            textcoords="offset points",
            horizontalalignment="right",
            fontsize=7.5,
        ),
        end,
    )


def _finding(lines: Sequence[Line]) -> str:
    ran = [cell for line in lines for cell in line if cell.ran]
    fastest = max(ran, key=lambda cell: cell.iterations_per_minute or 0)
    largest = max(ran, key=lambda cell: cell.pixels)
    fast, slow = (figure(cell.iterations_per_minute or 0) for cell in (fastest, largest))
    return (
        f"From {fast} iterations per minute ({fastest.name}, {fastest.size_px} px, on {fastest.place}) to {slow} at"
        f" {largest.size_px} px ({largest.name})."
    )


def _table(cells: Sequence[ShownCell]) -> Table:
    header = (
        *STYLE_CELL, "iterations/min", "ms/iteration", "spread", "rounds",
        "threads", "status",
    )  # fmt: skip
    return Table(
        "Rates of all style iterations",
        header,
        [
            row(
                cell,
                *style_cell(cell),
                number(cell.iterations_per_minute),
                number(cell.median_seconds, 1e-3),
                percent(cell.spread),
                number(cell.rounds or None),
                number(cell.threads),
                status(cell),
            )
            for cell in cells
        ],
    )


_ROW_INCHES = 0.46
# From dark to light for every colour vision, and in grey (Nunez et al. 2018).
_COLOURS = "cividis"
_DARK = 0.5
_SHORT = {"out_of_memory": "out of\nmemory"}


def heat_map(report_data: ReportData) -> Section | None:
    """The section; None if there are no style iterations."""
    lines = lines_of(report_data.iterations)
    cells = [cell for line in sorted(lines, key=lambda line: line[0].model) for cell in line]
    if not cells:
        return None
    places = list(dict.fromkeys(cell.place for cell in cells))
    charts = []
    for index, place in enumerate(places):
        own = [cell for cell in cells if cell.place == place]
        stem = "fits" if len(places) == 1 else f"fits-{index + 1}"
        charts.append(
            Chart(stem, f"Iterations per minute by model and resolution on {place}", partial(_draw_heat_map, own))
        )
    failed = [cell for cell in cells if not cell.ran]
    return Section(
        "fits",
        "What fits, and how fast",
        _heat_map_finding(cells, failed),
        charts=charts,
        tables=[_heat_map_table(place, [cell for cell in cells if cell.place == place]) for place in places],
        notes=["Lighter is faster, on a logarithmic scale. A hatched cell has no figures, and says why."],
    )


def _sizes(cells: Sequence[ShownCell]) -> dict[int, str]:
    return dict(sorted({cell.pixels: cell.size_px for cell in cells}.items()))


def _draw_heat_map(cells: Sequence[ShownCell], width_inches: float) -> Figure:
    names = list(dict.fromkeys(cell.name for cell in cells))
    sizes = list(_sizes(cells))
    fig = canvas(width_inches, 0.7 + _ROW_INCHES * len(names))
    axes = fig.subplots()
    rates = [math.log(cell.iterations_per_minute) for cell in cells if cell.iterations_per_minute]
    low, high = (min(rates), max(rates)) if rates else (0.0, 1.0)
    for cell in cells:
        position = sizes.index(cell.pixels), names.index(cell.name)
        if cell.iterations_per_minute:
            colour = mpl.colormaps[_COLOURS]((math.log(cell.iterations_per_minute) - low) / (high - low or 1.0))
            _box(axes, cell, position, figure(cell.iterations_per_minute), colour, width_inches)
        else:
            _box(axes, cell, position, _SHORT.get(cell.status, cell.status), None, width_inches)
    axes.set_xlim(0, len(sizes))
    axes.set_ylim(len(names), 0)
    axes.set_xticks([column + 0.5 for column in range(len(sizes))], _labels(cells, width_inches))
    axes.set_yticks([row + 0.5 for row in range(len(names))], names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("resolution [px]; in the cells iterations per minute")
    return fig


def _labels(cells: Sequence[ShownCell], width_inches: float) -> list[str]:
    broken = " ×\n" if is_narrow(width_inches) else " × "
    return [label.replace(" × ", broken) for label in _sizes(cells).values()]


def _box(
    axes: Axes,
    cell: ShownCell,
    position: tuple[int, int],
    text: str,
    colour: tuple[float, float, float, float] | None,
    width_inches: float,
) -> None:
    """Draw one cell of the map; without a colour it is hatched."""
    x, y = position
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


def _heat_map_finding(cells: Sequence[ShownCell], failed: Sequence[ShownCell]) -> str:
    if not failed:
        largest = max(cells, key=lambda cell: cell.pixels)
        return f"Everything that was tried ran, up to {largest.size_px} px."
    statuses = [cell.status.replace("_", " ") for cell in failed]
    counted = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    return f"{len(cells) - len(failed)} of {len(cells)} cells have figures; the others: {counted}."


def _heat_map_table(place: str, cells: Sequence[ShownCell]) -> Table:
    sizes = _sizes(cells)
    rows = []
    for name in dict.fromkeys(cell.name for cell in cells):
        by_pixels = {cell.pixels: cell for cell in cells if cell.name == name}
        model = next(iter(by_pixels.values())).model
        rows.append(Row([word(name), *(_datum(by_pixels.get(pixels)) for pixels in sizes)], place, model))
    return Table(f"Iterations per minute on {place}", ["model", *(f"{label} px" for label in sizes.values())], rows)


def _datum(cell: ShownCell | None) -> Datum:
    if cell is None or not cell.iterations_per_minute:
        return word(cell and cell.status)
    return Datum(figure(cell.iterations_per_minute), cell.iterations_per_minute)
