"""Images per second of classifiers, forward and training, and the time for a dataset.

Also the input side: images prepared per second, against the rates of the networks.
"""

from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from benchmarks.reporting.data import ReportData, ShownCell
from benchmarks.reporting.plotting import (
    COLOURS,
    MARKERS,
    MUTED,
    canvas,
    is_narrow,
    legend_below,
    look,
    plain_numbers,
    tag,
)
from benchmarks.reporting.sections import Chart, Datum, Section, Table, memory, number, row, size, status, word
from fixtures.formatting import figure, readable_time
from fixtures.parsing import amount

_ROW_INCHES = 0.34


def classification(report_data: ReportData) -> Section | None:
    """The section; None if no classifier was measured."""
    cells = [cell for cell in report_data.cells if cell.kind == "classification" and not cell.scaling]
    measured = [cell for cell in cells if cell.ran and cell.axes["batch"] != "largest" and not cell.parts_seconds]
    if not measured:
        return None
    tables = [_rates(cells)]
    if with_times := [cell for cell in measured if cell.number("pass_seconds")]:
        tables.append(_dataset_times(with_times))
    places = list(dict.fromkeys(cell.place for cell in measured))
    charts = [
        Chart(
            "images" if len(places) == 1 else f"images-{index + 1}",
            f"Images per second by network and batch on {place}",
            partial(_draw, [cell for cell in measured if cell.place == place]),
        )
        for index, place in enumerate(places)
    ]
    return Section(
        "images",
        "Images per second",
        _finding(measured),
        charts=charts,
        tables=tables,
        notes=["Compute-only: images and labels are on the device before the clock starts."],
    )


def _draw(cells: Sequence[ShownCell], width_inches: float) -> Figure:
    models = list(dict.fromkeys(cell.model for cell in cells))
    modes = list(dict.fromkeys(cell.mode for cell in cells))
    stacked = is_narrow(width_inches)
    rows, columns = (len(modes), 1) if stacked else (1, len(modes))
    fig = canvas(width_inches, 1.1 + rows * (0.5 + _ROW_INCHES * len(models)))
    panels = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    batches = sorted({int(cell.axes["batch"]) for cell in cells})
    for axes, mode in zip(panels, modes, strict=True):
        _fill(axes, [cell for cell in cells if cell.mode == mode], models, batches)
        axes.set_title(mode)
    panels[0].set_ylim(len(models) - 0.5, -0.5)
    for axes in panels:
        plain_numbers(axes.xaxis)
    for axes in panels[-1:] if stacked else panels:
        axes.set_xlabel("images per second, logarithmic")
    legend_below(panels[0], width_inches)
    return fig


def _fill(axes: Axes, cells: Sequence[ShownCell], models: Sequence[str], batches: Sequence[int]) -> None:
    """A dot for each cell; the first dot of each batch has the label."""
    axes.set_xscale("log")
    named: set[int] = set()
    for cell in cells:
        batch = int(cell.axes["batch"])
        index = batches.index(batch)
        (dot,) = axes.plot(
            [cell.images_per_second or 0],
            [models.index(cell.model)],
            linestyle="none",
            marker=MARKERS[index % len(MARKERS)],
            color=COLOURS[index % len(COLOURS)],
            label=None if batch in named else f"batch {batch}",
        )
        named.add(batch)
        tag(dot, cell)
    axes.set_yticks(range(len(models)), models)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=True)


def _finding(measured: Sequence[ShownCell]) -> str:
    best: dict[str, ShownCell] = {}
    for cell in measured:
        if cell.mode not in best or _rate(cell) > _rate(best[cell.mode]):
            best[cell.mode] = cell
    maxima = [
        f"{mode} at most {figure(_rate(cell))} ({cell.name}, {cell.size_px} px, batch {cell.batch}, on {cell.place})"
        for mode, cell in best.items()
    ]
    return "Images per second: " + "; ".join(maxima) + "."


def _rates(cells: Sequence[ShownCell]) -> Table:
    header = (
        "device", "model", "resolution [px]", "batch", "mode", "precision", "images/s", "ms/batch", "peak memory",
        "status",
    )  # fmt: skip
    rows = [
        row(
            cell,
            word(cell.place),
            word(cell.model),
            size(cell),
            _batch(cell),
            word(cell.mode),
            word(cell.precision),
            number(cell.images_per_second),
            number(cell.median_seconds, 1e-3),
            memory(cell.measured_peak_bytes),
            status(cell),
        )
        for cell in cells
    ]
    return Table("Images per second of every classifier", header, rows)


