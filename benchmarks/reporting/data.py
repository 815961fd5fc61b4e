"""The data of a report: the cells of all files, each with the machine that it was measured on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fixtures.records.cell_record import CellRecord, Identity
from fixtures.records.merging import described, unused
from fixtures.records.reader import RecordFile
from fixtures.telemetry.base import disturbances

MAIN_BENCHMARK = "test_style_iteration"


@dataclass(frozen=True)
class Machine:
    """One machine: a unique name, and its facts from the newest file."""

    name: str
    facts: Mapping[str, Any]

    def hardware(self, device: str) -> Mapping[str, Any]:
        """Facts of one of its devices; empty if the file does not have it."""
        return next((one for one in _devices(self.facts) if one.get("name") == device), {})


@dataclass(frozen=True)
class ShownCell(CellRecord):
    """A cell's record, and where it was measured.

    Attributes:
        place: name of the hardware and the device, unique in a report.
        path: the record file.
    """

    machine: Machine
    place: str
    path: Path

    @property
    def generates(self) -> bool:
        """Whether it is an iteration of image generation, on one rank and at a requested size."""
        return self.kind == "style" and not self.scaling and self.pixels > 0 and not self.is_search

    @property
    def size_px(self) -> str:
        """As requested: `512` or `7680 × 4320`; for a search the side that was found."""
        if self.is_search:
            return str(self.width)
        return self.resolution.replace("x", " × ")

    @property
    def device_memory_bytes(self) -> float | None:
        """Memory of its device."""
        facts = self.machine.facts if self.device == "cpu" else self.machine.hardware(self.device)
        return facts.get("memory_bytes")

    @property
    def doubts(self) -> tuple[str, ...]:
        """Disturbances during the measurement that make its figures doubtful."""
        return tuple(disturbances(self.telemetry))

    @property
    def further(self) -> str:
        """All axes beside model and size that are not at their default."""
        ranks = f"{self.ranks} ranks" if self.ranks > 1 else ""
        words = [self.variant, self.mode, self.size, ranks, self.tiler]
        if self.kind in ("classification", "denoise", "decode"):
            words.append(f"batch {self.batch}")
        return " ".join(word for word in words if word)


@dataclass(frozen=True)
class ReportData:
    """The data of all sections.

    Attributes:
        files: oldest first, as given; a merged file counts as one for each machine.
        cells: the newest of each machine and identity.
        machine_of: the machine of each file, by its index in `files`.
    """

    files: tuple[RecordFile, ...]
    machines: tuple[Machine, ...]
    cells: tuple[ShownCell, ...]
    machine_of: Mapping[int, Machine]

    def files_of(self, machine: Machine) -> tuple[RecordFile, ...]:
        return tuple(file for index, file in enumerate(self.files) if self.machine_of[index] is machine)

    @property
    def iterations(self) -> tuple[ShownCell, ...]:
        """Cells of style iterations: those of the main benchmark, else of the one with the most cells."""
        generating = [cell for cell in self.cells if cell.generates]
        benchmarks = [cell.benchmark for cell in generating]
        most = max(benchmarks, key=benchmarks.count, default="")
        chosen = MAIN_BENCHMARK if MAIN_BENCHMARK in benchmarks else most
        return tuple(cell for cell in generating if cell.benchmark == chosen)

    @property
    def places(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.place for cell in self.cells))

    @property
    def series(self) -> tuple[tuple[str, str], ...]:
        """Device and model of all cells with models: each pair has a colour and a marker of its own."""
        return tuple(
            dict.fromkeys((cell.place, cell.model) for cell in self.cells if cell.kind not in ("device_limit", "input"))
        )


def gather(files: Sequence[RecordFile]) -> ReportData:
    """The data of record files; cells of a later file replace those of an earlier one of the same machine."""
    by_key: dict[str, list[int]] = {}
    for index, file in enumerate(files):
        by_key.setdefault(_key(file), []).append(index)
    machines: list[Machine] = []
    machine_of: dict[int, Machine] = {}
    for indices in by_key.values():
        newest = files[indices[-1]]
        name = unused(newest.label or described(newest.machine, "×"), [machine.name for machine in machines])
        machines.append(Machine(name, newest.machine))
        machine_of |= dict.fromkeys(indices, machines[-1])
    cells: dict[tuple[str, Identity], ShownCell] = {}
    for index, file in enumerate(files):
        machine = machine_of[index]
        for identity, cell in file.cells.items():
            shown = ShownCell(cell.facts, machine, _place(cell.device, machine, machines), file.path)
            cells[machine.name, identity] = shown
    return ReportData(tuple(files), tuple(machines), tuple(cells.values()), machine_of)


def commit_of(file: RecordFile) -> str:
    """Short id of a file's commit, with `+` for uncommitted changes; empty if unknown."""
    commit = file.header.get("commit")
    if not isinstance(commit, dict) or not commit.get("id"):
        return ""
    return str(commit["id"])[:8] + ("+" if commit.get("dirty") else "")


def _key(file: RecordFile) -> str:
    """Equal for files of one machine: versions, drivers and threads may change, hardware does not."""
    hardware = [[device.get(key) for key in ("name", "model", "memory_bytes")] for device in _devices(file.machine)]
    return file.label or json.dumps([file.machine.get("architecture"), hardware])


def _devices(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [device for device in facts.get("devices") or () if isinstance(device, dict)]


def _place(device: str, machine: Machine, machines: Sequence[Machine]) -> str:
    model = machine.hardware(device).get("model")
    alike = [one for one in machines if one.hardware(device).get("model") == model]
    named = machine.name if len(alike) > 1 else model
    return device if not named or named == device else f"{named} ({device})"
