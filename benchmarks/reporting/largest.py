"""The largest image that fits, by model and strategy."""

from collections.abc import Sequence
from functools import partial

from matplotlib.figure import Figure

from benchmarks.reporting.drawing import canvas, looks, tag
from benchmarks.reporting.material import Material, ShownCell
from benchmarks.reporting.section import Chart, Section, Table, memory, number, row, word

_BAR_INCHES = 0.3


def largest(material: Material) -> Section | None:
    """The section; None if no largest image was looked for."""
    cells = [cell for cell in material.cells if cell.axes["resolution"] == "largest"]
    found = sorted((cell for cell in cells if _side_px(cell)), key=_side_px, reverse=True)
    if not cells:
        return None
    said = "None of the searches found an image that fits."
    if found:
        said = f"{found[0].name} on {found[0].place}: {_side_px(found[0])} × {_side_px(found[0])} px."
    draw = partial(_draw, found, {series: look.colour for series, look in looks(material).items()})
    return Section(
        "largest",
        "Largest image that fits",
        said,
        charts=[Chart("largest", "Side of the largest square image", draw)] if found else [],
        tables=[_table(cells)],
        notes=["Exact to within 64 px, by running the sizes around the edge."] if found else [],
    )


def _side_px(cell: ShownCell) -> int:
    return int(cell.number("largest_side_px") or 0)


def _draw(found: Sequence[ShownCell], colours: dict[tuple[str, str], str], width_inches: float) -> Figure:
    drawn = canvas(width_inches, 0.8 + _BAR_INCHES * len(found))
    axes = drawn.subplots()
    for height, cell in enumerate(found):
        (bar,) = axes.barh([height], [_side_px(cell)], height=0.62, color=colours[cell.place, cell.model])
        tag(bar, cell)
        axes.annotate(
            f"{_side_px(cell)}", (_side_px(cell), height), xytext=(4, 0), textcoords="offset points", va="center"
        )
    one_place = len({cell.place for cell in found}) == 1
    axes.set_yticks(range(len(found)), [cell.name if one_place else f"{cell.name}\n{cell.place}" for cell in found])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=True, axis="x")
    axes.set_xlabel("side [px]")
    return drawn


def _table(cells: Sequence[ShownCell]) -> Table:
    header = (
        "device", "model", "variant", "largest side [px]", "peak memory", "budget", "s/iteration", "fails at [px]",
        "why", "status",
    )  # fmt: skip
    rows = [
        row(
            cell,
            word(cell.place),
            word(cell.model),
            word(cell.variant or "plain"),
            number(cell.number("largest_side_px")),
            memory(cell.peak_bytes),
            memory(cell.number("memory_budget_bytes")),
            number(cell.seconds),
            number(cell.number("failed_side_px")),
            word(cell.word("limited_by") or cell.word("failed_cause")),
            word(cell.status),
        )
        for cell in cells
    ]
    return Table("Every search for the largest image", header, rows)
