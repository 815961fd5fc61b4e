"""The self-check on cpu and on the accelerator of the tests, and with planted defects."""

import json
import sys

import pytest

from benchmarks import selfcheck
from fixtures.runner.launchers import ForkServer, import_path
from models import api
from tests.fake_accelerator import fake_accelerator_backend
from tests.paths import ROOT

DEFECTS = ROOT / "tests" / "benchmarks" / "planted_defects.py"
EAGER = "plain,channels_last,checkpointed,tiled,streamed,fastest"


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


def test_a_cpu_passes(check, tmp_path):
    options = ("--only=exactness,clock,memory,search", f"--strategy={EAGER}", "--precision=float32,tf32,bfloat16")
    status, lines, _ = check("small", *options)
    assert status == 0, lines
    by_name = verdicts(lines)
    assert [by_name.pop(f"{strategy} float32") for strategy in EAGER.split(",")] == ["PASS"] * 6
    assert by_name.pop("plain tf32") == "NOT HERE"
    assert by_name.pop("wall against device time") == "NOT HERE"
    assert by_name.pop("out of memory, plain") == "PASS"
    assert by_name.pop("largest image") == "PASS"


def test_an_accelerator_passes(check, fake):
    status, lines, _ = check(
        "small", "--device=fake:1", "--only=exactness,clock,memory,search,telemetry,ranks", f"--strategy={EAGER}", "--precision=float32,bfloat16"
    )
    assert status == 0, lines
    print(lines)


def test_a_clock_that_does_not_wait_fails(check, fake):
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
