"""Several ranks: speed-up against the ideal, efficiency, and the share of communication."""

from collections.abc import Mapping, Sequence
from functools import partial

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from benchmarks.reporting.data import ReportData, ShownCell
from benchmarks.reporting.plotting import MUTED, canvas, legend_below, look, tag
from benchmarks.reporting.sections import Chart, Section, Table, memory, number, percent, row, word
from fixtures.formatting import figure
from fixtures.records.relative import group_rate

Curve = Sequence[ShownCell]


def scaling(report_data: ReportData) -> Section | None:
    """The section; None if no cell ran on ranks."""
    cells = [cell for cell in report_data.cells if cell.scaling]
    if not cells:
        return None
    curves = _curves(cells)
    best = max((cell for cell in cells if cell.ran), key=lambda cell: cell.number("speedup") or 0, default=None)
    finding = "No group of ranks has figures."
    if best is not None and best.number("speedup"):
        finding = (
            f"{best.ranks} ranks run {_name(best)} {figure(best.number('speedup') or 0)} times as fast as one"
            f" on {best.place}."
        )
    return Section(
        "scaling",
        "Several ranks",
        finding,
        charts=[Chart("scaling", "Speed-up over one rank", partial(_draw, curves))] if curves else [],
        tables=[_table(cells)],
        notes=["The time of a group is its slowest rank's. Efficiency is against one rank of the same run."],
    )


def _curves(cells: Sequence[ShownCell]) -> Mapping[str, Curve]:
    """Cells with a speed-up that differ by their ranks only, by the name of the curve."""
    curves: dict[str, list[ShownCell]] = {}
    for cell in cells:
        if cell.ran and cell.number("speedup"):
            curves.setdefault(f"{_name(cell)} on {cell.place}", []).append(cell)
    return {name: sorted(curve, key=lambda cell: cell.ranks) for name, curve in curves.items()}


def _name(cell: ShownCell) -> str:
    words = [cell.name, cell.mode, f"{cell.size_px} px" if cell.pixels else "", f"({cell.scaling})"]
    return " ".join(word for word in words if word)


def _draw(curves: Mapping[str, Curve], width_inches: float) -> Figure:
    fig = canvas(width_inches, 3.8)
    axes = fig.subplots()
    ranks = sorted({1} | {cell.ranks for curve in curves.values() for cell in curve})
    axes.plot(ranks, ranks, color=MUTED, linestyle=":", linewidth=1, label="ideal")
    for index, (name, curve) in enumerate(curves.items()):
        own = look(index)
        (line,) = axes.plot(
            [cell.ranks for cell in curve],
            [cell.number("speedup") or 0 for cell in curve],
            color=own.colour,
            marker=own.marker,
            linestyle=own.dash,
            label=name,
        )
        tag(line, curve[0])
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(ranks))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(visible=True)
    axes.set_xlabel("ranks, logarithmic")
    axes.set_ylabel("times as fast as one rank, logarithmic", rotation_mode="anchor")
    legend_below(axes, width_inches)
    return fig


def _table(cells: Sequence[ShownCell]) -> Table:
    header = (
        "device", "model", "mode", "scaling", "resolution [px]", "batch", "ranks", "ms/iteration", "images/s",
        "speed-up", "efficiency", "communication", "peak of a rank", "status",
    )  # fmt: skip
    rows = [
        row(
            cell,
            word(cell.place),
            word(cell.name),
            word(cell.mode),
            word(cell.scaling),
            word(cell.size_px),
            word(cell.batch),
            number(cell.ranks),
            number(cell.median_seconds, 1e-3),
            number(group_rate(cell)),
            number(cell.number("speedup")),
            percent(cell.number("efficiency")),
            percent(cell.number("communication_share")),
            memory(_peak(cell)),
            word(cell.status),
        )
        for cell in cells
    ]
    return Table("Every group of ranks", header, rows)


def _peak(cell: ShownCell) -> float | None:
    peaks = [peak for peak in cell.facts.get("rank_peak_memory_bytes") or () if isinstance(peak, int | float)]
    return max(peaks, default=cell.measured_peak_bytes)
