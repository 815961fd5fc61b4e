"""The state of an unfinished picture: its sizes from coarse to fine, and the checkpoint file from which it resumes.

The file is a zip archive written by torch.save. A JSON file in it lets the process that plans a run read the facts
without torch, and facts and tensors change together. Functions import torch only when they need it.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models import files
from models.errors import InputError

# A smaller first size loses the content: detail that is lost at 100 px does not return at 200 px.
COARSEST_PX = 128


@dataclass
class Scale:
    """One size of an unfinished picture, and its progress.

    Attributes:
        width, height: in pixels.
        iterations: number of iterations planned at this size.
        preparing_seconds: time for resizing the image, computing the targets and building the optimiser.
        durations_seconds: of the iterations so far, in order.
        first_loss, last_loss: None before the first loss is recorded.
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
        """Total time so far."""
        return self.preparing_seconds + sum(self.durations_seconds)


def coarse_to_fine(width: int, height: int, iterations: int, smallest_side_px: int = 1) -> list[Scale]:
    """Sizes that double up to width x height; each has an equal share of the iterations, coarse ones the remainder.

    Gatys et al. 2017, "Controlling Perceptual Factors in Neural Style Transfer", section 6.2: the receptive field of
    the network is small compared with a large image, so large structures are made at a small size, and each size starts
    from the result of the previous one.

    Args:
        smallest_side_px: shortest side that the network accepts. No size is below it or below COARSEST_PX.
    """
    sizes = [(width, height)]
    while len(sizes) < iterations and min(sizes[0]) >= 2 * max(COARSEST_PX, smallest_side_px):
        sizes.insert(0, (round(sizes[0][0] / 2), round(sizes[0][1] / 2)))
    share, rest = divmod(iterations, len(sizes))
    return [Scale(*size, share + (index < rest)) for index, size in enumerate(sizes)]


def seconds_left(scales: Sequence[Scale]) -> float | None:
    """Estimated time for the remaining iterations, in proportion to their pixels; None before the first iteration.

    Based on the latest size only: a small size does not keep the device busy, and does not predict a large one.
    """
    begun = [scale for scale in scales if scale.durations_seconds]
    if not begun:
        return None
    latest = begun[-1]
    seconds_per_pixel = sum(latest.durations_seconds) / len(latest.durations_seconds) / latest.pixels
    return sum(seconds_per_pixel * scale.pixels * (scale.iterations - len(scale.durations_seconds)) for scale in scales)


_FACTS = "archive/goghmark.json"  # torch.save names the folder `archive`; torch.load ignores unknown files in it


def save(path: Path, facts: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """Write the checkpoint file, replacing the previous one.

    Args:
        facts: serialisable as JSON.
        tensors: tensors, and lists, dicts and numbers that contain them.

    Raises:
        OSError: the file cannot be written.
    """
    import torch  # noqa: PLC0415

    with files.replacing(path) as file:
        torch.save(dict(tensors), file)
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(_FACTS, json.dumps(facts))


def read_facts(path: Path) -> dict[str, Any]:
    """The facts of a checkpoint file, read without torch.

    Raises:
        InputError: the file was not written by `save`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            facts: dict[str, Any] = json.loads(archive.read(_FACTS))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise InputError(f"{str(path)!r} is no unfinished picture; remove it to start again") from error
    return facts


def read_tensors(path: Path, device: Any) -> dict[str, Any]:
    """The tensors of a checkpoint file, on `device`."""
    import torch  # noqa: PLC0415

    tensors: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return tensors
