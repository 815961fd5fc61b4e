"""Models that end or disturb their worker in many ways, all in one run: every cell is recorded, and the run goes on."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.suite import Suite

# Status, cause, and part of the message.
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
    """The run of all models, and its files."""
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
def test_a_cell_is_recorded_with_status_and_cause(cells, model):
    status, cause, text = DEATHS[model]
    cell = cells[model]
    assert cell["status"] == status, cell.get("message")
    if text is None:
        assert cell["median_seconds"] > 0
        return
    assert (cell["cause"], cell["phase"] in ("build", "warmup")) == (cause, True)
    assert text in cell["message"]


def test_every_cell_is_recorded_in_the_requested_order(deaths, cells):
    assert list(cells) == list(DEATHS)
    assert deaths.done.returncode == 1
    assert "INTERNALERROR" not in deaths.done.stdout + deaths.done.stderr
    for model, (status, _, _) in DEATHS.items():
        assert status in ("ok", "out_of_memory") or f"[cpu-{model}-16px]" in deaths.done.stdout


def test_record_and_journal_are_strict_json_of_bounded_size(deaths):
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
    """Ids of processes that were started, or forked from a process that was started, with the mark in the environment."""
    pids = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark in Path(f"/proc/{pid}/environ").read_bytes() and int(pid) != os.getpid():
                pids.append(pid)
        except OSError:  # the process has ended
            continue
    return pids
