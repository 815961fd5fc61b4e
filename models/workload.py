"""The interface of a step, and the plain data from which a step is built.

The measuring code knows nothing else of a step, so that it can run the models of another revision. References,
`package.module:name` or `path/to/file.py:name`, name what a process imports.
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
    """The communication of one rank.

    Attributes:
        bytes_per_iteration: sent by this rank in one iteration; None if unknown.
        iterate_alone: runs one iteration with all of this rank's work, but without communication.
    """

    bytes_per_iteration: int | None
    iterate_alone: Callable[[], None]


class Step(ABC):
    """One timed unit of work. A call starts one iteration, and returns nothing: a result would stay in memory."""

    @abstractmethod
    def __call__(self) -> None: ...

    @abstractmethod
    def loss(self) -> float | None:
        """Loss of the latest iteration; None if there is none. Waits for the device."""

    def parts(self) -> Mapping[str, Callable[[], None]]:
        """The parts of an iteration by name; called in this order they make one iteration. Empty without parts."""
        return {}

    def image(self) -> Tensor | None:
        """The current image, shape (batch, 3, height, width), in [0, 1] or bytes; None if the step makes no image."""
        return None

    def compile_seconds(self) -> float | None:
        """Time that the first call spent on compilation; None if nothing is compiled."""
        return None

    def algorithms(self) -> Mapping[str, Any]:
        """Algorithms that the step chose in place of the library's, for the record; empty if there are none."""
        return {}

    def plan(self) -> Mapping[str, Any]:
        """How the step uses its memory, for the record; empty if it plans nothing."""
        return {}

    def on_progress(self, report: Callable[[int, int], None]) -> None:
        """Call `report(done, total)` after each part of an iteration; does nothing for a step without parts."""
        del report

    def communication(self) -> Communication | None:
        """The communication of this rank; None if the step does not run on several ranks."""
        return None


@dataclass(frozen=True)
class Workload:
    """The input of a step, as plain data.

    Attributes:
        step: reference of the step's class, `package.module:Class`; `models.api.build` also accepts keys of its table.
        model: reference of the network's factory.
        device: torch's name of the device, `cpu` or `cuda:0`.
        width, height: of the image, in pixels.
        mode: what an iteration of a classifier or generator does, one of `api.MODES`; empty for other steps.
        size: size of a microbenchmark, in the unit of `models.microbenchmarks`; 0 for other steps.
        weights: `random`, `imagenet` or a path.
        content, style: paths of pictures; if empty, noise of the image's size.
        attention: kernel of the attention of generators, one of `api.ATTENTION_KERNELS`.
        tile_px: side of the tiles, for strategies with tiles; 0 for the strategy's default.
        lbfgs_history: number of pairs in the history of the optimiser L-BFGS.
        memory_bytes: that a streamed decode may take, with its weights; 0 for no limit.
        ranks: number of processes that share the work; torch.distributed knows the rank of each.
        iterations: total number at all sizes of a generated picture; 0 for steps without an end.
        tiler: reference of the factory of a tiling decoder; empty for other steps.
        unfinished: path of the checkpoint file of a generated picture; empty for none.
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
    attention: str = "auto"
    tiler: str = ""
    memory_bytes: int = 0
    lbfgs_history: int = 10

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """A workload from the entries that this revision knows; the caller may be of another revision."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in mapping.items() if key in known})


def build(workload: Workload) -> Step:
    """The step, ready to be called: network on its device, weights loaded, pictures read, targets computed.

    Raises:
        InputError: the workload names something that does not exist or cannot be read, or its step is no `Step`.
    """
    step = resolve(workload.step)(workload)
    if not isinstance(step, Step):
        raise InputError(
            f"step {workload.step!r} is {type(step).__name__}, no models.workload.Step; derive its class from Step"
        )
    return step


def resolve(reference: str) -> Any:
    """The object that a reference `module:name` or `path/to/file.py:name` names.

    Raises:
        InputError: the module, file or name does not exist, or its import fails.
    """
    location, _, name = reference.rpartition(":")
    try:
        target: Any = _load_file(Path(location)) if location.endswith(".py") else importlib.import_module(location)
        for part in name.split("."):
            target = getattr(target, part)
    except InputError:  # the module says why it cannot be imported
        raise
    except (ImportError, AttributeError, OSError, ValueError) as error:
        raise InputError(f"cannot import {reference!r} ({error}); give a name at module level") from error
    return target


def _load_file(path: Path) -> ModuleType:
    # A conftest.py cannot be imported by name: it is loaded under a name made from its path.
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
