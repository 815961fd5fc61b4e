"""Programs that tests start behave as on a terminal."""

import signal
import subprocess
import sys

import pytest

from tests.subprocesses import interruptible

HANDLER = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"


def test_a_child_has_the_default_sigint_handler_although_its_parent_ignores_it():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for background jobs
    try:
        command = [sys.executable, "-c", HANDLER]
        outputs = [subprocess.check_output(each, text=True) for each in (command, interruptible(command))]
    finally:
        signal.signal(signal.SIGINT, before)
    assert outputs == ["False\n", "True\n"]


def test_a_forked_run_has_the_same_result_as_a_pytest_process(forked_pytest, tmp_path):
    (tmp_path / "test_it.py").write_text("def test_it():\n    print('output')\n    assert False\n")
    environment = {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    arguments = ["-q", "-p", "no:cacheprovider", "test_it.py"]
    forked = forked_pytest.run(arguments, environment, tmp_path)
    command = [sys.executable, "-m", "pytest", *arguments]
    alone = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (forked.returncode, alone.returncode) == (1, 1)
    assert [line for line in forked.stdout.splitlines() if " in " not in line] == [
        line for line in alone.stdout.splitlines() if " in " not in line
    ]
    assert forked_pytest.run(["--no-such-option"], environment, tmp_path).returncode == 4


def test_a_forked_run_is_killed_after_its_timeout_and_the_next_one_runs(forked_pytest, tmp_path):
    (tmp_path / "test_it.py").write_text("import time\n\ndef test_it():\n    time.sleep(1000)\n")
    environment = {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    arguments = ["-q", "-p", "no:cacheprovider", "test_it.py"]
    with pytest.raises(TimeoutError):
        forked_pytest.run(arguments, environment, tmp_path, timeout_seconds=1.0)
    assert forked_pytest.run([*arguments, "--collect-only"], environment, tmp_path).returncode == 0
