"""A picture that is not finished: its sizes from coarse to fine, and the file that keeps all that it takes to go on.

A file of torch.save is a zip archive. The plain facts lie in it beside the tensors, so that the process that plans a
run, which has no torch, can read them, and both change in one step. torch is imported by the functions that need it.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models import files
from models.errors import InputError

# Begun any smaller, a picture loses its content: what is lost at 100 px is not found again at 200.
COARSEST_PX = 128


@dataclass
class Scale:
    """One size of a picture in the making, and what has been done at it.

    Attributes:
        width, height: in pixels.
        iterations: how many it is to have.
        preparing_seconds: what building network, targets and optimiser took.
        durations_seconds: of the iterations so far, in order.
        first_loss, last_loss: None before the first iteration is looked at.
    """

    width: int
    height: int
    iterations: int
    preparing_seconds: float = 0.0
    durations_seconds: list[float] = field(default_factory=list)
    first_loss: float | None = None
    last_loss: float | None = None

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def done(self) -> bool:
        return len(self.durations_seconds) >= self.iterations

    @property
    def seconds(self) -> float:
        """What it has taken so far."""
        return self.preparing_seconds + sum(self.durations_seconds)


def coarse_to_fine(width: int, height: int, iterations: int, least_px: int = 1) -> list[Scale]:
    """Sizes that double up to the one asked for, with even shares of the iterations, the remainder to the coarse ones.

    Gatys et al. 2017, "Controlling Perceptual Factors in Neural Style Transfer", section 6.2: what a network sees of a
    large picture at once is small, so large structures are made at a small size, whose result the next one begins with.

    Args:
        least_px: shortest side that the network takes; no size is smaller than that, or than COARSEST_PX.
    """
    sizes = [(width, height)]
    while len(sizes) < iterations and min(sizes[0]) >= 2 * max(COARSEST_PX, least_px):
        sizes.insert(0, (round(sizes[0][0] / 2), round(sizes[0][1] / 2)))
    share, rest = divmod(iterations, len(sizes))
    return [Scale(*size, share + (place < rest)) for place, size in enumerate(sizes)]


def seconds_left(scales: Sequence[Scale]) -> float | None:
    """How long the rest is going to take, in proportion to its pixels; None before the first iteration.

    By the pace of the size in hand alone: small sizes leave a device idle and say little of large ones.
    """
    begun = [scale for scale in scales if scale.durations_seconds]
    if not begun:
        return None
    latest = begun[-1]
    pace = sum(latest.durations_seconds) / len(latest.durations_seconds) / latest.pixels
    return sum(pace * scale.pixels * (scale.iterations - len(scale.durations_seconds)) for scale in scales)


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
