"""The self-check on cpu and on the accelerator of the tests, and with planted defects."""

import json
import re
import sys

import pytest

from benchmarks import selfcheck
from benchmarks.checks import clock, limits, surroundings
from fixtures.runner.launchers import ForkServer, import_path
from models import api
from tests.fake_accelerator import fake_accelerator_backend
from tests.paths import ROOT

DEFECTS = ROOT / "tests" / "benchmarks" / "planted_defects.py"
SOME = "plain,checkpointed"


class Shared:
    """A launcher that outlives the commands that close it."""

    def __init__(self, server):
        self._server = server

    def worker(self):
        return self._server.worker()

    def close(self):
        pass


@pytest.fixture(scope="module")
def server():
    """Workers with two devices `fake:0` and `fake:1`, each operator of which takes a millisecond."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAKE_LATENCY_US", "1000")
        patch.setenv("OMP_NUM_THREADS", "1")
        compiled = fake_accelerator_backend.compiler() is not None
        folders = [str(ROOT / "tests" / "fake_accelerator")] if compiled else []
        server = ForkServer(sys.executable, (*folders, *import_path()))
        with server.worker():
            pass
        yield server
    server.close()


@pytest.fixture
def check(server, tmp_path, monkeypatch, capsys):
    """Runs the command with a network of `planted_defects`; returns exit code, lines by name, and standard error."""

    def check(network, *options):
        monkeypatch.setattr(selfcheck, "default_launcher", lambda: Shared(server))
        monkeypatch.setitem(api.STYLE_NETWORKS, "nin", f"{DEFECTS}:{network}")
        status = selfcheck.main(["--model=nin", f"--output={tmp_path}", *options])
        lines = {}
        if status != 2:
            page = json.loads((tmp_path / "selfcheck.json").read_text())
            lines = {line["name"]: line for section in page["sections"] for line in section["lines"]}
        return status, lines, capsys.readouterr().err

    return check


@pytest.fixture
def fake():
    if fake_accelerator_backend.compiler() is None:
        pytest.skip("the fake accelerator is written in C++, and there is no compiler: install g++, or name one by CXX")


def verdicts(lines):
    return {name: line["verdict"] for name, line in lines.items()}


def failed(lines):
    return [line["text"] for line in lines.values() if line["verdict"] == "FAIL"]


def test_a_cpu_passes_and_the_page_says_how_long_each_section_took(check, tmp_path):
    options = ("--only=memory,clock,exactness", "--strategy=plain,tiled,winograd", "--precision=float32,tf32")
    status, lines, _ = check("small", *options)
    assert status == 0, failed(lines)
    by_name = verdicts(lines)
    assert by_name.pop("a cpu cell beside accelerators") in ("PASS", "NOT HERE")
    assert by_name == {
        "plain float32": "PASS",
        "tiled float32": "PASS",
        "winograd float32": "PASS",
        "every strategy tf32": "NOT HERE",
        "no synchronisation in an iteration": "NOT HERE",
        "wall against device time": "NOT HERE",
        "out of memory, plain": "PASS",
        "out of memory, tiled": "PASS",
        "out of memory, winograd": "PASS",
        "predicted memory": "PASS",
        "reserved memory": "NOT HERE",
    }
    page = (tmp_path / "selfcheck.md").read_text()
    assert page.startswith("# Self-check of cpu (")
    assert re.findall(r"^## (\w+), [\d.]+ s$", page, re.MULTILINE) == ["exactness", "clock", "memory"]
    assert "| NOT HERE | every strategy tf32 | tf32 is a format of NVIDIA tensor cores" in page


def test_an_accelerator_passes(check, fake, monkeypatch):
    monkeypatch.setattr(clock, "SIDES_PX", (64, 256))
    options = ("--only=exactness,clock,memory,search,ranks,telemetry", f"--strategy={SOME}", "--precision=float32")
    status, lines, _ = check("small", "--device=fake:1", *options)
    assert status == 0, failed(lines)
    by_name = verdicts(lines)
    assert {by_name.pop(f"{strategy} float32") for strategy in SOME.split(",")} == {"PASS"}
    assert {by_name.pop(f"out of memory, {strategy}") for strategy in SOME.split(",")} == {"PASS"}
    sizes = [by_name.pop(f"wall against device time, {side_px} px") for side_px in (64, 256)]
    assert sizes[0] == "PASS"
    assert set(sizes) <= {"PASS", "NOT HERE"}  # a busy host may take longer than the device
    assert by_name == {
        "no synchronisation in an iteration": "NOT HERE",
        "predicted memory": "PASS",
        "reserved memory": "PASS",
        "a cpu cell beside accelerators": "PASS",
        "largest image": "PASS",
        "1 rank": "NOT HERE",
        "2 ranks": "NOT HERE",
        "telemetry": "NOT HERE",
    }


def test_a_clock_that_does_not_wait_fails(check, fake, monkeypatch):
    monkeypatch.setattr(clock, "SIDES_PX", (64,))
    status, lines, _ = check("no_synchronise", "--device=fake:1", "--only=clock")
    assert status == 1
    assert lines["wall against device time, 64 px"]["verdict"] == "FAIL"


def test_a_strategy_with_a_wrong_gradient_fails_and_the_others_pass(check):
    options = ("--only=exactness", "--strategy=plain,checkpointed", "--precision=float32")
    status, lines, _ = check("wrong_gradient", *options)
    assert status == 1
    assert verdicts(lines) == {"plain float32": "PASS", "checkpointed float32": "FAIL"}
    assert lines["checkpointed float32"]["text"].startswith("1.0e+00 from the float64 gradient")


@pytest.mark.parametrize("device", ["cpu", "fake:1"])
def test_an_out_of_memory_text_that_is_not_known_fails(check, fake, device):
    status, lines, _ = check("unknown_memory_text", f"--device={device}", "--only=memory", "--strategy=plain")
    assert status == 1
    line = lines["out of memory, plain"]
    assert line["verdict"] == "FAIL"
    assert "the arena has no room left" in line["text"]


def test_a_card_far_below_its_data_sheet_fails_and_an_unknown_one_gets_no_verdict(check, monkeypatch, tmp_path):
    options = ("--only=limits", "--precision=float32")
    monkeypatch.setattr(limits, "_rate", lambda *_: 1e12)
    status, lines, _ = check("small", *options)
    assert status == 0
    assert verdicts(lines) == {"copy bandwidth": "NOT HERE", "matrix product float32": "NOT HERE"}
    assert "so there is no verdict" in lines["copy bandwidth"]["text"]

    (cpu, *_) = json.loads((tmp_path / "selfcheck.json").read_text())["machine"]["devices"]
    monkeypatch.setitem(limits.CARDS, cpu["model"], limits.Card(10_000, 1.0, 1.0, 1.0, "a data sheet"))
    status, lines, _ = check("small", *options)
    assert status == 1
    assert verdicts(lines) == {"copy bandwidth": "FAIL", "matrix product float32": "PASS"}
    assert "10% of" in lines["copy bandwidth"]["text"]


@pytest.mark.slow
def test_ranks_meet_telemetry_is_read_and_a_cell_is_compared_with_itself(check, monkeypatch):
    monkeypatch.setattr(surroundings, "_COMPARED_SECONDS", 3.0)
    _, lines, _ = check("small", "--only=limits,ranks,telemetry,comparison", "--precision=float32")
    assert lines["1 rank"]["verdict"] == "PASS"
    assert lines["1 rank"]["text"].startswith("through gloo")
    assert set(lines) >= {"copy bandwidth", "clock", "energy", "reasons for a lower clock"}
    # In three seconds, on a machine that other tests use.
    assert lines["a cell against itself"]["text"].startswith(("unchanged", "inconclusive"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only=exactness,klock"], "no section named 'klock'; there are: clock, comparison,"),
        (["--device=cuda:9"], "--device: no device named 'cuda:9'; there are: cpu"),
        (["--model=vgg91"], "--model: no model named 'vgg91'"),
        (["--strategy=fast"], "no strategy named 'fast'"),
        (["--output=/dev/null/x"], "--output=/dev/null/x/selfcheck.md cannot be written"),
    ],
)
def test_bad_input_is_one_sentence(check, options, message):
    status, _, error = check("small", *options)
    assert status == 2
    assert message in error
    assert error.count("\n") == 1
