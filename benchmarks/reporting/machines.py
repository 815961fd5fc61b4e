"""The machines with their facts and files, all cells, and telemetry: energy, power, temperature, clocks, throttling."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from benchmarks.reporting.data import ReportData, ShownCell, commit_of
from benchmarks.reporting.plotting import Look, canvas, curve, legend_below, looks, plain_numbers, size_ticks
from benchmarks.reporting.sections import (
    IDENTIFIED,
    Chart,
    Datum,
    Row,
    Section,
    Table,
    identified,
    memory,
    number,
    percent,
    row,
    size,
    word,
)
from benchmarks.reporting.throughput import MOST_LINES, Line, lines_of, look_of
from fixtures.formatting import readable_size
from fixtures.records.device_time import launch_marked
from fixtures.records.reader import RecordFile
from fixtures.telemetry.base import throttling

_NAMES = {
    "system": "system", "kernel": "kernel", "architecture": "architecture", "python": "Python", "torch": "torch",
    "torchvision": "torchvision", "cuda": "CUDA", "hip": "HIP", "cudnn": "cuDNN", "driver": "driver",
    "threads": "threads",
}  # fmt: skip


def machines(report_data: ReportData) -> Section:
    """The section; never None."""
    facts = {
        machine.name: _facts([file.machine for file in report_data.files_of(machine)])
        for machine in report_data.machines
    }
    count = len(report_data.machines)
    return Section(
        "machine",
        "Machine" if count == 1 else f"{count} machines",
        "Rates are of these devices and versions; others have others.",
        tables=(_files(report_data),),
        facts=facts,
    )


def _facts(by_file: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Facts of one machine by name; where its files differ, all values."""
    shown: dict[str, list[str]] = {}
    for facts in by_file:
        for name, text in _of_file(facts).items():
            texts = shown.setdefault(name, [])
            if text not in texts:
                texts.append(text)
    return {name: "; ".join(texts) for name, texts in shown.items()}


def _of_file(facts: Mapping[str, Any]) -> dict[str, str]:
    devices = [device for device in facts.get("devices") or () if isinstance(device, dict)]
    shown = {str(device.get("name")): _device(device) for device in devices}
    if facts.get("memory_bytes"):
        shown["host memory"] = readable_size(facts["memory_bytes"])
    return shown | {name: str(facts[key]) for key, name in _NAMES.items() if facts.get(key) not in (None, "")}


def _device(device: Mapping[str, Any]) -> str:
    """Model and memory; not the cores of a cpu, which are shown as threads."""
    memory = device.get("memory_bytes")
    return str(device.get("model")) + (f", {readable_size(memory)}" if memory else "")


def _files(report_data: ReportData) -> Table:
    rows = [
        Row(
            [
                word(file.path.name),
                word(report_data.machine_of[index].name),
                word(commit_of(file)),
                word(_started(file)),
                number(len(file.cells)),
                number(sum(cell.ran for cell in file.cells.values())),
            ]
        )
        for index, file in enumerate(report_data.files)
    ]
    return Table("Record files of this report", ("file", "machine", "commit", "started", "cells", "with figures"), rows)


def _started(file: RecordFile) -> str:
    return str(file.header.get("started") or "").replace("T", " ").replace("+00:00", " UTC")


_HEADER = (
    *IDENTIFIED, "iterations/min", "images/s", "ms/iteration", "peak memory", "status", "message",
)  # fmt: skip


def all_cells(report_data: ReportData) -> Section | None:
    """The section; None if there are no cells."""
    if not report_data.cells:
        return None
    rows = [
        row(
            cell,
            *identified(cell),
            number(cell.iterations_per_minute),
            number(cell.images_per_second),
            number(cell.median_seconds, 1e-3),
            memory(cell.measured_peak_bytes),
            word(_status(cell)),
            _message(cell),
        )
        for cell in report_data.cells
    ]
    doubtful = sum(bool(cell.doubts) for cell in report_data.cells)
    marked = f"{doubtful} cell is" if doubtful == 1 else f"{doubtful} cells are"
    notes = [f"{marked} marked *: the device throttled, or was shared with others."] if doubtful else []
    finding = "Click a heading to sort; the filter above narrows all tables and dims the plots."
    return Section(
        "cells", "All cells", finding, tables=(Table("Every cell", _HEADER, rows, is_open=True),), notes=notes
    )


