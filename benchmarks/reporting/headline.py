"""The headline of the report: rate, speed-up, largest image, and failures."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.reporting.data import ReportData, ShownCell
from benchmarks.reporting.speed_ups import speed_ups_of, workload_name
from fixtures.formatting import figure, readable_size, readable_time
from fixtures.records.relative import best_accelerator

# The model and size of the first sentence, if they were measured.
_MODEL, _SIDE_PX = "vgg19", 512
_4K_PIXELS = 3840 * 2160
_8K = (7680, 4320)


@dataclass(frozen=True)
class Tile:
    """A highlighted figure."""

    value: str
    about: str


@dataclass(frozen=True)
class Headline:
    """The report's title, further sentences, and highlighted figures."""

    title: str
    sentences: Sequence[str]
    tiles: Sequence[Tile]


def headline(report_data: ReportData) -> Headline:
    """The headline; also for a run without measurements."""
    ran = [cell for cell in report_data.iterations if cell.ran]
    generated = _generated(report_data)
    title = _rate(report_data, ran) or _classified(report_data) or next(iter(generated), _anything(report_data))
    others = (
        *(f"{sentence}." for sentence in generated if sentence != title),
        _largest(report_data),
        _large_pictures(ran),
        _failures(report_data),
    )
    sentences = [sentence for sentence in others if sentence]
    return Headline(title, sentences, [tile for tile in (*_tiles(report_data, ran), _counted(report_data)) if tile])


def _chosen(ran: Sequence[ShownCell]) -> ShownCell | None:
    """The cell of the title: the fastest plain one of the preferred model at the size nearest to 512 px."""
    plain = [cell for cell in ran if not cell.variant] or list(ran)
    if not plain:
        return None
    model = _MODEL if any(cell.model == _MODEL for cell in plain) else plain[0].model
    own = [cell for cell in plain if cell.model == model]
    nearest = min(own, key=lambda cell: abs(cell.pixels - _SIDE_PX**2))
    return max(
        (cell for cell in own if cell.pixels == nearest.pixels), key=lambda cell: cell.iterations_per_minute or 0
    )


def _rate(report_data: ReportData, ran: Sequence[ShownCell]) -> str | None:
    cell = _chosen(ran)
    if cell is None:
        return None
    rate = figure(cell.iterations_per_minute or 0)
    text = f"{cell.name} at {cell.size_px} px: {rate} iterations per minute on {cell.place}"
    faster = [one for one in speed_ups_of(report_data) if one.cell is cell]
    return text + (f", {figure(faster[0].times)} times as fast as {faster[0].base.place}" if faster else "")


def _classified(report_data: ReportData) -> str | None:
    ran = [cell for cell in report_data.cells if cell.kind == "classification" and cell.images_per_second]
    if not ran:
        return None
    best = max(ran, key=lambda cell: cell.images_per_second or 0)
    return (
        f"{best.model} {best.mode}: {figure(best.images_per_second or 0)} images per second at"
        f" {best.size_px} px, batch {best.batch}, on {best.place}"
    )


def _generated(report_data: ReportData) -> list[str]:
    """The best forward pass of a denoiser, and of a decoder, at the size nearest to 512 px."""
    sentences = []
    for kind, unit in (("denoise", "evaluations"), ("decode", "decodes")):
        of_kind = [cell for cell in report_data.cells if cell.kind == kind and not cell.is_search]
        ran = [cell for cell in of_kind if cell.images_per_second]
        if not ran:
            continue
        best = min(ran, key=lambda cell: (abs(cell.pixels - _SIDE_PX**2), -(cell.iterations_per_minute or 0)))
        sentences.append(
            f"{best.name} at {best.size_px} px: {figure(best.iterations_per_minute or 0)} {unit} per minute on"
            f" {best.place}"
        )
    return sentences


def _anything(report_data: ReportData) -> str:
    ran = sum(cell.ran for cell in report_data.cells)
    if ran:
        return f"{ran} of {len(report_data.cells)} cells have figures"
    return "No cell has figures" if report_data.cells else "The record has no cells"


def _largest(report_data: ReportData) -> str | None:
    searches = [cell for cell in report_data.cells if cell.number("largest_side_px")]
    if not searches:
        return None
    # One of each kind of work, the largest.
    best = {cell.kind: cell for cell in searches}  # in the order of the record
    best |= {cell.kind: cell for cell in sorted(searches, key=lambda cell: cell.number("largest_side_px") or 0)}
    largest = [
        f"{cell.number('largest_side_px'):g} × {cell.number('largest_side_px'):g} px with {cell.name} on {cell.place}"
        + ("" if kind == "style" else f" ({kind})")
        for kind, cell in best.items()
    ]
    return f"The largest square image that fits: {'; '.join(largest)}."


def _large_pictures(ran: Sequence[ShownCell]) -> str | None:
    """A sentence on the largest image of 4K or more, if there is one."""
    large = [cell for cell in ran if cell.pixels >= _4K_PIXELS]
    if not large:
        return None
    most = max(cell.pixels for cell in large)
    cell = min((cell for cell in large if cell.pixels == most), key=lambda cell: cell.median_seconds or 0)
    size = "8K" if cell.pixels == _8K[0] * _8K[1] else f"{cell.size_px} px"
    text = f"{size} fits with {cell.name} on {cell.place}: {readable_time(cell.median_seconds or 0)} an iteration"
    return text + (f" in {readable_size(cell.measured_peak_bytes)}." if cell.measured_peak_bytes else ".")


def _failures(report_data: ReportData) -> str | None:
    statuses = [cell.status.replace("_", " ") for cell in report_data.cells if not cell.ran]
    if not statuses:
        return None
    counted = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    return f"Without figures: {counted}."


def _tiles(report_data: ReportData, ran: Sequence[ShownCell]) -> list[Tile]:
    tiles = []
    if cell := _chosen(ran):
        tiles.append(
            Tile(figure(cell.iterations_per_minute or 0), f"iterations per minute, {cell.name}, {cell.size_px} px")
        )
        if cell.measured_peak_bytes:
            tiles.append(Tile(readable_size(cell.measured_peak_bytes), f"peak memory, {cell.name}, {cell.size_px} px"))
    if pairs := speed_ups_of(report_data):
        best = best_accelerator(pairs)
        tiles.append(
            Tile(f"{figure(best.times)} ×", f"{best.cell.place} against {best.base.place}, {workload_name(best.cell)}")
        )
    if ran:
        largest = max(ran, key=lambda cell: cell.pixels)
        tiles.append(Tile(f"{largest.size_px} px", f"largest image measured, {largest.name}"))
    return tiles


def _counted(report_data: ReportData) -> Tile | None:
    if not report_data.cells:
        return None
    ran = sum(cell.ran for cell in report_data.cells)
    return Tile(f"{ran} of {len(report_data.cells)}", "cells have figures")
