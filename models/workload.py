"""What a step works on, as plain data, and how a step is built from it.

This is all that the measuring side knows of a step, so that one harness can drive the models of another revision.
References, `package.module:name` or `path/to/file.py:name`, are how one process tells another what to import.
"""

import importlib
import importlib.util
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from torch import Tensor

from models.errors import InputError


@dataclass(frozen=True)
class Communication:
    """What a step that several ranks share sends.

    Attributes:
        bytes_per_iteration: sent by this rank in one iteration; None where that is not known.
        iterate_alone: runs one iteration with all of this rank's work and nothing sent.
    """

    bytes_per_iteration: int | None
    iterate_alone: Callable[[], None]


class Step(ABC):
    """One timed unit of work. Calling it starts one iteration, and returns nothing that could stay alive."""

    @abstractmethod
    def __call__(self) -> None: ...

    @abstractmethod
    def loss(self) -> float | None:
        """Loss of the latest iteration, None where there is none to speak of. Waits for the device."""

    def parts(self) -> Mapping[str, Callable[[], None]]:
        """The parts of an iteration by name; called in this order they are one iteration. Empty: it has none."""
        return {}

    def image(self) -> Tensor | None:
        """The image so far, shape (1, 3, height, width), in [0, 1]; None for steps that make none."""
        return None

    def compile_seconds(self) -> float | None:
        """What the first call spent on compiling; None where nothing is compiled."""
        return None

    def on_progress(self, report: Callable[[int, int], None]) -> None:
        """Call `report(done, all)` after each part of an iteration, where a step works in parts; else do nothing."""
        del report

    def communication(self) -> Communication | None:
        """What this rank sends to others; None for steps that no ranks share."""
        return None


@dataclass(frozen=True)
class Workload:
    """What a step works on.

    Attributes:
        step: reference of the step's class, `package.module:Class`; `models.api.build` takes keys of its table too.
        model: reference of the factory of the network.
        device: as torch writes it, `cpu` or `cuda:0`.
        width, height: of the image, in pixels.
        tile_px: side of the tiles of strategies that have any; 0 leaves it to them.
        content, style: paths of pictures; where empty, noise of the same size is used.
        weights: `random`, `imagenet` or a path.
        mode: what a classifier's iteration is, one of `api.MODES`; empty for steps that have no modes.
        ranks: how many processes share the work; torch.distributed tells each which of them it is.
        iterations: of a picture that is generated, at all its sizes together; 0 for steps that may go on for ever.
        unfinished: path of the file in which an interrupted picture is kept; empty for none.
        size: how much a limit of the device is measured with, in the unit of `models.microbenchmarks`; 0 elsewhere.
    """

    step: str
    model: str
    device: str
    width: int
    height: int
    optimizer: str = "adam"
    precision: str = "float32"
    strategy: str = "plain"
    batch: int = 1
    mode: str = ""
    size: int = 0
    weights: str = "random"
    content: str = ""
    style: str = ""
    seed: int = 0
    tile_px: int = 0
    ranks: int = 1
    iterations: int = 0
    unfinished: str = ""

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Built from the entries that this revision knows; a harness of another revision may send others."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in mapping.items() if key in known})


def build(workload: Workload) -> Step:
    """The step, ready to be called: network on its device, weights loaded, pictures read, targets computed.

    Raises:
        InputError: the workload names something that cannot be had, or its step is no `Step`.
    """
    step = resolve(workload.step)(workload)
    if not isinstance(step, Step):
        raise InputError(
            f"step {workload.step!r} is {type(step).__name__}, no models.workload.Step; derive its class from Step"
        )
    return step


def resolve(reference: str) -> Any:
    """The object that `module:name` or `path/to/file.py:name` stands for.

    Raises:
        InputError: the module, file or name does not exist, or importing it fails.
    """
    where, _, name = reference.rpartition(":")
    try:
        found: Any = _load_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, OSError, ValueError) as error:
        raise InputError(f"cannot import {reference!r} ({error}); the worker needs a module-level name") from error
    return found


def _load_file(path: Path) -> ModuleType:
    # A conftest.py is no importable module: it is loaded under a name that its path makes unique.
    name = "goghmark_plugin_" + "_".join(path.with_suffix("").parts[1:])
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
