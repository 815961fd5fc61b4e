"""What was watched while cells were measured: energy, power, temperature, clocks, and what spoilt their rates."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from benchmarks.reporting.drawing import Look, canvas, curve, legend_below, looks, plain_numbers, size_ticks
from benchmarks.reporting.material import Material, ShownCell
from benchmarks.reporting.section import Chart, Datum, Section, Table, number, percent, row, size, word
from benchmarks.reporting.throughput import MOST_LINES, Line, lines_of, look_of

# Of what is sampled: the key in the record, which of its figures, and its name in the table.
_SAMPLED = (
    ("power_watts", "median", "power [W]"),
    ("temperature_celsius", "max", "hottest [°C]"),
    ("sm_clock_mhz", "min", "slowest clock [MHz]"),
    ("fastest_core_mhz", "min", "slowest clock of a busy core [MHz]"),
    ("load_average", "median", "load"),
)


def watched(material: Material) -> Section | None:
    """The section; None if no cell was watched."""
    cells = [cell for cell in material.cells if cell.ran and cell.telemetry]
    if not cells:
        return None
    with_energy = [cell for cell in material.iterations if _joules(cell)]
    lines = lines_of(with_energy)[:MOST_LINES]
    draw = partial(_draw, lines, looks(material))
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
    found = cell.telemetry.get("energy_per_iteration_joules")
    return found if isinstance(found, int | float) else None


def _sampled(cell: ShownCell, quantity: str, which: str) -> float | None:
    sampled = cell.telemetry.get("sampled")
    entry = sampled.get(quantity) if isinstance(sampled, Mapping) else None
    return entry.get(which) if isinstance(entry, Mapping) else None


def _finding(cells: Sequence[ShownCell]) -> str:
    throttled = sum(bool(cell.telemetry.get("throttled")) for cell in cells)
    shared = sum(bool(cell.telemetry.get("shared")) for cell in cells)
    if not throttled and not shared:
        return f"None of the {len(cells)} cells that were watched throttled, or shared its device."
    return (
        f"Of {len(cells)} cells that were watched {throttled} throttled, and {shared} shared their device with others."
    )


def _draw(lines: Sequence[Line], known: Mapping[tuple[str, str], Look], width_inches: float) -> Figure:
    drawn = canvas(width_inches, 4.0)
    axes = drawn.subplots()
    axes.set_yscale("log")
    size_ticks(axes, [cell for line in lines for cell in line], width_inches)
    for line in lines:
        look = look_of(line, lines, known)
        curve(axes, line, _joules, look, line[0], label=f"{line[0].name} on {line[0].place}")
    plain_numbers(axes.yaxis)
    axes.grid(visible=True)
    axes.set_ylabel("joules per iteration, logarithmic", rotation_mode="anchor")
    legend_below(axes, width_inches)
    return drawn


def _table(cells: Sequence[ShownCell]) -> Table:
    """Of what was sampled only what some cell has."""
    there = [entry for entry in _SAMPLED if any(_sampled(cell, *entry[:2]) is not None for cell in cells)]
    energy = any(_joules(cell) for cell in cells)
    header = [
        "device", "model", "further", "resolution [px]", *(name for _, _, name in there),
        *(["energy [J/iteration]"] if energy else []), "throttled", "shared",
    ]  # fmt: skip
    rows = []
    for cell in cells:
        figures = [number(_sampled(cell, quantity, which)) for quantity, which, _ in there]
        figures += [number(_joules(cell))] if energy else []
        further = cell.further
        names = [word(cell.place), word(cell.model), word(further), size(cell) if cell.pixels else word(None)]
        rows.append(
            row(cell, *names, *figures, _throttled(cell), word("yes" if cell.telemetry.get("shared") else "no"))
        )
    return Table("Telemetry of every cell", header, rows)


def _throttled(cell: ShownCell) -> Datum:
    """The reasons, with the share of the time where that is known."""
    shares: Any = cell.telemetry.get("throttled_shares")
    known = shares if isinstance(shares, Mapping) else {}
    reasons = cell.telemetry.get("throttled") or []
    return word(
        ", ".join(f"{reason} {percent(known[reason]).text}" if reason in known else reason for reason in reasons)
    )
