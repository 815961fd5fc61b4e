"""An unfinished picture in a file: all that it takes to go on with it, whatever ended the process that began it.

A file of torch.save is a zip archive. The plain facts lie in it beside the tensors, so that the process that plans a
run, which has no torch, can read them, and both change in one step.
"""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models import files
from models.errors import InputError

_FACTS = "archive/goghmark.json"  # torch names the folder within the archive so, and reads no file outside of it


def save(path: Path, facts: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """Replace what was saved before.

    Args:
        facts: what JSON can hold.
        tensors: tensors, and lists, dicts and numbers around them.

    Raises:
        OSError: the file cannot be written.
    """
    import torch  # noqa: PLC0415

    with files.replacing(path) as file:
        torch.save(dict(tensors), file)
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(_FACTS, json.dumps(facts))


def read_facts(path: Path) -> dict[str, Any]:
    """The facts, without torch.

    Raises:
        InputError: the file is not of `save`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            facts: dict[str, Any] = json.loads(archive.read(_FACTS))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise InputError(f"{str(path)!r} is no unfinished picture; remove it to begin anew") from error
    return facts


def read_tensors(path: Path, device: Any) -> dict[str, Any]:
    """The tensors, on that device."""
    import torch  # noqa: PLC0415

    tensors: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return tensors
