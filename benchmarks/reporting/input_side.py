"""How fast pictures are made ready for a network, against how fast networks take them."""

from collections.abc import Sequence
from functools import partial

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from benchmarks.reporting.drawing import MUTED, canvas, legend_below, look, plain_numbers, tag
from benchmarks.reporting.material import Material, ShownCell
from benchmarks.reporting.section import Chart, Datum, Section, Table, number, row, size, word
from fixtures.figures import figure
from fixtures.parsing import amount


def input_side(material: Material) -> Section | None:
    """The section; None if the input side was not measured."""
    cells = [cell for cell in material.cells if cell.model == "jpeg" and cell.word("size")]
    ran = [cell for cell in cells if cell.ran and cell.number("images_per_second")]
    if not ran:
        return None
    best = max(ran, key=_rate)
    fed = [
        cell
        for cell in material.cells
        if cell.word("mode") == "forward" and cell.ran and cell.axes["resolution"] == best.axes["resolution"]
    ]
    title = f"Pictures made ready at {best.size_px} px, by worker threads"
    return Section(
        "input",
        "The input side",
        f"{figure(_rate(best))} images per second from JPEG files with {amount(best.word('size'))} worker threads"
        f" for {best.place}.",
        charts=[Chart("input", title, partial(_draw, ran, fed))],
        tables=[_table(cells)],
        notes=["A network above the line of its device waits for its input."] if fed else [],
    )


def _rate(cell: ShownCell) -> float:
    return cell.number("images_per_second") or 0.0


def _draw(cells: Sequence[ShownCell], fed: Sequence[ShownCell], width_inches: float) -> Figure:
    drawn = canvas(width_inches, 3.4)
    axes = drawn.subplots()
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    lines: dict[str, list[ShownCell]] = {}
    for cell in cells:
        lines.setdefault(f"{cell.size_px} px for {cell.place}", []).append(cell)
    for place, (name, line) in enumerate(lines.items()):
        own = look(place)
        line.sort(key=lambda cell: amount(cell.word("size")))
        counts = [amount(cell.word("size")) for cell in line]
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
    counts = sorted({amount(cell.word("size")) for cell in cells})
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(counts, [str(count) for count in counts])
    plain_numbers(axes.yaxis)
    axes.grid(visible=True)
    axes.set_xlabel("worker threads")
    axes.set_ylabel("images per second, logarithmic", rotation_mode="anchor")
    legend_below(axes, width_inches)
    return drawn


def _table(cells: Sequence[ShownCell]) -> Table:
    rows = [
        row(
            cell,
            word(cell.place),
            size(cell),
            Datum(str(amount(cell.word("size"))), amount(cell.word("size"))),
            number(_rate(cell) if cell.ran else None),
            number(cell.seconds, 1e-3),
            word(cell.status),
        )
        for cell in cells
    ]
    header = ("device", "resolution [px]", "worker threads", "images/s", "ms/batch", "status")
    return Table("Rates of the input side", header, rows)
