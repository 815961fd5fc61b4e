"""A process from which runs of pytest are forked, with their common imports: `pytest_server.py SOCKET`.

It imports nothing of the suite, so that each run imports it from its own directory. The fork servers that a run starts
are forked in the same way, from a second process without modules of the suite and without pytest's state. They run
`fork_server.py` with the same arguments as a new interpreter would.
"""

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, Never

_BASE_PATH = sys.path[1:]  # the first entry is this file's folder


def main() -> None:
    import numpy  # noqa: F401
    import pytest  # noqa: F401
    import torchvision.transforms.v2  # noqa: F401

    gc.collect()
    gc.freeze()
    control = socket.socket(fileno=int(sys.argv[1]))
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, 1, 3)
        if not request:
            return
        pid = os.fork()
        if pid == 0:
            control.close()
            _run(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        control.sendall(json.dumps({"pid": pid}).encode() + b"\n")
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        control.sendall(json.dumps({"returncode": code}).encode() + b"\n")


def _run(file: int, out: int, err: int) -> Never:
    """Run pytest in this forked process."""
    request = _request(file)
    _redirect(out, err)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    further = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = [request["cwd"], *further, *_BASE_PATH]
    sys.argv = ["pytest", *request["arguments"]]
    _ForkingPopen.forker = _start_program_forker()
    subprocess.Popen = _ForkingPopen  # type: ignore[misc]

    def run() -> int:
        import pytest

        return int(pytest.main(request["arguments"]))

    _exit_with(run)


def _request(file: int) -> dict[str, Any]:
    with open(file) as stream:
        stream.seek(0)
        request: dict[str, Any] = json.load(stream)
        return request


def _redirect(out: int, err: int) -> None:
    os.dup2(out, 1)
    os.dup2(err, 2)
    for descriptor in {out, err}:
        os.close(descriptor)


def _exit_with(run: Any) -> Never:
    """Exit as the interpreter does, but without the clean-up of the parent process."""
    code = 1
    try:
        code = run() or 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _start_program_forker() -> socket.socket:
    """Start a process that forks Python programs on request, until this process ends."""
    parent_end, child_end = socket.socketpair()
    if os.fork() == 0:
        parent_end.close()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for its children
        os.setsid()
        while True:
            request, descriptors, _, _ = socket.recv_fds(child_end, 1, 3)
            if not request:
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                child_end.close()
                _run_program(*descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            child_end.sendall(b"%d\n" % pid)
    child_end.close()
    return parent_end


class _Program(BaseException):
    """Requests to run the program in `sys.argv`. Raised, so that the program starts with an empty stack."""


def _run_program(file: int, passed: int, log: int) -> Never:
    request = _request(file)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    _redirect(log, log)
    if passed != request["passed"]:  # the number in the program's arguments
        os.dup2(passed, request["passed"])
        os.close(passed)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["argv"]
    sys.path[:] = [str(Path(sys.argv[0]).parent), *_BASE_PATH]
    raise _Program


class _ForkingPopen(subprocess.Popen):  # type: ignore[type-arg]
    """Starts fork servers through the forker, and other programs as usual."""

    forker: socket.socket

    def __new__(cls, command: Any, *arguments: Any, **further: Any) -> Any:
        is_fork_server = (
            isinstance(command, list) and command[0] == sys.executable and command[1].endswith("fork_server.py")
        )
        return _ForkedProgram(cls.forker, command, **further) if is_fork_server else super().__new__(cls)


class _ForkedProgram:
    """A program that the forker started, with the methods of Popen that the suite uses."""

    def __init__(
        self, forker: socket.socket, command: list[str], pass_fds: list[int], stdout: Any, **_expected: Any
    ) -> None:
        (passed,) = pass_fds
        with os.fdopen(os.memfd_create("request"), "w") as file:
            json.dump({"argv": command[1:], "environment": dict(os.environ), "passed": passed}, file)
            file.flush()
            socket.send_fds(forker, [b"r"], [file.fileno(), passed, stdout.fileno()])
            self.pid = int(forker.recv(32))
        self._pidfd = os.pidfd_open(self.pid)

    def wait(self, timeout: float | None = None) -> int:
        if not select.select([self._pidfd], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("fork_server.py", timeout or 0.0)
        return 0

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


if __name__ == "__main__":
    try:
        main()
    except _Program:
        pass
    else:
        sys.exit()
    exec(
        compile(Path(sys.argv[0]).read_bytes(), sys.argv[0], "exec"), {"__name__": "__main__", "__file__": sys.argv[0]}
    )
    os._exit(0)
