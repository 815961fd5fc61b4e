"""A calibration of a small cell for some seconds: the file that it writes, and how it continues."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import calibrate
from fixtures.comparing.file_comparison import read_calibration
from tests.paths import ROOT
from tests.subprocesses import interruptible

QUICK = ["--resolution=64", "--cell-seconds=1", "--drops=40%"]


def command(output, *options):
    return [sys.executable, "-m", "benchmarks.calibrate", *QUICK, f"--output={output}", *options]


@pytest.fixture
def environment():
    return os.environ | {"OMP_NUM_THREADS": "1"}


def test_a_calibration_is_stored_and_continued_and_the_gate_reads_it(tmp_path, environment):
    output = tmp_path / "calibration.json"

    def run(minutes):
        arguments = command(output, f"--minutes={minutes}")
        return subprocess.run(
            arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240
        )

    first = run(0.1)
    assert first.returncode == 0, first.stderr
    assert "side by side" in first.stdout
    assert "min left" in first.stdout
    first_content = json.loads(output.read_text())
    second = run(0.05)
    assert second.returncode == 0, second.stderr
    assert "measuring how much" not in second.stdout
    second_content = json.loads(output.read_text())
    assert second_content["products_per_slowdown"] == first_content["products_per_slowdown"]
    for kind in ("trials", "runs"):
        assert second_content[kind][: len(first_content[kind])] == first_content[kind]
    first_count, second_count = (len(content["trials"]) + len(content["runs"]) for content in (first_content, second_content))  # fmt: skip
    assert second_count > first_count
    if sum(run["drop"] == 0 for run in second_content["runs"]) >= 3:
        cells, unused = read_calibration(output, second_content["machine"])
        assert cells[0].identity[:4] == ("test_style_iteration", "cpu", "nin", "64")
        assert unused is None


@pytest.mark.slow
def test_ctrl_c_stores_the_trials_so_far_and_prints_how_to_continue(tmp_path, environment):
    output = tmp_path / "calibration.json"
    process = subprocess.Popen(
        interruptible(command(output, "--minutes=5")),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not (output.exists() and json.loads(output.read_text())["trials"]):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    stdout, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert b"the same command continues from here" in stdout
    assert b"Traceback" not in errors
    assert json.loads(output.read_text())["trials"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--model=vgg91"], "--model: no model named 'vgg91'"),
        (["--device=cuda:9"], "--device: no device named 'cuda:9'; there are: cpu"),
        (["--minutes=0"], "--minutes: '0' is not a time"),
        (["--drops=5"], "'5' is not a share"),
        (["--resolution=big"], "--resolution: 'big' is not a resolution"),
    ],
)
def test_bad_input_is_reported_in_one_sentence(capsys, options, sentence):
    assert calibrate.main(options) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_a_file_that_is_no_calibration_is_neither_used_nor_overwritten(tmp_path, capsys):
    output = tmp_path / "other.json"
    output.write_text('{"some": "thing"}')
    assert calibrate.main([*QUICK, f"--output={output}"]) == 2
    assert "is no calibration" in capsys.readouterr().err
    assert output.read_text() == '{"some": "thing"}'
