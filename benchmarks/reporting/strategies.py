"""The cost of each strategy: time against memory, for the same cell."""

import math
from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.reporting.data import ReportData, ShownCell
from benchmarks.reporting.plotting import COLOURS, MARKERS, canvas, legend_below, plain_numbers, tag
from benchmarks.reporting.sections import Chart, Datum, Row, Section, Table, memory, number, row, size, status, word
from fixtures.records.relative import by_strategy, plain_of, relative_memory, relative_time

_HEIGHT_INCHES = 4.4
# Fewer points are shown in the table only.
_LEAST_POINTS = 3
_MOST_CHARTS = 4

Group = Sequence[ShownCell]


def strategies(report_data: ReportData) -> Section | None:
    """The section; None if nothing ran with two strategies."""
    groups = [
        group
        for group in by_strategy(report_data.iterations, lambda cell: cell.place)
        if sum(cell.ran for cell in group) > 1
    ]
    if not groups:
        return None
    groups.sort(key=len, reverse=True)
    with_points = [group for group in groups if len(_points(group)) >= _LEAST_POINTS]
    drawn = with_points[:_MOST_CHARTS] or [group for group in groups if _points(group)][:1]
    charts = [
        Chart(f"strategies-{index + 1}" if len(drawn) > 1 else "strategies", _title(group), partial(_draw, group))
        for index, group in enumerate(drawn)
    ]
    notes = ["All strategies compute the same loss and gradient; how far from float64 is in the table."]
    if drawn:
        notes.insert(0, "Down and to the left is better: less time, less memory.")
    return Section(
        "strategies",
        "What each strategy costs",
        _finding(groups[0]),
        charts=charts,
        tables=[_table(groups)],
        notes=notes,
    )


def _points(group: Group) -> list[ShownCell]:
    return [cell for cell in group if cell.measured_peak_bytes and cell.median_seconds]


def _title(group: Group) -> str:
    return f"Time against memory: {group[0].model} at {group[0].size_px} px on {group[0].place}"


def _draw(group: Group, width_inches: float) -> Figure:
    ran = _points(group)
    fig = canvas(width_inches, _HEIGHT_INCHES)
    axes = fig.subplots()
    axes.set_xscale("log")
    axes.set_yscale("log")
    precisions = list(dict.fromkeys(cell.precision for cell in ran))
    for index, precision in enumerate(precisions):
        own = [cell for cell in ran if cell.precision == precision]
        for point_index, cell in enumerate(own):
            (point,) = axes.plot(
                [(cell.measured_peak_bytes or 0) / 2**20],
                [cell.median_seconds or 0],
                linestyle="none",
                marker=MARKERS[index],
                color=COLOURS[index],
                label=precision if point_index == 0 else None,
            )
            tag(point, cell)
    axes.margins(0.12)
    _name_points(axes, ran, width_inches)
    for axis in (axes.xaxis, axes.yaxis):
        plain_numbers(axis)
    axes.grid(visible=True)
    axes.set_xlabel("peak memory [MiB], logarithmic")
    axes.set_ylabel("seconds per iteration, logarithmic", rotation_mode="anchor")
    if len(precisions) > 1:
        legend_below(axes, width_inches)
    return fig


def _name_points(axes: Axes, ran: Sequence[ShownCell], width_inches: float) -> None:
    """Write its strategy beside each point, as near as possible without covering points and other names."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    # In typographic points, approximately: axes and labels are not laid out yet.
    wide, high = 72 * (width_inches - 0.8), 72 * (_HEIGHT_INCHES - 0.9)
    points = [
        (
            math.log((cell.measured_peak_bytes or 0) / 2**20 / left) / math.log(right / left) * wide,
            math.log((cell.median_seconds or 0) / bottom) / math.log(top / bottom) * high,
        )
        for cell in ran
    ]
    taken = [(x - 4, x + 4, y) for x, y in points]
    for cell, (x, y) in zip(ran, points, strict=True):
        name = cell.strategy
        length = 4.4 * len(name)
        places = [(side, shift) for shift in (0, 7, -7, 14, -14, 21, -21) for side in ("left", "right")]

        def start(side: str, x: float = x, length: float = length) -> float:
            return x + 6 if side == "left" else x - 6 - length

        free = [
            (side, shift)
            for side, shift in places
            if 0 < start(side) < wide - length
            and not any(
                low < start(side) + length and start(side) < end and abs(y + shift - other) < 8
                for low, end, other in taken
            )
        ]
        side, shift = free[0] if free else places[0]
        taken.append((start(side), start(side) + length, y + shift))
        text = axes.annotate(
            name,
            ((cell.measured_peak_bytes or 0) / 2**20, cell.median_seconds or 0),
            xytext=(6 if side == "left" else -6, shift),
            textcoords="offset points",
            ha="left" if side == "left" else "right",
            va="center",
            fontsize=7.5,
        )
        tag(text, cell)


def _finding(group: Group) -> str:
    base, ran = plain_of(group), [cell for cell in group if cell.median_seconds]
    where = f"{group[0].model} at {group[0].size_px} px on {group[0].place}"
    fastest = min(ran, key=lambda cell: cell.median_seconds or 0)
    if base is None or not base.median_seconds:
        return f"{where}: plain has no figures; {fastest.variant or 'plain'} is the fastest that ran."
    share = f"takes {relative_time(fastest, base):.2f} of plain's time"
    text = f"{where}: " + ("nothing is faster than plain" if fastest is base else f"{_called(fastest)} {share}")
    least = min(
        (cell for cell in ran if cell.measured_peak_bytes), key=lambda cell: cell.measured_peak_bytes or 0, default=None
    )
    if least is None or not base.measured_peak_bytes:
        return text + "."
    return f"{text}; {_called(least)} takes {relative_memory(least, base):.2f} of its memory."


def _called(cell: ShownCell) -> str:
    return cell.strategy + ("" if cell.precision == "float32" else f" in {cell.precision}")


def _table(groups: Sequence[Group]) -> Table:
    header = (
        "device", "model", "resolution [px]", "strategy", "precision", "ms/iteration", "time / plain", "peak memory",
        "memory / plain", "gradient deviation", "compile [s]", "status",
    )  # fmt: skip
    rows = [_row(cell, plain_of(group)) for group in groups for cell in group]
    return Table("Time and memory of every strategy, relative to plain", header, rows)


def _row(cell: ShownCell, base: ShownCell | None) -> Row:
    deviation = cell.number("gradient_deviation")
    return row(
        cell,
        word(cell.place),
        word(cell.model),
        size(cell),
        word(cell.strategy),
        word(cell.precision),
        number(cell.median_seconds, 1e-3),
        _ratio(relative_time(cell, base)),
        memory(cell.measured_peak_bytes),
        _ratio(relative_memory(cell, base)),
        word(None) if deviation is None else Datum(f"{deviation:.1e}", deviation),
        number(cell.number("compile_seconds")),
        status(cell),
    )


def _ratio(value: float | None) -> Datum:
    return word(None) if value is None else Datum(f"{value:.2f}", value)
