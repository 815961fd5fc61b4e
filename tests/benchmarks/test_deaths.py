"""What a model can do to its worker: one run of all, of which every cell has its row, and the last one is as ever."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.benchmarks.conftest import Suite

# Status, cause, and what the message says.
DEATHS = {
    "sigkill": ("killed", None, "SIGKILL"),
    "sigterm": ("crash", "SIGTERM", "SIGTERM"),
    "sigint": ("crash", "SIGINT", "SIGINT"),
    "sigstop": ("timeout", None, "--cell-timeout"),
    "segfault": ("crash", "SIGSEGV", "SIGSEGV"),
    "abort": ("crash", "SIGABRT", "SIGABRT"),
    "exit_0": ("crash", None, "exit status 0"),
    "exit_7": ("crash", None, "exit status 7"),
    "system_exit": ("crash", None, "exit status 3"),
    "keyboard_interrupt": ("crash", "SIGINT", "SIGINT"),
    "nan": ("invalid", None, "nan"),
    "sleep": ("timeout", None, "--cell-timeout"),
    "regular_expression": ("timeout", None, "--cell-timeout"),
    "memory_balloon": ("out_of_memory", "host_allocator", "allocate memory"),
    "grandchildren": ("ok", None, None),
    "recursion": ("error", None, "RecursionError"),
    "closed_descriptors": ("crash", None, "exit status 1"),
    "flood_on_stdout": ("crash", None, "exit status 7"),
    "flood_on_stderr": ("crash", None, "exit status 7"),
    "threads": ("ok", None, None),
    "no_space": ("error", None, "No space left on device"),
    "surrogate": ("error", None, "is no character"),
    "long_text": ("error", None, "head xxx"),
    "tiny": ("ok", None, None),
}
MARK = "GOGHMARK_TEST_OF_DEATHS"
RECORD_BYTES = 10**6


@pytest.fixture(scope="module")
def deaths(tmp_path_factory, forked_pytest):
    """The one run, and what it wrote."""
    folder = tmp_path_factory.mktemp("deaths")
    suite = Suite(folder, forked_pytest)
    words = ["-p", "deadly_models", "--benchmark-only", "-k", "style_iteration", "--cell-timeout=2", "--resolution=16"]
    words += [f"--model={','.join(DEATHS)}", "--memory-limit=1GiB", "--cell-seconds=0.01"]
    done = forked_pytest.run(suite.command(*words)[3:], suite.environment | {MARK: str(folder)})
    assert suite.record.exists(), (done.stdout + done.stderr)[-2000:]
    return SimpleNamespace(suite=suite, done=done, marked=f"{MARK}={folder}".encode())


@pytest.fixture(scope="module")
def cells(deaths):
    return {cell["model"]: cell for cell in deaths.suite.recorded()["cells"]}


@pytest.mark.parametrize("model", DEATHS)
def test_a_death_has_its_row(cells, model):
    status, cause, said = DEATHS[model]
    cell = cells[model]
    assert cell["status"] == status, cell.get("message")
    if said is None:
        assert cell["median_seconds"] > 0
        return
    assert (cell["cause"], cell["phase"] in ("build", "warmup")) == (cause, True)
    assert said in cell["message"]


def test_every_cell_is_recorded_in_the_order_asked_for(deaths, cells):
    assert list(cells) == list(DEATHS)
    assert deaths.done.returncode == 1
    assert "INTERNALERROR" not in deaths.done.stdout + deaths.done.stderr
    for model, (status, _, _) in DEATHS.items():
        assert status in ("ok", "out_of_memory") or f"[cpu-{model}-16px]" in deaths.done.stdout


def test_files_are_strict_json_and_bounded(deaths):
    def refuse(constant):
        raise AssertionError(constant)

    record, journal = deaths.suite.record, deaths.suite.record.with_suffix(".jsonl")
    for text in (record.read_text("utf-8"), *journal.read_text("utf-8").split("\n")[:-1]):
        json.dumps(json.loads(text, parse_constant=refuse), ensure_ascii=False).encode()  # no lone surrogates
    assert record.stat().st_size < RECORD_BYTES
    assert journal.stat().st_size < RECORD_BYTES
    assert len(deaths.done.stdout) < 2 * RECORD_BYTES


def test_no_process_is_left(deaths):
    deadline = time.monotonic() + 10
    while (left := marked_processes(deaths.marked)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def marked_processes(mark):
    """Processes with the mark in the environment that they were started with, or forked from a process that was."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark in Path(f"/proc/{pid}/environ").read_bytes() and int(pid) != os.getpid():
                found.append(pid)
        except OSError:  # ended meanwhile
            continue
    return found
