"""Iterations per minute against pixels, and the point where each line ends."""

from collections.abc import Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.reporting.drawing import (
    MARKERS,
    Look,
    canvas,
    curve,
    legend_below,
    looks,
    plain_numbers,
    size_ticks,
    tag,
)
from benchmarks.reporting.material import Material, ShownCell
from benchmarks.reporting.section import Chart, Section, Table, number, percent, row, size, word
from fixtures.figures import figure

# More lines than this cannot be told apart.
MOST_LINES = 8

Line = tuple[ShownCell, ...]


def throughput(material: Material) -> Section | None:
    """The section; None if no style iteration ran."""
    cells = material.iterations
    lines = lines_of(cells)[:MOST_LINES]
    if not any(cell.ran for cell in cells):
        return None
    hidden = len({(cell.place, cell.name) for cell in cells}) - len(lines)
    notes = [f"{hidden} more combinations of device, model and strategy are in the table only."] if hidden else []
    if any(not cell.ran for line in lines for cell in line):
        notes.append("A cross on the axis: at this size the line ends, and why.")
    threads = sorted({count for cell in cells if (count := cell.number("threads"))})
    if len(threads) > 1:
        notes.append(f"Threads differ between cells: {', '.join(f'{count:g}' for count in threads)}.")
    return Section(
        "throughput",
        "Iterations per minute by image size",
        _finding(lines),
        charts=(
            Chart("throughput", "Style iterations per minute against pixels", partial(_draw, lines, looks(material))),
        ),
        tables=(_table(cells),),
        notes=notes,
    )


def lines_of(cells: Sequence[ShownCell]) -> list[Line]:
    """Cells of one device, model and variant, by size: all plain ones, and variants of several sizes, or beyond."""
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
    """That of the device and model; a variant has another marker, and is dotted."""
    own = known[line[0].place, line[0].model]
    if not line[0].variant:
        return own
    variants = list(dict.fromkeys(other[0].variant for other in lines if other[0].variant))
    marker = MARKERS[-1 - variants.index(line[0].variant) % len(MARKERS)]
    return Look(own.colour, marker, ":")


def _draw(lines: Sequence[Line], known: Mapping[tuple[str, str], Look], width_inches: float) -> Figure:
    drawn = canvas(width_inches, 4.4)
    axes = drawn.subplots()
    axes.set_yscale("log")
    size_ticks(axes, [cell for line in lines for cell in line], width_inches)
    for line in lines:
        look = look_of(line, lines, known)
        ran = [cell for cell in line if cell.ran]
        face = "none" if line[0].variant else look.colour
        label = f"{line[0].name} on {line[0].place}"
        curve(axes, ran, lambda cell: cell.per_minute, look, line[0], markerfacecolor=face, label=label)
        _mark_end(axes, line, look)
    axes.grid(visible=True)
    plain_numbers(axes.yaxis)
    axes.set_ylabel("iterations per minute, logarithmic", rotation_mode="anchor")
    legend_below(axes, width_inches)
    return drawn


def _mark_end(axes: Axes, line: Line, look: Look) -> None:
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
            f"{end.name}: {end.status.replace('_', ' ')}",
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
    fastest = max(ran, key=lambda cell: cell.per_minute or 0)
    largest = max(ran, key=lambda cell: cell.pixels)
    return (
        f"From {figure(fastest.per_minute or 0)} iterations per minute ({fastest.name}, {fastest.size_px} px, on"
        f" {fastest.place}) to {figure(largest.per_minute or 0)} at {largest.size_px} px ({largest.name})."
    )


def _table(cells: Sequence[ShownCell]) -> Table:
    header = (
        "device", "model", "variant", "resolution [px]", "iterations/min", "ms/iteration", "spread", "rounds",
        "threads", "status",
    )  # fmt: skip
    return Table(
        "Rates of all style iterations",
        header,
        [
            row(
                cell,
                word(cell.place),
                word(cell.model),
                word(cell.variant or "plain"),
                size(cell),
                number(cell.per_minute),
                number(cell.seconds, 1e-3),
                percent(cell.number("spread") if cell.ran else None),
                number(len(cell.facts.get("durations_seconds") or ()) or None),
                number(cell.number("threads")),
                word(cell.status),
            )
            for cell in cells
        ],
    )
