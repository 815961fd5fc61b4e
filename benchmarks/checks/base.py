"""What the sections of a self-check share: lines with a verdict, the device under test, and how failures become lines.

No torch here: workers do the work, as in a measurement.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fixtures.options import OWN_INPUTS
from fixtures.progress.events import ProgressCallback, ignore_progress
from fixtures.runner.cell_runner import Runner
from fixtures.runner.launchers import Launcher
from fixtures.runner.session import CellFailed
from fixtures.runner.worker_handle import WorkerFailed
from fixtures.schema import Cell, Failure, Measurement, Outcome
from fixtures.telemetry.base import Watcher, unwatched
from models.errors import InputError

Verdict = Literal["PASS", "FAIL", "NOT HERE"]

STEP = "style_iteration"
# A cell of these sections takes seconds, compilation half a minute.
CELL_SECONDS = 120.0
# Four tiles or more at the sizes of these sections, so that their borders are computed.
TILE_PX = 96


@dataclass(frozen=True)
class Line:
    """One line of the page: what was checked, with which verdict, and the figures or the reason."""

    name: str
    verdict: Verdict
    text: str


def judged(name: str, holds: bool, text: str) -> Line:
    """A line that passes if the condition holds."""
    return Line(name, "PASS" if holds else "FAIL", text)


def not_here(name: str, reason: str) -> Line:
    """A line on something that this device or machine does not have."""
    return Line(name, "NOT HERE", reason)


def line_of_failure(name: str, failure: Failure) -> Line:
    """The line of a cell that failed though it should not; a cell that was skipped does not exist here."""
    if failure.status == "skipped":
        return not_here(name, failure.message)
    return Line(name, "FAIL", f"{failure.status} in phase {failure.phase}: {failure.message}")


def attempted(name: str, check: Callable[..., Iterable[Line]], *arguments: Any) -> Iterator[Line]:
    """The lines of a check; one line under this name if its worker fails or cannot use its input."""
    try:
        yield from check(*arguments)
    except CellFailed as failed:
        yield line_of_failure(name, failed.failure)
    except (WorkerFailed, InputError) as error:
        yield Line(name, "FAIL", str(error))


@dataclass(frozen=True)
class Subject:
    """What is checked, and with what.

    Attributes:
        device: torch's name of the device.
        model: name of a style network.
        factory: reference of its factory.
        strategies, precisions: those that are checked.
        machine: facts of the machine.
        addresses: for each device the address of its source of telemetry.
    """

    device: str
    model: str
    factory: str
    strategies: Sequence[str]
    precisions: Sequence[str]
    launcher: Launcher
    machine: Mapping[str, Any]
    addresses: Mapping[str, Mapping[str, str]]
    progress: ProgressCallback = ignore_progress

    @property
    def device_kind(self) -> str:
        """Torch's type of the device: `cpu`, `cuda`."""
        return self.device.partition(":")[0]

    @property
    def devices(self) -> list[str]:
        """Names of all devices of this kind."""
        names = [facts["name"] for facts in self.machine["devices"]]
        return [name for name in names if name.partition(":")[0] == self.device_kind]

    @property
    def device_facts(self) -> Mapping[str, Any]:
        """Facts of the device, e.g. its model."""
        (facts,) = (facts for facts in self.machine["devices"] if facts["name"] == self.device)
        return dict(facts)

    def runner(
        self, factories: Mapping[str, str] | None = None, low_noise: bool = False, watch: Watcher = unwatched
    ) -> Runner:
        """Runs cells on the suite's own pictures and with random weights: those of the model, or of these factories."""
        factories = {self.model: self.factory} if factories is None else factories
        return Runner(
            self.launcher,
            factories,
            OWN_INPUTS,
            CELL_SECONDS,
            None,
            low_noise=low_noise,
            tile_px=TILE_PX,
            progress=self.progress,
            watch=watch,
        )

    def cell(self, side_px: int, **axes: Any) -> Cell:
        """The style cell of a square image; further axes by name."""
        cell = Cell("selfcheck", self.device, self.model, str(side_px), side_px, side_px)
        return dataclasses.replace(cell, **axes)


def measurement_of(outcome: Outcome) -> Measurement:
    """The figures of a cell.

    Raises:
        CellFailed: it has none.
    """
    if isinstance(outcome.result, Failure):
        raise CellFailed(outcome.result)
    return outcome.result
