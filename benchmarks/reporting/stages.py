"""Denoisers and decoders side by side: rates, images per second, and memory against pixels, to the size that ends them.

The two stages of latent diffusion have different limits: most of the time goes into denoising, most of the memory into
decoding.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.reporting.data import ReportData, ShownCell
from benchmarks.reporting.memory import byte_ticks, draw_limits, peaks
from benchmarks.reporting.plotting import (
    DASHES,
    PAPER,
    Look,
    canvas,
    curve,
    is_narrow,
    legend_below,
    looks,
    plain_numbers,
    size_ticks,
    tag,
)
from benchmarks.reporting.sections import (
    Chart,
    Datum,
    Section,
    Table,
    memory,
    number,
    percent,
    row,
    size,
    status,
    word,
)
from benchmarks.reporting.throughput import MOST_LINES, Line, mark_end
from fixtures.formatting import attention_kernels, figure, readable_size

# What one iteration of a stage is.
_UNITS = {"denoise": "evaluations", "decode": "decodes"}
_MODES = ("forward", "input", "training")
# Parts of a marker that are filled, by mode: a dash does not show in a line of one size.
_FILLED = ("full", "left", "bottom")
_PANEL_INCHES = 3.6


def stages(report_data: ReportData) -> Section | None:
    """The section on rates; None if no denoiser or decoder ran."""
    cells = [cell for cell in stage_cells(report_data) if not cell.is_search]
    lines = lines_of(cells)
    if not any(cell.ran for cell in cells):
        return None
    known = looks(report_data)
    charts = [
        Chart("stages", "Evaluations and decodes per minute against pixels", partial(_draw_rates, drawn(lines), known))
    ]
    making = [line for line in lines if any(cell.images_per_second for cell in line)]
    steps = steps_of(cells)
    if making:
        title = f"Images per second of each stage{f', at {steps} evaluations an image' if steps else ''}"
        charts.append(Chart("stage-images", title, partial(_draw_images, making[:MOST_LINES], known)))
    return Section(
        "stages",
        "Denoise and decode",
        _finding(cells),
        charts=charts,
        tables=[_rates(cells, steps)],
        notes=[
            *_notes(lines),
            *(["A cross on the axis: at this size a line ends, and why."] if any(map(_ends, lines)) else []),
            "Images per second are of one stage alone, without text encoder and sampler: of a denoiser those of the"
            " stated number of evaluations. A gradient makes no image.",
        ],
    )


def stage_memory(report_data: ReportData) -> Section | None:
    """The section on memory; None if no memory is known of any denoiser or decoder."""
    cells = [cell for cell in stage_cells(report_data) if cell.measured_peak_bytes or cell.predicted_memory_bytes]
    if not cells:
        return None
    lines = lines_of(cells)
    return Section(
        "stage-memory",
        "Memory of denoise and decode",
        _memory_finding(cells),
        charts=[
            Chart(
                "stage-memory",
                "Peak memory of each stage against pixels",
                partial(_draw_memory, drawn(lines), looks(report_data)),
            )
        ],
        tables=[_memory_table(cells)],
        notes=[
            *_notes(lines),
            "Filled: measured. Hollow, dotted: predicted before the cell ran. A cross: out of memory, at what it was"
            " predicted to take. A star: the largest image that a search found.",
        ],
    )


def stage_cells(report_data: ReportData) -> list[ShownCell]:
    """Cells of denoisers and decoders on one rank, and of searches for the largest image."""
    return [
        cell
        for cell in report_data.cells
        if cell.kind in _UNITS and not cell.scaling and cell.pixels and not cell.number("largest_batch")
    ]


def lines_of(cells: Sequence[ShownCell]) -> list[Line]:
    """Cells that differ by their size only, by size; lines of more sizes first."""
    groups: dict[tuple[str, ...], list[ShownCell]] = {}
    for cell in cells:
        groups.setdefault((cell.kind, cell.place, _name(cell)), []).append(cell)
    lines = [tuple(sorted(group, key=lambda cell: cell.pixels)) for group in groups.values()]
    return sorted(lines, key=len, reverse=True)


def drawn(lines: Sequence[Line]) -> list[Line]:
    """The lines of each stage that can be told apart."""
    return [line for kind in _UNITS for line in [line for line in lines if line[0].kind == kind][:MOST_LINES]]


def steps_of(cells: Sequence[ShownCell]) -> str:
    """The numbers of evaluations that make an image; empty without a denoiser."""
    return " or ".join(map(str, sorted({int(steps) for cell in cells if (steps := cell.number("denoising_steps"))})))


def _name(cell: ShownCell) -> str:
    batch = "" if cell.batch == "1" else f"batch {cell.batch}"
    return " ".join(word for word in (cell.name, cell.mode, batch) if word)


def _look(line: Line, known: Mapping[tuple[str, str], Look]) -> Look:
    """Colour and marker of the device and model; the dash, and how much of the marker is filled, is the mode's."""
    own, mode = known[line[0].place, line[0].model], line[0].mode
    index = _MODES.index(mode) if mode in _MODES else -1
    return Look(own.colour, own.marker, DASHES[index], _FILLED[index])


