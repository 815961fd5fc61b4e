"""Facts of the machines, and the files that were read."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.reporting.material import Material, commit_of
from benchmarks.reporting.section import Row, Section, Table, number, word
from fixtures.parsing import readable_size
from fixtures.records.record_files import RecordFile

_NAMES = {
    "system": "system", "kernel": "kernel", "architecture": "architecture", "python": "Python", "torch": "torch",
    "torchvision": "torchvision", "cuda": "CUDA", "hip": "HIP", "cudnn": "cuDNN", "driver": "driver",
    "threads": "threads",
}  # fmt: skip


def machines(material: Material) -> Section:
    """The section; it is always there."""
    facts = {
        machine.name: _facts([file.machine for file in material.files_of(machine)]) for machine in material.machines
    }
    count = len(material.machines)
    return Section(
        "machine",
        "Machine" if count == 1 else f"{count} machines",
        "Rates are of these devices and versions; others have others.",
        tables=(_files(material),),
        facts=facts,
    )


def _facts(by_file: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Facts of one machine by their names; where its files differ, all that they say."""
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
    """The hardware; what its record calls the cores of a cpu are the threads, which have a line of their own."""
    memory = device.get("memory_bytes")
    return str(device.get("model")) + (f", {readable_size(memory)}" if memory else "")


def _files(material: Material) -> Table:
    rows = [
        Row(
            [
                word(file.path.name),
                word(material.machine_of[place].name),
                word(commit_of(file)),
                word(_started(file)),
                number(len(file.cells)),
                number(sum(cell["status"] == "ok" for cell in file.cells.values())),
            ]
        )
        for place, file in enumerate(material.files)
    ]
    return Table("Record files of this report", ("file", "machine", "commit", "started", "cells", "with figures"), rows)


def _started(file: RecordFile) -> str:
    return str(file.header.get("started") or "").replace("T", " ").replace("+00:00", " UTC")
