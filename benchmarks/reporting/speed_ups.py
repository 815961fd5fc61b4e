"""How many times as fast each device is as the slowest that ran the same cell: bars."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from benchmarks.reporting.data import ReportData, ShownCell
from benchmarks.reporting.plotting import COLOURS, MUTED, canvas, is_narrow, plain_numbers, tag
from benchmarks.reporting.sections import Chart, Datum, Section, Table, number, row, word
from fixtures.formatting import figure

_BAR_INCHES = 0.26
# Of the bars that are drawn; the table has them all.
_MOST_BARS = 24


@dataclass(frozen=True)
class SpeedUp:
    """A cell of one device, and the same of the device that it is compared with."""

    cell: ShownCell
    base: ShownCell

    @property
    def times(self) -> float:
        return (self.base.median_seconds or 0) / (self.cell.median_seconds or 1)

    @property
    def question(self) -> str:
        """What both ran."""
        axes = self.cell.axes
        words = [self.cell.name, f"{self.cell.size_px} px" if self.cell.pixels else ""]
        words += [str(axes["mode"]), f"batch {axes['batch']}" if axes["mode"] else ""]
        return " ".join(word for word in words if word)


def speed_ups(report_data: ReportData) -> Section | None:
    """The section; None if no cell ran on two devices."""
    found = speed_ups_of(report_data)
    if not found:
        return None
    best = most_telling(found)
    drawn = sorted(found, key=lambda one: one.times, reverse=True)[:_MOST_BARS]
    title = "Times as fast as the cpu beside it, or as the slowest device"
    return Section(
        "speed-up",
        "Speed-up between devices",
        f"{best.cell.place} runs {best.question} {figure(best.times)} times as fast as {best.base.place}.",
        charts=(Chart("speed-up", title, partial(_draw, drawn)),),
        tables=(_table(found),),
        notes=(["The bars are the largest ones; the table has all."] if len(found) > len(drawn) else []),
    )


def speed_ups_of(report_data: ReportData) -> list[SpeedUp]:
    """Each cell that ran, against its machine's cpu where that did as well, else against the slowest device."""
    same: dict[tuple[object, ...], list[ShownCell]] = {}
    for cell in report_data.cells:
        if cell.median_seconds and cell.kind not in ("device_limit", "input") and not cell.is_search:
            key = tuple(value for axis, value in cell.axes.items() if axis != "device")
            same.setdefault(key, []).append(cell)
    found: list[SpeedUp] = []
    for cells in same.values():
        slowest = max(cells, key=lambda cell: cell.median_seconds or 0)
        cpus = {cell.machine.name: cell for cell in cells if cell.device == "cpu"}
        for cell in cells:
            own = cpus.get(cell.machine.name, slowest)
            base = slowest if own is cell else own
            if base is not cell:
                found.append(SpeedUp(cell, base))
    return found


def most_telling(found: Sequence[SpeedUp]) -> SpeedUp:
    """The largest of an accelerator, if there is one."""
    return max(found, key=lambda one: (one.cell.device != "cpu", one.times))


def _draw(found: Sequence[SpeedUp], width_inches: float) -> Figure:
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
    axes.set_yticks(range(len(found)), [f"{one.question}{where}{one.cell.place}" for one in found])
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


def _table(found: Sequence[SpeedUp]) -> Table:
    header = ("cell", "device", "compared with", "times as fast", "ms/iteration", "ms/iteration there")
    rows = [
        row(
            one.cell,
            word(one.question),
            word(one.cell.place),
            word(one.base.place),
            Datum(figure(one.times), one.times),
            number(one.cell.median_seconds, 1e-3),
            number(one.base.median_seconds, 1e-3),
        )
        for one in found
    ]
    return Table("Speed-up of every cell that ran on more than one device", header, rows)