def _label(line: Line, lines: Sequence[Line]) -> str:
    """The name of a line, with its device if there are several."""
    places = {one[0].place for one in lines}
    return _name(line[0]) + (f" on {line[0].place}" if len(places) > 1 else "")


def _notes(lines: Sequence[Line]) -> list[str]:
    hidden = len(lines) - len(drawn(lines))
    notes = [f"{hidden} more lines are in the table only."] if hidden else []
    if len({line[0].mode for line in lines}) > 1:
        notes.append("Half a marker: the left half for the gradient to the latents, the lower half for training.")
    return notes


def _ends(line: Line) -> bool:
    """Whether one of its sizes failed."""
    return any(not cell.ran and cell.status != "skipped" for cell in line)


def _panels(
    lines: Sequence[Line], width_inches: float, fill: Callable[[Axes, Sequence[Line], str], None], share_y: bool
) -> Figure:
    """A panel for each stage that has lines: side by side, on narrow pages above each other."""
    kinds = [kind for kind in _UNITS if any(line[0].kind == kind for line in lines)]
    rows, columns = (len(kinds), 1) if is_narrow(width_inches) else (1, len(kinds))
    fig = canvas(width_inches, 0.6 + _PANEL_INCHES * rows)
    panels = fig.subplots(rows, columns, squeeze=False, sharey=share_y).ravel()
    for axes, kind in zip(panels, kinds, strict=True):
        own = [line for line in lines if line[0].kind == kind]
        axes.set_yscale("log", base=2 if share_y else 10)
        cells = [cell for line in own for cell in line]
        # The size that a search found has its own label, and would take the room of a round one.
        size_ticks(axes, [cell for cell in cells if not cell.is_search] or cells, width_inches / columns)
        axes.set_xlim(min(cell.pixels for cell in cells) / 1.5, max(cell.pixels for cell in cells) * 1.5)
        axes.set_xlabel("image size [px], logarithmic in pixels")
        axes.set_title(kind)
        axes.grid(visible=True)
        fill(axes, own, kind)
    legend_below(panels[0], width_inches)
    return fig


def _draw_rates(lines: Sequence[Line], known: Mapping[tuple[str, str], Look], width_inches: float) -> Figure:
    def fill(axes: Axes, own: Sequence[Line], kind: str) -> None:
        for line in own:
            look = _look(line, known)
            ran = [cell for cell in line if cell.ran]
            curve(axes, ran, lambda cell: cell.iterations_per_minute, look, line[0], label=_label(line, lines))
            mark_end(axes, line, look, _name(line[0]))
        plain_numbers(axes.yaxis)
        axes.set_ylabel(f"{_UNITS[kind]} per minute, logarithmic", rotation_mode="anchor")

    return _panels(lines, width_inches, fill, share_y=False)


def _draw_images(lines: Sequence[Line], known: Mapping[tuple[str, str], Look], width_inches: float) -> Figure:
    fig = canvas(width_inches, 3.8)
    axes = fig.subplots()
    axes.set_yscale("log")
    size_ticks(axes, [cell for line in lines for cell in line], width_inches)
    for line in lines:
        made = [cell for cell in line if cell.images_per_second]
        label = f"{line[0].kind}: {_label(line, lines)}"
        curve(axes, made, lambda cell: cell.images_per_second, _look(line, known), line[0], label=label)
    plain_numbers(axes.yaxis)
    axes.grid(visible=True)
    axes.set_ylabel("images per second, logarithmic", rotation_mode="anchor")
    legend_below(axes, width_inches)
    return fig


def _draw_memory(lines: Sequence[Line], known: Mapping[tuple[str, str], Look], width_inches: float) -> Figure:
    def fill(axes: Axes, own: Sequence[Line], kind: str) -> None:
        del kind
        for line in own:
            look = _look(line, known)
            measured = [cell for cell in line if cell.measured_peak_bytes and not cell.is_search]
            curve(axes, measured, lambda cell: cell.measured_peak_bytes, look, line[0], label=_label(line, lines))
            predicted = [cell for cell in line if cell.predicted_memory_bytes and not cell.is_search]
            hollow = {"linestyle": ":", "linewidth": 1, "markerfacecolor": "none"}
            curve(axes, predicted, lambda cell: cell.predicted_memory_bytes, look, line[0], **hollow)
            _mark_end_of_memory(axes, line, look)
        draw_limits(axes, [cell for line in own for cell in line])

    fig = _panels(lines, width_inches, fill, share_y=True)
    first, *others = fig.axes
    low, high = first.get_ylim()
    first.set_ylim(low, 2 * high)  # room for the name of the highest limit
    byte_ticks(first)
    for axes in [first, *others] if is_narrow(width_inches) else [first]:
        axes.set_ylabel("peak memory, logarithmic", rotation_mode="anchor")
    return fig


