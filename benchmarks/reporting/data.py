"""What a report is made of: the cells of all files, each with the machine that it was measured on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fixtures.records.cell_record import CellRecord, Identity
from fixtures.records.merging import unused
from fixtures.records.reader import RecordFile
from fixtures.telemetry.base import disturbances

MAIN_BENCHMARK = "test_style_iteration"


@dataclass(frozen=True)
class Machine:
    """One machine: a name that no other has, and its facts, the newest file's."""

    name: str
    facts: Mapping[str, Any]

    def hardware(self, device: str) -> Mapping[str, Any]:
        """Facts of one of its devices; none if the file does not name it."""
        return next((one for one in _devices(self.facts) if one.get("name") == device), {})


@dataclass(frozen=True)
class ShownCell(CellRecord):
    """A cell's record, and where it was measured.

    Attributes:
        place: what hardware it is, and the device; no two devices of a report have the same.
    """

    machine: Machine
    place: str
    path: Path

    @property
    def generates(self) -> bool:
        """Whether an iteration is one of image generation, on one rank and at a size that was asked for."""
        return self.kind == "style" and not self.scaling and self.pixels > 0 and not self.is_search

    @property
    def size_px(self) -> str:
        """As asked: `512`, or `7680x4320` with a proper sign; of a search the side that it found."""
        if self.is_search:
            return f"{self.number('width') or 0:g}"
        return str(self.axes["resolution"]).replace("x", " × ")

    @property
    def device_memory_bytes(self) -> float | None:
        """All the memory that its device has."""
        facts = self.machine.facts if self.device == "cpu" else self.machine.hardware(self.device)
        return facts.get("memory_bytes")

    @property
    def doubts(self) -> tuple[str, ...]:
        """What happened while it was measured that makes its figures doubtful."""
        return tuple(disturbances(self.telemetry))

    @property
    def further(self) -> str:
        """What tells it from cells of the same model and size: all other axes that are not at their default."""
        ranks = f"{self.ranks} ranks" if self.ranks > 1 else ""
        words = [self.variant, self.word("mode"), self.word("size"), ranks]
        if self.kind == "classification":
            words.append(f"batch {self.axes['batch']}")
        return " ".join(word for word in words if word)


@dataclass(frozen=True)
class ReportData:
    """All that the sections take from.

    Attributes:
        files: in the order given, which is that of time; a merged file is one for each machine.
        cells: of each machine and identity the last file's.
    """

    files: tuple[RecordFile, ...]
    machines: tuple[Machine, ...]
    cells: tuple[ShownCell, ...]
    machine_of: Mapping[int, Machine]

    def files_of(self, machine: Machine) -> tuple[RecordFile, ...]:
        return tuple(file for place, file in enumerate(self.files) if self.machine_of[place] is machine)

    @property
    def iterations(self) -> tuple[ShownCell, ...]:
        """Cells of style iterations: those of the suite's main question, else of the most asked one."""
        generating = [cell for cell in self.cells if cell.generates]
        asked = [cell.benchmark for cell in generating]
        chosen = MAIN_BENCHMARK if MAIN_BENCHMARK in asked else max(asked, key=asked.count, default="")
        return tuple(cell for cell in generating if cell.benchmark == chosen)

    @property
    def places(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.place for cell in self.cells))

    @property
    def series(self) -> tuple[tuple[str, str], ...]:
        """Device and model of all cells with models: what has a colour and a marker of its own."""
        return tuple(
            dict.fromkeys((cell.place, cell.model) for cell in self.cells if cell.kind not in ("device_limit", "input"))
        )


def gather(files: Sequence[RecordFile]) -> ReportData:
    """The material in files, of which a later one replaces cells of an earlier one of the same machine."""
    by_key: dict[str, list[int]] = {}
    for place, file in enumerate(files):
        by_key.setdefault(_key(file), []).append(place)
    machines: list[Machine] = []
    machine_of: dict[int, Machine] = {}
    for places in by_key.values():
        newest = files[places[-1]]
        name = unused(newest.label or _described(newest.machine), [machine.name for machine in machines])
        machines.append(Machine(name, newest.machine))
        machine_of |= dict.fromkeys(places, machines[-1])
    cells: dict[tuple[str, Identity], ShownCell] = {}
    for place, file in enumerate(files):
        machine = machine_of[place]
        for identity, cell in file.cells.items():
            shown = ShownCell(cell.facts, machine, _place(cell.device, machine, machines), file.path)
            cells[machine.name, identity] = shown
    return ReportData(tuple(files), tuple(machines), tuple(cells.values()), machine_of)


def commit_of(file: RecordFile) -> str:
    """Short id of the commit that a file was measured at, `+` for a worktree with changes; empty if unknown."""
    commit = file.header.get("commit")
    if not isinstance(commit, dict) or not commit.get("id"):
        return ""
    return str(commit["id"])[:8] + ("+" if commit.get("dirty") else "")


def _key(file: RecordFile) -> str:
    """Files with the same one are of one machine: versions, drivers and threads may change, hardware does not."""
    hardware = [[device.get(key) for key in ("name", "model", "memory_bytes")] for device in _devices(file.machine)]
    return file.label or json.dumps([file.machine.get("architecture"), hardware])


def _devices(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [device for device in facts.get("devices") or () if isinstance(device, dict)]


def _described(facts: Mapping[str, Any]) -> str:
    """Its accelerators, or else its processor."""
    models = {str(device.get("name")): str(device.get("model") or "device") for device in _devices(facts)}
    accelerators = [model for name, model in models.items() if name != "cpu"]
    counted = [f"{accelerators.count(one)} × {one}" for one in dict.fromkeys(accelerators)]
    return ", ".join(counted).replace("1 × ", "") or models.get("cpu", "a machine")


def _place(device: str, machine: Machine, machines: Sequence[Machine]) -> str:
    model = machine.hardware(device).get("model")
    alike = [one for one in machines if one.hardware(device).get("model") == model]
    named = machine.name if len(alike) > 1 else model
    return device if not named or named == device else f"{named} ({device})"
