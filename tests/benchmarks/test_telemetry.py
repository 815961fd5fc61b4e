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


def test_a_cell_s_record_holds_what_the_device_did_meanwhile(suite):
    done = suite.run(*ONLY)
    assert done.returncode == 0, done.stdout + done.stderr
    record = suite.recorded()
    told = record["cells"][0]["telemetry"]
    assert told["source"] == "kernel"
    assert isinstance(told["throttled"], list)
    assert told["readings"] >= 2
    assert told["sampled"]["load_average"]["max"] >= 0
    assert record["options"]["telemetry"] is True
    assert suite.journaled() == record["cells"]


@pytest.mark.parametrize(("asked", "measuring"), [(False, True), (True, False)])
def test_nobody_looks_when_telemetry_is_off_or_nothing_is_measured(asked, measuring):
    settings = SimpleNamespace(telemetry=asked, measuring=measuring)
    assert watcher(SimpleNamespace(stash={SETTINGS: settings})) is unwatched
    assert unwatched("cpu", 1).facts(None, None) is None


def test_a_switch_that_is_neither_on_nor_off_is_a_usage_error(suite):
    done = suite.run(*ONLY, "--telemetry=maybe")
    assert done.returncode == 4
    assert "--telemetry: invalid choice: 'maybe'" in done.stderr
    assert not suite.record.exists()


class Warm:
    """A warm cell whose iterations take longer while it is watched; on a machine whose speed drifts."""

    def __init__(self, cost):
        self.cost, self.watched, self.seconds = cost, False, 0.01

    @contextlib.contextmanager
    def warm_session(self, cell, step, timing):
        yield self

    def call(self, method, seconds, min_rounds):
        time.sleep(0.002)  # so that there are some dozens of pairs
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
def test_a_cost_that_some_iterations_bear_is_found(cost, side):
    cell = Warm(cost)
    done = telemetry_cost.measured(cell, CELL, cell, 0.5, 0.01)
    assert done.evidence.side(0.01) == side
    assert done.evidence.estimate == pytest.approx(cost, abs=0.002)
    assert telemetry_cost.sentence(done).startswith("telemetry takes +" if cost else "telemetry takes ")


def test_a_device_that_nobody_can_watch_has_no_cost():
    cell = Warm(0.0)
    cell.facts = lambda result, iterations: {"unavailable": {"nvml": "Driver Not Loaded"}}
    with pytest.raises(InputError, match="cannot be watched: {'nvml': 'Driver Not Loaded'}"):
        telemetry_cost.measured(cell, CELL, cell, 0.5, 0.01)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--resolution=big", "'big' is not a resolution"),
        ("--minutes=-1", "'-1' is not a time"),
        ("--most=3", "'3' is not a share"),
    ],
)
def test_an_option_that_cannot_be_meant_is_told_in_one_sentence(capsys, words, said):
    with pytest.raises(SystemExit) as ended:
        telemetry_cost.main([words])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
