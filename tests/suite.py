"""Runs of the suite as users run it, in separate pytest processes, with the plugin of the tiny model."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.paths import ROOT
from tests.subprocesses import PytestServer, interruptible

# With the plugin `tiny_model`.
PLUGINS = ROOT / "tests" / "benchmarks"


class Suite:
    """Starts the suite with its own record file, and reads that file.

    Args:
        environment: variables of the runs, in addition to those of this process.
    """

    def __init__(self, folder: Path, server: PytestServer, environment: Mapping[str, str] | None = None) -> None:
        self._server = server
        self.record = folder / "record.json"
        self.environment = os.environ | {"PYTHONPATH": str(PLUGINS), "OMP_NUM_THREADS": "1"} | dict(environment or {})

    def command(self, *arguments: str) -> list[str]:
        options = ["-p", "tiny_model", f"--record={self.record}", "--cell-seconds=0.05"]
        return [sys.executable, "-m", "pytest", *options, *arguments]

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
