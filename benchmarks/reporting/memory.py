"""Peak memory against pixels, measured and predicted, with the memory of the device.

Also the largest image that fits, by model and strategy.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.reporting.data import ReportData, ShownCell
from benchmarks.reporting.plotting import INK, Look, canvas, curve, legend_below, looks, size_ticks, tag
from benchmarks.reporting.sections import (
    STYLE_CELL,
    Chart,
    Datum,
    Section,
    Table,
    memory,
    number,
    percent,
    row,
    status,
    style_cell,
    word,
)
from benchmarks.reporting.throughput import MOST_LINES, Line, lines_of, look_of
from fixtures.formatting import readable_size

# A budget below this share of the next larger one, or of the whole memory, comes from --memory-limit; a larger one is
# the memory that was free at the time.
_APART = 0.75


def peak_memory(report_data: ReportData) -> Section | None:
    """The section; None if no memory is known of any style iteration."""
    cells = [cell for cell in report_data.iterations if cell.measured_peak_bytes or cell.predicted_memory_bytes]
    lines = lines_of(cells)[:MOST_LINES]
    if not lines:
        return None
    return Section(
        "memory",
        "Peak memory by image size",
        _finding(cells),
        charts=(Chart("memory", "Peak memory against pixels", partial(_draw, lines, looks(report_data))),),
        tables=(_table(cells),),
        notes=(
            "Filled: measured. Hollow, dotted: predicted before the cell ran. On an accelerator it is device memory, on"
            " cpu the growth of the process over its size before the cell was built.",
        ),
    )


def _draw(lines: Sequence[Line], known: Mapping[tuple[str, str], Look], width_inches: float) -> Figure:
    fig = canvas(width_inches, 4.4)
    axes = fig.subplots()
    axes.set_yscale("log", base=2)
    size_ticks(axes, [cell for line in lines for cell in line], width_inches)
    for line in lines:
        look = look_of(line, lines, known)
        measured = [cell for cell in line if cell.measured_peak_bytes]
        label = f"{line[0].name} on {line[0].place}"
        if measured:
            curve(axes, measured, lambda cell: cell.measured_peak_bytes, look, line[0], label=label)
        predicted = [cell for cell in line if cell.predicted_memory_bytes]
        hollow = {"linestyle": ":", "linewidth": 1, "markerfacecolor": "none"}
        alone = None if measured else f"{label}, predicted"
        curve(axes, predicted, lambda cell: cell.predicted_memory_bytes, look, line[0], label=alone, **hollow)
    draw_limits(axes, [cell for line in lines for cell in line])
    byte_ticks(axes)
    axes.grid(visible=True)
    axes.set_ylabel("peak memory, logarithmic", rotation_mode="anchor")
    legend_below(axes, width_inches)
    return fig


def _limits(cells: Sequence[ShownCell]) -> dict[str, float]:
    """Bytes by name: all memory of each device, and each limit that is far below."""
    limits: dict[str, float] = {}
    for place in dict.fromkeys(cell.place for cell in cells):
        own = [cell for cell in cells if cell.place == place]
        whole = max((cell.device_memory_bytes or 0 for cell in own), default=0)
        if whole:
            limits[f"all of {place}: {readable_size(whole)}"] = whole
        above = whole or math.inf
        for budget in sorted({cell.memory_budget_bytes or 0 for cell in own} - {0}, reverse=True):
            if budget < _APART * above:
                limits[f"limit on {place}: {readable_size(budget)}"] = above = budget
    return limits


def draw_limits(axes: Axes, cells: Sequence[ShownCell]) -> None:
    """A line for each limit."""
    before = 0.0
    shift = 3
    for text, end in sorted(_limits(cells).items(), key=lambda limit: limit[1]):
        axes.axhline(end, color=INK, linewidth=1, linestyle="-" if text.startswith("all") else "--")
        # The names of two close lines are put above each other.
        shift = shift + 9 if end < 1.5 * before else 3
        before = end
        axes.annotate(
            text,
            (0, end),
            xycoords=axes.get_yaxis_transform(),
            xytext=(3, shift),
            textcoords="offset points",
            fontsize=7.5,
        )


def byte_ticks(axes: Axes) -> None:
    """Label powers of two along y as sizes of memory."""
    low, high = axes.get_ylim()
    powers = [2.0**power for power in range(0, 60, 1 if high / low < 256 else 2) if low <= 2.0**power <= high]
    axes.yaxis.set_major_locator(FixedLocator(powers))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: readable_size(value)))


def _finding(cells: Sequence[ShownCell]) -> str:
    ratios = [
        predicted / cell.measured_peak_bytes
        for cell in cells
        if cell.measured_peak_bytes and (predicted := cell.predicted_memory_bytes)
    ]
    most = max(cells, key=lambda cell: cell.measured_peak_bytes or 0)
    if not most.measured_peak_bytes:
        return "Nothing was measured; predicted is what the cells would have taken."
    text = f"{most.name} at {most.size_px} px takes {readable_size(most.measured_peak_bytes)} on {most.place}"
    return text + (
        f"; predictions are {min(ratios):.2f} to {max(ratios):.2f} times what was measured." if ratios else "."
    )


def _table(cells: Sequence[ShownCell]) -> Table:
    header = (
        *STYLE_CELL, "peak memory", "predicted", "predicted/measured",
        "bytes per pixel", "budget", "status",
    )  # fmt: skip
    rows = [
        row(
            cell,
            *style_cell(cell),
            *peaks(cell),
            number(cell.measured_peak_bytes / cell.pixels if cell.measured_peak_bytes else None),
            memory(cell.memory_budget_bytes),
            status(cell),
        )
        for cell in cells
    ]
    return Table("Peak memory of all style iterations", header, rows)


def peaks(cell: ShownCell) -> tuple[Datum, Datum, Datum]:
    """Peak memory of a cell as measured, as predicted, and the second over the first."""
    peak, predicted = cell.measured_peak_bytes, cell.predicted_memory_bytes
    return memory(peak), memory(predicted), percent(predicted / peak if peak and predicted else None)


_BAR_INCHES = 0.3


def largest(report_data: ReportData) -> Section | None:
    """The section; None if there was no search for the largest image."""
    cells = [cell for cell in report_data.cells if cell.resolution == "largest"]
    fitting = sorted((cell for cell in cells if _side_px(cell)), key=_side_px, reverse=True)
    if not cells:
        return None
    finding = "None of the searches found an image that fits."
    if fitting:
        best: dict[str, ShownCell] = {cell.kind: cell for cell in cells if _side_px(cell)}  # in the order of the record
        best |= {cell.kind: cell for cell in reversed(fitting)}
        sides = [f"{_searched(cell)} on {cell.place}: {_side_px(cell)} × {_side_px(cell)} px" for cell in best.values()]
        finding = "; ".join(sides) + "."
    draw = partial(_draw_largest, fitting, {series: look.colour for series, look in looks(report_data).items()})
    return Section(
        "largest",
        "Largest image that fits",
        finding,
        charts=[Chart("largest", "Side of the largest square image", draw)] if fitting else [],
        tables=[_largest_table(cells)],
        notes=["Exact to within 64 px, by running the sizes around the edge."] if fitting else [],
    )


def _searched(cell: ShownCell) -> str:
    """The model with its kind of work, as the size that it can have depends on it."""
    return cell.name if cell.kind == "style" else f"{cell.kind}: {cell.name} {cell.mode}"


def _side_px(cell: ShownCell) -> int:
    return int(cell.number("largest_side_px") or 0)


def _draw_largest(cells: Sequence[ShownCell], colours: dict[tuple[str, str], str], width_inches: float) -> Figure:
    fig = canvas(width_inches, 0.8 + _BAR_INCHES * len(cells))
    axes = fig.subplots()
    for height, cell in enumerate(cells):
        (bar,) = axes.barh([height], [_side_px(cell)], height=0.62, color=colours[cell.place, cell.model])
        tag(bar, cell)
        axes.annotate(
            f"{_side_px(cell)}", (_side_px(cell), height), xytext=(4, 0), textcoords="offset points", va="center"
        )
    one_place = len({cell.place for cell in cells}) == 1
    names = [_searched(cell) + ("" if one_place else f"\n{cell.place}") for cell in cells]
    axes.set_yticks(range(len(cells)), names)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=True, axis="x")
    axes.set_xlabel("side [px]")
    return fig


def _largest_table(cells: Sequence[ShownCell]) -> Table:
    header = (
        "device", "kind", "model", "variant", "mode", "largest side [px]", "peak memory", "budget", "s/iteration",
        "fails at [px]", "why", "status",
    )  # fmt: skip
    rows = [
        row(
            cell,
            word(cell.place),
            word(cell.kind),
            word(cell.model),
            word(cell.variant or "plain"),
            word(cell.mode),
            number(cell.number("largest_side_px")),
            memory(cell.measured_peak_bytes),
            memory(cell.memory_budget_bytes),
            number(cell.median_seconds),
            number(cell.number("failed_side_px")),
            word(cell.word("limited_by") or cell.word("failed_cause") or cell.word("failed_status")),
            word(cell.status),
        )
        for cell in cells
    ]
    return Table("Every search for the largest image", header, rows)