def _status(cell: ShownCell) -> str:
    cause = cell.cause or cell.phase
    return launch_marked(cell, cell.status) + (f" ({cause})" if cause and not cell.ran else "")


def _message(cell: ShownCell) -> Datum:
    text = cell.message if not cell.ran else "; ".join(cell.doubts)
    return word(text if len(text) <= 200 else text[:199] + "…")


# Sampled values: the key in the record, which of its figures, and the heading in the table.
_SAMPLED = (
    ("power_watts", "median", "power [W]"),
    ("temperature_celsius", "max", "hottest [°C]"),
    ("sm_clock_mhz", "min", "slowest clock [MHz]"),
    ("fastest_core_mhz", "min", "slowest clock of a busy core [MHz]"),
    ("load_average", "median", "load"),
)


def watched(report_data: ReportData) -> Section | None:
    """The section; None if no cell has telemetry."""
    cells = [cell for cell in report_data.cells if cell.ran and cell.telemetry]
    if not cells:
        return None
    with_energy = [cell for cell in report_data.iterations if _joules(cell)]
    lines = lines_of(with_energy)[:MOST_LINES]
    draw = partial(_draw, lines, looks(report_data))
    return Section(
        "telemetry",
        "Telemetry",
        _finding(cells),
        charts=[Chart("energy", "Energy of an iteration against pixels", draw)] if lines else [],
        tables=[_table(cells)],
        notes=[
            "A rate that was measured while the device throttled, or worked for others too, is too low; it has a *."
        ],
    )


def _joules(cell: ShownCell) -> float | None:
    joules = cell.telemetry.get("energy_per_iteration_joules")
    return joules if isinstance(joules, int | float) else None


def _sampled(cell: ShownCell, quantity: str, which: str) -> float | None:
    sampled = cell.telemetry.get("sampled")
    entry = sampled.get(quantity) if isinstance(sampled, Mapping) else None
    return entry.get(which) if isinstance(entry, Mapping) else None


def _finding(cells: Sequence[ShownCell]) -> str:
    throttled = sum(bool(throttling(cell.telemetry)) for cell in cells)
    shared = sum(bool(cell.telemetry.get("shared")) for cell in cells)
    if not throttled and not shared:
        return f"None of the {len(cells)} cells that were watched throttled, or shared its device."
    return (
        f"Of {len(cells)} cells that were watched {throttled} throttled, and {shared} shared their device with others."
    )


def _draw(lines: Sequence[Line], known: Mapping[tuple[str, str], Look], width_inches: float) -> Figure:
    fig = canvas(width_inches, 4.0)
    axes = fig.subplots()
    axes.set_yscale("log")
    size_ticks(axes, [cell for line in lines for cell in line], width_inches)
    for line in lines:
        look = look_of(line, lines, known)
        curve(axes, line, _joules, look, line[0], label=f"{line[0].name} on {line[0].place}")
    plain_numbers(axes.yaxis)
    axes.grid(visible=True)
    axes.set_ylabel("joules per iteration, logarithmic", rotation_mode="anchor")
    legend_below(axes, width_inches)
    return fig


def _table(cells: Sequence[ShownCell]) -> Table:
    """Only columns that have a value for some cell."""
    sampled = [entry for entry in _SAMPLED if any(_sampled(cell, *entry[:2]) is not None for cell in cells)]
    energy = any(_joules(cell) for cell in cells)
    header = [
        "device", "model", "further", "resolution [px]", *(name for _, _, name in sampled),
        *(["energy [J/iteration]"] if energy else []), "throttled", "shared",
    ]  # fmt: skip
    rows = []
    for cell in cells:
        figures = [number(_sampled(cell, quantity, which)) for quantity, which, _ in sampled]
        figures += [number(_joules(cell))] if energy else []
        names = [word(cell.place), word(cell.model), word(cell.further), size(cell) if cell.pixels else word(None)]
        rows.append(
            row(cell, *names, *figures, _throttled(cell), word("yes" if cell.telemetry.get("shared") else "no"))
        )
    return Table("Telemetry of every cell", header, rows)


def _throttled(cell: ShownCell) -> Datum:
    """The reasons, with their share of the time if known."""
    shares: Any = cell.telemetry.get("throttled_shares")
    known = shares if isinstance(shares, Mapping) else {}
    reasons = throttling(cell.telemetry)
    return word(
        ", ".join(f"{reason} {percent(known[reason]).text}" if reason in known else reason for reason in reasons)
    )
