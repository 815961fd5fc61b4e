"""Decoders that work in tiles: their errors against the whole decode, beside time and memory, and error maps."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.reporting.data import ReportData, ShownCell
from benchmarks.reporting.gallery import small_copy
from benchmarks.reporting.sections import Picture, Row, Section, Table, memory, number, row, size, word
from fixtures.formatting import figure
from fixtures.records.cell_record import number_of
from fixtures.records.tilers import errors_of, reason_of

_MOST_PICTURES = 24
_HEADER = (
    "device", "model", "size [px]", "tiler", "latents", "relative L2", "largest difference", "mean difference",
    "near edges", "elsewhere", "seam", "s/decode", "peak memory", "status",
)  # fmt: skip
_FIGURES = (
    "relative_l2", "largest_difference", "mean_difference", "edge_difference", "difference_elsewhere", "seam",
)  # fmt: skip

Compared = tuple[ShownCell, str, Mapping[str, Any]]


def tilers(report_data: ReportData) -> Section | None:
    """The section; None without decoders that work in tiles."""
    own = sorted(
        (cell for cell in report_data.cells if cell.kind == "tiling"), key=lambda cell: (cell.model, cell.pixels)
    )
    if not own:
        return None
    compared = [(cell, latents, figures) for cell in own for latents, figures in errors_of(cell)]
    pictures = list(_error_maps(compared))
    hidden = len(pictures) - _MOST_PICTURES
    return Section(
        "tilers",
        "Decoders that work in tiles",
        _finding(compared),
        tables=[Table("Errors against the whole decode", _HEADER, [_row(*one) for one in compared], is_open=True)],
        pictures=pictures[:_MOST_PICTURES],
        notes=[
            "Difference of pixels, which are nominally from -1 to 1, to the whole decode of the same latents with the"
            " same weights. Near edges: within 8 px of where a tile begins or ends. Seam: how much the difference"
            " changes across an edge, over how much it changes between other adjacent pixels; 1 is none.",
            "Error maps show the mean difference of squares of pixels; black is none, white the largest of each map.",
            *([f"{hidden} more error maps are beside the record."] if hidden > 0 else []),
            *dict.fromkeys(_reasons(compared)),
        ],
    )


def _finding(compared: Sequence[Compared]) -> str:
    """The error of each tiler at the largest size at which any has one."""
    known = [
        (cell, latents, error)
        for cell, latents, figures in compared
        if cell.word("tiler") != "whole" and (error := number_of(figures, "relative_l2")) is not None
    ]
    if not known:
        return "No decoder that works in tiles could be compared with the whole decode."
    shown_cell, shown_latents, _ = max(known, key=lambda one: one[0].pixels)
    alike = (shown_cell.place, shown_cell.name, shown_cell.pixels, shown_latents)
    errors = [
        f"{cell.word('tiler')} {figure(100 * error)} %"
        for cell, latents, error in known
        if (cell.place, cell.name, cell.pixels, latents) == alike
    ]
    return (
        f"Relative L2 distance to the whole decode, {shown_cell.name} at {shown_cell.size_px} px,"
        f" {shown_latents}: {', '.join(errors)}."
    )


def _row(cell: ShownCell, latents: str, figures: Mapping[str, Any]) -> Row:
    return row(
        cell,
        word(cell.place),
        word(cell.name),
        size(cell),
        word(cell.word("tiler")),
        word(latents),
        *(number(number_of(figures, key)) for key in _FIGURES),
        number(cell.median_seconds),
        memory(cell.peak_memory_bytes),
        word(reason_of(cell, figures)[0] or cell.status),
    )


def _error_maps(compared: Sequence[Compared]) -> Iterator[Picture]:
    """The error maps of tilers that have an error."""
    for cell, latents, figures in compared:
        white = number_of(figures, "error_map_white")
        uri = small_copy(cell, str(figures.get("error_map") or "")) if white else None
        if white and uri is not None:
            caption = f"{cell.word('tiler')}, {cell.name}, {cell.size_px} px, {latents}; white is {figure(white)}"
            yield Picture(uri, caption, cell)


def _reasons(compared: Sequence[Compared]) -> Iterator[str]:
    for cell, latents, figures in compared:
        status, message = reason_of(cell, figures)
        if message:
            where = f", {latents}" if latents else ""
            yield f"{cell.word('tiler')}, {cell.name}, {cell.size_px} px{where}: {status}: {message}"
