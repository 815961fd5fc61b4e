"""Runs of the suite as users run it, in separate pytest processes, with the plugin of the tiny model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.subprocesses import PytestServer, interruptible

HERE = Path(__file__).parent


class Suite:
    """Starts the suite with its own record file, and reads that file."""

    def __init__(self, folder: Path, server: PytestServer) -> None:
        self._server = server
        self.record = folder / "record.json"

    def command(self, *arguments: str) -> list[str]:
        plugin = ["-p", "tiny_model"]
        return [sys.executable, "-m", "pytest", *plugin, f"--record={self.record}", "--cell-seconds=0.05", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}

    def run(self, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        """A run in a forked pytest process; see `PytestServer`."""
        return self._server.run(self.command(*arguments)[3:], self.environment, cwd)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A run in a pytest process that is started anew, for tests of its signals and processes."""
        return subprocess.Popen(
            interruptible(self.command(*arguments)),
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def recorded(self) -> dict:
        return json.loads(self.record.read_text())

    def journaled(self) -> list[dict]:
        lines = self.record.with_suffix(".jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines][1:]


@pytest.fixture
def suite(tmp_path, forked_pytest):
    return Suite(tmp_path, forked_pytest)
