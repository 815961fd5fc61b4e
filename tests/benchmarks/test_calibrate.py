"""A calibration of a small cell for some seconds: what it stores, and how it goes on."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import calibrate
from fixtures.comparing.between_runs import read_calibration
from tests.paths import ROOT
from tests.subprocesses import interruptible

QUICK = ["--resolution=64", "--cell-seconds=0.5", "--drops=40%"]

REST = {"mean_seconds": 0.02, "rounds": 100, "threads": 1, "load_average": 0.1}


def command(output, *options):
    return [sys.executable, "-m", "benchmarks.calibrate", *QUICK, f"--output={output}", *options]


@pytest.fixture
def environment():
    return os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_a_calibration_is_stored_can_be_gone_on_with_and_is_read_by_the_gate(tmp_path, environment):
    output = tmp_path / "calibration.json"

    def run(minutes):
        words = command(output, f"--minutes={minutes}")
        return subprocess.run(
            words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240
        )

    first = run(0.001)
    assert first.returncode == 0, first.stderr
    assert "side by side" in first.stdout
    assert "min left" in first.stdout
    content = json.loads(output.read_text())
    (trial,) = content["same"]
    assert len(trial["units"][trial["clock"]]) == len(trial["unit_ends_seconds"]) >= 5
    output.write_text(json.dumps(content | {"rounds": [[{"drop": 0.0, "median_seconds": 0.02, **REST}] * 3]}))
    second = run(0.001)
    assert second.returncode == 0, second.stderr
    assert "measuring how much" not in second.stdout
    more = json.loads(output.read_text())
    assert more["products_per_slowdown"] == content["products_per_slowdown"]
    assert (more["same"][:1], len(more["same"])) == (content["same"], 2)
    cells, unused = read_calibration(output, more["machine"])
    assert cells[0].identity[:4] == ("test_style_iteration", "cpu", "nin", "64")
    assert unused is None


@pytest.mark.slow
def test_ctrl_c_stores_what_was_measured_and_says_how_to_go_on(tmp_path, environment):
    output = tmp_path / "calibration.json"
    process = subprocess.Popen(
        interruptible(command(output, "--minutes=5")),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not (output.exists() and json.loads(output.read_text())["same"]):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output_text, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert b"the same command goes on from here" in output_text
    assert b"Traceback" not in errors
    assert json.loads(output.read_text())["same"]


@pytest.mark.parametrize(
    ("options", "output_text"),
    [
        (["--model=vgg91"], "--model: no model named 'vgg91'"),
        (["--device=cuda:9"], "--device: no device named 'cuda:9'; there are: cpu"),
        (["--minutes=0"], "--minutes: '0' is not a time"),
        (["--cells=0"], "--cells: '0' is not a number of cells"),
        (["--drops=5"], "'5' is not a share"),
        (["--resolution=big"], "--resolution: 'big' is not a resolution"),
    ],
)
def test_an_invalid_option_is_one_sentence(capsys, options, output_text):
    assert calibrate.main(options) == 2
    error = capsys.readouterr().err
    assert output_text in error
    assert error.count("\n") == 1


def test_a_file_of_something_else_is_neither_used_nor_overwritten(tmp_path, capsys):
    output = tmp_path / "other.json"
    output.write_text('{"some": "thing"}')
    assert calibrate.main([*QUICK, f"--output={output}"]) == 2
    assert "is no calibration" in capsys.readouterr().err
    assert output.read_text() == '{"some": "thing"}'