def _mark_end_of_memory(axes: Axes, line: Line, look: Look) -> None:
    """A cross at each size that ran out of memory, at its predicted peak or else at the budget; a star at the largest
    size that a search found.
    """
    for cell in line:
        height = cell.predicted_memory_bytes or cell.memory_budget_bytes
        if cell.status == "out_of_memory" and height:
            (cross,) = axes.plot([cell.pixels], [height], "x", color=look.colour, markersize=9, markeredgewidth=2.2)
            tag(cross, cell)
        elif cell.is_search and cell.measured_peak_bytes:
            peak = cell.measured_peak_bytes
            (star,) = axes.plot([cell.pixels], [peak], "*", color=look.colour, markersize=13, markerfacecolor=PAPER)
            tag(star, cell)
            text = axes.annotate(
                f"{cell.width}", (cell.pixels, peak), xytext=(0, -14), textcoords="offset points", ha="center"
            )
            tag(text, cell)


def _finding(cells: Sequence[ShownCell]) -> str:
    """The fastest forward pass of each stage, at the smallest size that it has."""
    sentences = []
    for kind, unit in _UNITS.items():
        ran = [cell for cell in cells if cell.kind == kind and cell.ran]
        best = max(ran, key=lambda cell: cell.iterations_per_minute or 0, default=None)
        if best is None:
            continue
        images = f", {figure(best.images_per_second)} images per second" if best.images_per_second else ""
        steps = f" at {steps_of([best])} evaluations each" if images and kind == "denoise" else ""
        sentences.append(
            f"{_name(best)} at {best.size_px} px: {figure(best.iterations_per_minute or 0)} {unit} per minute"
            f"{images}{steps}, on {best.place}."
        )
    return " ".join(sentences)


_IDENTIFIED = ("device", "stage", "model", "resolution [px]", "batch", "mode")


def _identified(cell: ShownCell) -> tuple[Datum, ...]:
    """The columns `_IDENTIFIED` of a cell."""
    return (
        word(cell.place),
        word(cell.kind),
        word(cell.name),
        size(cell),
        Datum(cell.batch, int(cell.batch) if cell.batch.isdigit() else None),
        word(cell.mode),
    )


def _rates(cells: Sequence[ShownCell], steps: str) -> Table:
    header = (
        *_IDENTIFIED, "per minute", "ms", f"images/s ({steps} steps)" if steps else "images/s", "attention", "spread",
        "compile [s]", "recompilations", "status",
    )  # fmt: skip
    rows = [
        row(
            cell,
            *_identified(cell),
            number(cell.iterations_per_minute),
            number(cell.median_seconds, 1e-3),
            number(cell.images_per_second),
            word(attention_kernels(cell.facts.get("attention_operators"))),
            percent(cell.spread),
            number(cell.compile_seconds),
            number(cell.number("recompilations")),
            status(cell),
        )
        for cell in cells
    ]
    return Table("Evaluations and decodes: every cell", header, rows)


def _memory_finding(cells: Sequence[ShownCell]) -> str:
    """The largest image of each stage that was measured, or what the largest one was predicted to take."""
    sentences = []
    for kind in _UNITS:
        own = [cell for cell in cells if cell.kind == kind]
        ran = [cell for cell in own if cell.measured_peak_bytes]
        if ran:
            most = max(ran, key=lambda cell: (cell.pixels, cell.measured_peak_bytes))
            sentences.append(
                f"{kind}: {_name(most)} at {most.size_px} px takes {readable_size(most.measured_peak_bytes or 0)}"
            )
        ended = [cell for cell in own if cell.status == "out_of_memory"]
        if ended:
            first = min(ended, key=lambda cell: cell.pixels)
            sentences.append(f"{_name(first)} runs out of memory at {first.size_px} px")
    return "; ".join(sentences) + "." if sentences else "Nothing was measured; predicted is what cells would take."


def _memory_table(cells: Sequence[ShownCell]) -> Table:
    header = (
        *_IDENTIFIED, "peak memory", "predicted", "predicted/measured", "budget", "fails at [px]", "status",
    )  # fmt: skip
    rows = [
        row(
            cell,
            *_identified(cell),
            *peaks(cell),
            memory(cell.memory_budget_bytes),
            number(cell.number("failed_side_px")),
            status(cell),
        )
        for cell in cells
    ]
    return Table("Peak memory of every evaluation and decode", header, rows)
