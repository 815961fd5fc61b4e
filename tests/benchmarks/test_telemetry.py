"""`--telemetry` from the command line, and what it costs."""

import contextlib
import time
from types import SimpleNamespace

import pytest

from benchmarks import telemetry_cost
from fixtures.machine import watcher
from fixtures.options import SETTINGS
from fixtures.schema import Cell
from fixtures.telemetry.base import unwatched
from models.errors import InputError

ONLY = ("--benchmark-only", "-k", "style_iteration", "--device=cpu", "--model=tiny", "--resolution=64")


def test_the_record_of_a_cell_has_telemetry(suite):
    done = suite.run(*ONLY)
    assert done.returncode == 0, done.stdout + done.stderr
    record = suite.recorded()
    telemetry = record["cells"][0]["telemetry"]
    assert telemetry["source"] == "kernel"
    assert isinstance(telemetry["throttled"], list)
    assert telemetry["readings"] >= 2
    assert telemetry["sampled"]["load_average"]["max"] >= 0
    assert record["options"]["telemetry"] is True
    assert suite.journaled() == record["cells"]


@pytest.mark.parametrize(("enabled", "measuring"), [(False, True), (True, False)])
def test_no_readings_are_taken_when_telemetry_is_off_or_nothing_is_measured(enabled, measuring):
    settings = SimpleNamespace(telemetry=enabled, measuring=measuring)
    assert watcher(SimpleNamespace(stash={SETTINGS: settings})) is unwatched
    assert unwatched("cpu", 1).facts(None, None) is None


def test_a_value_other_than_on_and_off_is_a_usage_error(suite):
    done = suite.run(*ONLY, "--telemetry=maybe")
    assert done.returncode == 4
    assert "--telemetry: invalid choice: 'maybe'" in done.stderr
    assert not suite.record.exists()


class FakeCell:
    """A warm cell whose iterations take longer with telemetry, on a machine whose speed drifts."""

    def __init__(self, cost):
        self.cost, self.watched, self.seconds = cost, False, 0.01

    @contextlib.contextmanager
    def warm_session(self, cell, step, timing):
        yield self

    def call(self, method, seconds, min_rounds):
        time.sleep(0.002)  # gives some dozens of pairs
        self.seconds *= 1.001
        durations = [self.seconds] * 10
        if self.watched:  # only some iterations are disturbed
            durations[3] *= 1 + 10 * self.cost
        return {"durations_seconds": durations}

    def __call__(self, device, processes):
        return self

    @contextlib.contextmanager
    def measuring(self):
        self.watched = True
        yield
        self.watched = False

    def facts(self, result, iterations):
        return {"sampled": {"load_average": {}}}


CELL = Cell("telemetry_cost", "cpu", "nin", "64", 64, 64)


@pytest.mark.parametrize(("cost", "side"), [(0.0, "same"), (0.005, "same"), (0.03, "slower")])
def test_a_cost_of_some_iterations_is_measured(cost, side):
    cell = FakeCell(cost)
    done = telemetry_cost.measured(cell, CELL, cell, 0.5, 0.01)
    assert done.evidence.side(0.01) == side
    assert done.evidence.estimate == pytest.approx(cost, abs=0.002)
    assert telemetry_cost.summary(done).startswith("telemetry takes +" if cost else "telemetry takes ")


def test_a_device_without_telemetry_is_rejected():
    cell = FakeCell(0.0)
    cell.facts = lambda result, iterations: {"unavailable": {"nvml": "Driver Not Loaded"}}
    with pytest.raises(InputError, match="has no telemetry: {'nvml': 'Driver Not Loaded'}"):
        telemetry_cost.measured(cell, CELL, cell, 0.5, 0.01)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--resolution=big", "'big' is not a resolution"),
        ("--minutes=-1", "'-1' is not a time"),
        ("--most=3", "'3' is not a share"),
    ],
)
def test_an_invalid_option_is_reported_in_one_sentence(capsys, option, sentence):
    with pytest.raises(SystemExit) as ended:
        telemetry_cost.main([option])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err