def _batch(cell: ShownCell) -> Datum:
    value = int(cell.batch) if cell.batch.isdigit() else None
    return Datum(f"largest: {cell.batch}" if cell.is_search and value else cell.batch, value)


def _dataset_times(cells: Sequence[ShownCell]) -> Table:
    header = ("device", "model", "mode", "batch", "precision", "images", "one pass", "epochs", "training")
    rows = []
    for cell in cells:
        training = cell.number("training_seconds")
        rows.append(
            row(
                cell,
                word(cell.place),
                word(cell.model),
                word(cell.mode),
                _batch(cell),
                word(cell.precision),
                number(cell.number("dataset_images")),
                _time(cell.number("pass_seconds")),
                number(cell.number("epochs")),
                _time(training),
            )
        )
    return Table("How long a dataset takes, compute-only", header, rows)


def _time(seconds: float | None) -> Datum:
    return word(None) if seconds is None else Datum(readable_time(seconds), seconds)


def input_side(report_data: ReportData) -> Section | None:
    """The section; None if the input side was not measured."""
    cells = [cell for cell in report_data.cells if cell.kind == "input"]
    ran = [cell for cell in cells if cell.ran and cell.images_per_second]
    if not ran:
        return None
    best = max(ran, key=_rate)
    fed = [
        cell for cell in report_data.cells if cell.mode == "forward" and cell.ran and cell.resolution == best.resolution
    ]
    title = f"Pictures made ready at {best.size_px} px, by worker threads"
    return Section(
        "input",
        "The input side",
        f"{figure(_rate(best))} images per second from JPEG files with {amount(best.size)} worker threads"
        f" for {best.place}.",
        charts=[Chart("input", title, partial(_draw_input, ran, fed))],
        tables=[_table(cells)],
        notes=["A network above the line of its device waits for its input."] if fed else [],
    )


def _rate(cell: ShownCell) -> float:
    return cell.images_per_second or 0.0


def _draw_input(cells: Sequence[ShownCell], fed: Sequence[ShownCell], width_inches: float) -> Figure:
    fig = canvas(width_inches, 3.4)
    axes = fig.subplots()
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    lines: dict[str, list[ShownCell]] = {}
    for cell in cells:
        lines.setdefault(f"{cell.size_px} px for {cell.place}", []).append(cell)
    for index, (name, line) in enumerate(lines.items()):
        own = look(index)
        line.sort(key=lambda cell: amount(cell.size))
        counts = [amount(cell.size) for cell in line]
        (curve,) = axes.plot(counts, [_rate(cell) for cell in line], color=own.colour, marker=own.marker, label=name)
        tag(curve, line[0])
    fastest: dict[tuple[str, str], ShownCell] = {}
    for cell in sorted(fed, key=_rate):
        fastest[cell.place, cell.model] = cell
    for cell in fastest.values():
        tag(axes.axhline(_rate(cell), color=MUTED, linestyle=":", linewidth=1), cell)
        text = axes.annotate(
            f"{cell.model} forward",
            (1, _rate(cell)),
            xycoords=axes.get_yaxis_transform(),
            xytext=(-2, 2),
            textcoords="offset points",
            ha="right",
            fontsize=7.5,
        )
        tag(text, cell)
    counts = sorted({amount(cell.size) for cell in cells})
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(counts, [str(count) for count in counts])
    plain_numbers(axes.yaxis)
    axes.grid(visible=True)
    axes.set_xlabel("worker threads")
    axes.set_ylabel("images per second, logarithmic", rotation_mode="anchor")
    legend_below(axes, width_inches)
    return fig


def _table(cells: Sequence[ShownCell]) -> Table:
    rows = [
        row(
            cell,
            word(cell.place),
            size(cell),
            Datum(str(amount(cell.size)), amount(cell.size)),
            number(_rate(cell) if cell.ran else None),
            number(cell.median_seconds, 1e-3),
            word(cell.status),
        )
        for cell in cells
    ]
    header = ("device", "resolution [px]", "worker threads", "images/s", "ms/batch", "status")
    return Table("Rates of the input side", header, rows)
