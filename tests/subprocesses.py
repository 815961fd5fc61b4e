"""Starts programs for tests: with SIGINT as on a terminal, or as pytest runs forked from a process with torch."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.paths import ROOT

_SERVER = Path(__file__).with_name("pytest_server.py")
_RESET = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"


def interruptible(command: Sequence[str]) -> list[str]:
    """The command, with the default handler of SIGINT.

    A shell ignores SIGINT in background jobs, and child processes inherit that.
    """
    return [sys.executable, "-c", _RESET, *command]


class PytestServer:
    """Runs pytest in processes that are forked from one with torch imported.

    For runs whose result matters only: it saves some seconds of imports a run. Tests of processes (signals, orphans,
    start-up) must start pytest with `subprocess`.

    Args:
        environment: variables of the server, e.g. of what torch reads when it is imported. A run has its own.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._control, child_end = socket.socketpair()
        with child_end:
            self._process = subprocess.Popen(
                interruptible([sys.executable, str(_SERVER), str(child_end.fileno())]),
                pass_fds=[child_end.fileno()],
                stdin=subprocess.DEVNULL,
                # OpenMP reads it when torch is imported.
                env=os.environ | {"OMP_NUM_THREADS": "1"} | dict(environment or {}),
            )
        self._replies = self._control.makefile("r")

    def run(
        self, arguments: Sequence[str], environment: Mapping[str, str], cwd: Path = ROOT, timeout_seconds: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        """Run `python -m pytest ARGUMENTS`; standard input is empty.

        Raises:
            TimeoutError: it exceeded the timeout and was killed.
        """
        assert environment.get("OMP_NUM_THREADS") == "1"
        request = {"arguments": list(arguments), "environment": dict(environment), "cwd": str(cwd)}
        with (
            tempfile.TemporaryFile("w+") as file,
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
        ):
            json.dump(request, file)
            file.flush()
            socket.send_fds(self._control, [b"r"], [file.fileno(), out.fileno(), err.fileno()])
            pid = json.loads(self._replies.readline())["pid"]
            self._control.settimeout(timeout_seconds)
            try:
                returncode = json.loads(self._replies.readline())["returncode"]
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                self._control.settimeout(None)
                self._replies = self._control.makefile("r")  # after a timeout, the old one cannot be read
                self._replies.readline()
                raise
            self._control.settimeout(None)
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(request["arguments"], returncode, out.read(), err.read())

    def close(self) -> None:
        """End the server, which must not have a run now."""
        self._replies.close()
        self._control.close()
        self._process.wait(60)
