"""Behaviour that all commands share."""

import subprocess
import sys

from tests.paths import ROOT as SUITE


def test_a_reader_that_stops_early_is_no_error() -> None:
    record = "docs/results/cpu-2-cores-style.json"
    command = [sys.executable, "-m", "benchmarks.export", record, "--format=prometheus"]
    with subprocess.Popen(command, cwd=SUITE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141  # as of a program that SIGPIPE ended
