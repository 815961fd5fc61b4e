"""Facts of the machines, and the files that were read."""

from collections.abc import Mapping
from typing import Any

from benchmarks.reporting.material import Material, commit_of
from benchmarks.reporting.section import Row, Section, Table, number, word
from fixtures.parsing import readable_size
from fixtures.record_files import RecordFile

_NAMES = {
    "system": "system", "kernel": "kernel", "architecture": "architecture", "python": "Python", "torch": "torch",
    "torchvision": "torchvision", "cuda": "CUDA", "hip": "HIP", "cudnn": "cuDNN", "driver": "driver",
    "threads": "threads",
}  # fmt: skip


def machines(material: Material) -> Section:
    """The section; it is always there."""
    facts = {machine.name: _facts(machine.facts) for machine in material.machines}
    count = len(material.machines)
    return Section(
        "machine",
        "Machine" if count == 1 else f"{count} machines",
        "Rates are of these devices and versions; others have others.",
        tables=(_files(material),),
        facts=facts,
    )


def _facts(facts: Mapping[str, Any]) -> dict[str, str]:
    shown: dict[str, str] = {}
    for device in facts.get("devices") or ():
        if not isinstance(device, dict):
            continue
        words = [str(device.get("model"))]
        if device.get("memory_bytes"):
            words.append(readable_size(device["memory_bytes"]))
        if device.get("cores"):
            words.append(f"{device['cores']} cores")
        shown[str(device.get("name"))] = ", ".join(words)
    if facts.get("memory_bytes"):
        shown["host memory"] = readable_size(facts["memory_bytes"])
    shown |= {name: str(facts[key]) for key, name in _NAMES.items() if facts.get(key) not in (None, "")}
    return shown


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
