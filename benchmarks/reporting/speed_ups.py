"""How many times as fast each device is as the slowest that ran the same cell: bars."""

from collections.abc import Sequence
from functools import partial

from matplotlib.figure import Figure

from benchmarks.reporting.data import ReportData, ShownCell
from benchmarks.reporting.plotting import COLOURS, MUTED, canvas, is_narrow, plain_numbers, tag
from benchmarks.reporting.sections import Chart, Datum, Section, Table, number, row, word
from fixtures.formatting import figure
from fixtures.records import relative
from fixtures.records.relative import SpeedUp, best_accelerator

_BAR_INCHES = 0.26
# Of the bars that are drawn; the table has them all.
_MOST_BARS = 24


def speed_ups_of(report_data: ReportData) -> list[SpeedUp[ShownCell]]:
    """Each cell that ran, against its machine's cpu where that ran as well, else against the slowest device."""
    return relative.speed_ups(report_data.cells, lambda cell: cell.machine.name)


def question(cell: ShownCell) -> str:
    """What both devices ran: model, size, mode and batch."""
    words = [cell.name, f"{cell.size_px} px" if cell.pixels else ""]
    words += [cell.mode, f"batch {cell.batch}" if cell.mode else ""]
    return " ".join(word for word in words if word)


def speed_ups(report_data: ReportData) -> Section | None:
    """The section; None if no cell ran on two devices."""
    found = speed_ups_of(report_data)
    if not found:
        return None
    best = best_accelerator(found)
    drawn = sorted(found, key=lambda one: one.times, reverse=True)[:_MOST_BARS]
    title = "Times as fast as the cpu beside it, or as the slowest device"
    return Section(
        "speed-up",
        "Speed-up between devices",
        f"{best.cell.place} runs {question(best.cell)} {figure(best.times)} times as fast as {best.base.place}.",
        charts=(Chart("speed-up", title, partial(_draw, drawn)),),
        tables=(_table(found),),
        notes=(["The bars are the largest ones; the table has all."] if len(found) > len(drawn) else []),
    )


def _draw(found: Sequence[SpeedUp[ShownCell]], width_inches: float) -> Figure:
    # Two lines of text for each bar where there is no room beside it.
    bar_inches = _BAR_INCHES * (1.6 if is_narrow(width_inches) else 1)
    drawn = canvas(width_inches, 0.9 + bar_inches * len(found))
    axes = drawn.subplots()
    places = list(dict.fromkeys(one.cell.place for one in found))
    for height, one in enumerate(found):
        colour = COLOURS[places.index(one.cell.place) % len(COLOURS)]
        (bar,) = axes.barh([height], [one.times - 1], left=1, color=colour, height=0.66)
        tag(bar, one.cell)
        axes.annotate(
            f"{figure(one.times)} ×",
            (max(one.times, 1), height),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    where = "\n" if is_narrow(width_inches) else ", "
    axes.set_yticks(range(len(found)), [f"{question(one.cell)}{where}{one.cell.place}" for one in found])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color=MUTED, linewidth=1)
    axes.margins(x=0.12)
    plain_numbers(axes.xaxis)
    axes.grid(visible=True, axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("times as fast, logarithmic")
    return drawn


def _table(found: Sequence[SpeedUp[ShownCell]]) -> Table:
    header = ("cell", "device", "compared with", "times as fast", "ms/iteration", "ms/iteration there")
    rows = [
        row(
            one.cell,
            word(question(one.cell)),
            word(one.cell.place),
            word(one.base.place),
            Datum(figure(one.times), one.times),
            number(one.cell.median_seconds, 1e-3),
            number(one.base.median_seconds, 1e-3),
        )
        for one in found
    ]
    return Table("Speed-up of every cell that ran on more than one device", header, rows)
