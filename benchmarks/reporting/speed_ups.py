"""Speed-ups between devices that ran the same cell: bars."""

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
# Number of bars that are drawn; the table has all.
_MOST_BARS = 24


def speed_ups_of(report_data: ReportData) -> list[SpeedUp[ShownCell]]:
    """Each cell that ran, against its machine's cpu where that ran as well, else against the slowest device."""
    return relative.speed_ups(report_data.cells, lambda cell: cell.machine.name)


def workload_name(cell: ShownCell) -> str:
    """What both devices ran: model, size, mode and batch."""
    words = [cell.name, f"{cell.size_px} px" if cell.pixels else ""]
    words += [cell.mode, f"batch {cell.batch}" if cell.mode else ""]
    return " ".join(word for word in words if word)


def speed_ups(report_data: ReportData) -> Section | None:
    """The section; None if no cell ran on two devices."""
    pairs = speed_ups_of(report_data)
    if not pairs:
        return None
    best = best_accelerator(pairs)
    drawn = sorted(pairs, key=lambda one: one.times, reverse=True)[:_MOST_BARS]
    title = "Times as fast as the cpu beside it, or as the slowest device"
    return Section(
        "speed-up",
        "Speed-up between devices",
        f"{best.cell.place} runs {workload_name(best.cell)} {figure(best.times)} times as fast as {best.base.place}.",
        charts=(Chart("speed-up", title, partial(_draw, drawn)),),
        tables=(_table(pairs),),
        notes=(["The bars are the largest ones; the table has all."] if len(pairs) > len(drawn) else []),
    )


def _draw(pairs: Sequence[SpeedUp[ShownCell]], width_inches: float) -> Figure:
    # Labels of two lines on narrow pages.
    bar_inches = _BAR_INCHES * (1.6 if is_narrow(width_inches) else 1)
    fig = canvas(width_inches, 0.9 + bar_inches * len(pairs))
    axes = fig.subplots()
    places = list(dict.fromkeys(one.cell.place for one in pairs))
    for height, one in enumerate(pairs):
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
    separator = "\n" if is_narrow(width_inches) else ", "
    axes.set_yticks(range(len(pairs)), [f"{workload_name(one.cell)}{separator}{one.cell.place}" for one in pairs])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color=MUTED, linewidth=1)
    axes.margins(x=0.12)
    plain_numbers(axes.xaxis)
    axes.grid(visible=True, axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("times as fast, logarithmic")
    return fig


def _table(pairs: Sequence[SpeedUp[ShownCell]]) -> Table:
    header = ("cell", "device", "compared with", "times as fast", "ms/iteration", "ms/iteration there")
    rows = [
        row(
            one.cell,
            word(workload_name(one.cell)),
            word(one.cell.place),
            word(one.base.place),
            Datum(figure(one.times), one.times),
            number(one.cell.median_seconds, 1e-3),
            number(one.base.median_seconds, 1e-3),
        )
        for one in pairs
    ]
    return Table("Speed-up of every cell that ran on more than one device", header, rows)
