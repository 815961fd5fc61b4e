"""Whole runs of the suite, in separate pytest processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.paths import ROOT

ONLY = ("--benchmark-only", "-k", "style_iteration")
CONTRACT = {
    "benchmark", "device", "model", "resolution", "width", "height", "optimizer", "precision", "strategy", "batch",
    "status", "durations_seconds", "median_seconds", "iterations_per_minute", "images_per_second", "peak_memory_bytes",
    "predicted_memory_bytes", "flops_per_iteration", "first_loss", "last_loss",
}  # fmt: skip


def test_a_run_gives_table_record_journal_and_pytest_benchmarks_json(suite, tmp_path):
    done = suite.run(
        *ONLY, "--device=cpu", "--model=tiny", "--resolution=64,32x48,128", f"--benchmark-json={tmp_path}/b.json"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record, theirs = suite.recorded(), json.loads((tmp_path / "b.json").read_text())
    assert [cell["resolution"] for cell in record["cells"]] == ["64", "32x48", "128"]
    assert all(set(cell) >= CONTRACT for cell in record["cells"])
    assert record["schema"] == 1
    assert {"machine", "commit", "options", "cells"} <= set(record)
    assert suite.journaled() == record["cells"] == theirs["cells"]
    assert [entry["name"] for entry in theirs["benchmarks"]] == [
        f"test_style_iteration[cpu-tiny-{size}px]" for size in ("64", "32x48", "128")
    ]
    for entry, cell in zip(theirs["benchmarks"], record["cells"], strict=True):
        assert entry["stats"]["data"] == cell["durations_seconds"]
        assert entry["extra_info"]["median_seconds"] == cell["median_seconds"]
    assert theirs["machine_info"]["goghmark"] == record["machine"]
    assert re.search(r"cpu +tiny +128 ", done.stdout)
    assert "growth: test_style_iteration tiny on cpu: time ~ pixels^" in done.stdout
    assert "\033" not in done.stdout
    assert "cell 1 of 3" not in done.stdout


def test_an_id_contains_only_axes_that_were_given(suite):
    done = suite.run(
        "--collect-only",
        "-q",
        *ONLY,
        "--model=tiny,nin",
        "--resolution=64",
        "--optimizer=lbfgs,adam",
        "--precision=bfloat16",
    )
    ids = [line.split("::")[1] for line in done.stdout.splitlines() if "::" in line]
    assert ids == [
        f"test_style_iteration[cpu-{model}-64px-{optimizer}-bfloat16]"
        for model in ("tiny", "nin")
        for optimizer in ("lbfgs", "adam")
    ]
    assert not suite.record.exists()


def test_a_crash_a_timeout_and_an_invalid_result_do_not_end_the_run(suite):
    junit = suite.record.with_name("junit.xml")
    done = suite.run(
        *ONLY, "--model=dies,overflows,hangs,tiny", "--resolution=64", "--cell-timeout=4", f"--junit-xml={junit}"
    )
    assert done.returncode == 1
    assert properties_of(junit, "dies") == {"model": "dies", "status": "crash", "cause": "SIGABRT", "phase": "build"}
    tiny, recorded = properties_of(junit, "tiny"), suite.recorded()["cells"][-1]
    assert (tiny["status"], tiny["precision"]) == ("ok", "float32")
    for key in ("iterations_per_minute", "images_per_second", "peak_memory_bytes"):
        assert float(tiny[key]) == recorded[key]
    assert "3 failed, 1 passed" in done.stdout
    status = {cell["model"]: (cell["status"], cell.get("phase")) for cell in suite.recorded()["cells"]}
    assert status == {
        "dies": ("crash", "build"),
        "overflows": ("invalid", "warmup"),
        "hangs": ("timeout", "build"),
        "tiny": ("ok", None),
    }
    assert "last lines of the worker:" in done.stdout
    assert "in forward" in done.stdout


def properties_of(junit, model):
    """The suite's properties of a model's test case, without their prefix; for a failed one those of the failure."""
    (case,) = (case for case in ElementTree.parse(junit).iter("testcase") if f"-{model}-" in case.get("name"))
    properties = {entry.get("name").removeprefix("goghmark_"): entry.get("value") for entry in case.iter("property")}
    if properties["status"] == "ok":
        return properties
    return {key: properties[key] for key in ("model", "status", "cause", "phase")}


def test_an_image_that_does_not_fit_has_its_own_category_and_fails_nothing(suite):
    done = suite.run(*ONLY, "--model=vgg19", "--resolution=64,1024", "--memory-limit=600MiB")
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 out-of-memory" in re.sub(r"\x1b\[\d*m|, \d+ deselected", "", done.stdout)
    small, large = suite.recorded()["cells"]
    assert (small["status"], large["status"]) == ("ok", "out_of_memory")
    assert large["cause"] == "host_allocator"
    assert large["memory_budget_bytes"] == 600 * 2**20
    assert large["peak_memory_bytes"] > 100 * 2**20


def test_a_record_is_written_when_every_cell_fails(suite):
    done = suite.run(*ONLY, "--model=dies", "--resolution=64,128")
    assert done.returncode == 1
    assert [cell["status"] for cell in suite.recorded()["cells"]] == ["crash", "crash"]


def test_pytests_option_x_stops_at_the_first_failure(suite):
    done = suite.run(*ONLY, "-x", "-p", "no:cacheprovider", "--model=dies,tiny", "--resolution=64")
    assert done.returncode == 1
    assert len(suite.recorded()["cells"]) == 1


def wait_for_cells(suite, process, count):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if suite.record.with_suffix(".jsonl").exists() and len(suite.journaled()) >= count:
            return
        time.sleep(0.05)
    pytest.fail(
        f"fewer than {count} cells were finished: " + (process.communicate()[0] if process.poll() is not None else "")
    )


def workers_of(pid):
    """Descendants of a process, from /proc."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, rest = entry.read_text().rsplit(")", 1)
        except OSError:
            continue
        parents[int(entry.parent.name)] = int(rest.split()[1])
    tree, grown = {pid}, True
    while grown:
        children = {child for child, parent in parents.items() if parent in tree}
        grown = not children <= tree
        tree |= children
    return tree - {pid}


def test_ctrl_c_keeps_finished_cells_in_table_json_and_record(suite, tmp_path):
    process = suite.start(*ONLY, "--model=tiny,hangs", "--resolution=64", f"--benchmark-json={tmp_path}/b.json")
    wait_for_cells(suite, process, 1)
    time.sleep(1)
    workers = workers_of(process.pid)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert workers
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert [cell["model"] for cell in suite.recorded()["cells"]] == ["tiny"]
    assert len(json.loads((tmp_path / "b.json").read_text())["benchmarks"]) == 1
    assert re.search(r"cpu +tiny +64 .* ok", output)


def test_killing_pytest_leaves_no_worker_and_a_journal_of_finished_cells(suite):
    process = suite.start(*ONLY, "--model=tiny,hangs", "--resolution=64")
    wait_for_cells(suite, process, 1)
    time.sleep(1)
    workers = workers_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert workers
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert [cell["model"] for cell in suite.journaled()] == ["tiny"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--model=vgg91"],
            "no model named 'vgg91'; there are: dies, hangs, nin, overflows, raises, tiny, vgg16, vgg19",
        ),
        (["--model="], "--model has an empty value"),
        (["--resolution=0"], "'0' is not a resolution"),
        (["--resolution=-64"], "'-64' is not a resolution"),
        (["--resolution=12x"], "'12x' is not a resolution"),
        (["--resolution=32", "--model=nin"], "the smallest side that works is 39"),
        (["--device=cuda:7"], "no device named 'cuda:7'; there are: cpu"),
        (["--memory-limit=banana"], "'banana' is not a memory size"),
        (["--model=raises"], "KeyError: 'no such weights'; correct its factory"),
        (["--cell-seconds=0"], "--cell-seconds: '0' is not a time"),
        (["--optimizer=sgd"], "no optimizer named 'sgd'; there are: adam, lbfgs"),
        (["--lbfgs-history=0"], "--lbfgs-history: '0' is not a number of pairs; give a whole number above 0"),
        (["--precision=float8"], "no precision named 'float8'"),
        (["--content=/nowhere.jpg", "--model=tiny"], "there is no picture '/nowhere.jpg'"),
        (["--weights=/nowhere.pth", "--model=tiny"], "there is no weights file '/nowhere.pth'"),
        (["--weights=imagenet", "--model=nin"], "no ImageNet weights"),
        (["--record=/proc/nowhere/record.json", "--model=tiny"], "cannot be written"),
    ],
)
def test_bad_input_is_reported_in_one_sentence_and_nothing_is_measured_or_overwritten(suite, arguments, sentence):
    suite.record.write_text("precious")
    done = suite.run(*ONLY, *arguments)
    assert done.returncode == 4, done.stdout + done.stderr
    assert [
        line for line in (done.stdout + done.stderr).splitlines() if sentence in line and line.startswith("ERROR: ")
    ]
    assert suite.record.read_text() == "precious"
    assert not suite.record.with_suffix(".jsonl").exists()


def test_a_users_conftest_adds_a_model(suite, tmp_path):
    (tmp_path / "conftest.py").write_text(
        "from models.nin import nin\n"
        "def mine():\n    return nin()\n"
        "def pytest_goghmark_models(add):\n    add('mine', mine)\n"
    )
    done = suite.run(
        "--benchmark-only", "benchmarks/test_style_iteration.py", str(tmp_path), "--model=mine", "--resolution=64"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [cell["model"] for cell in suite.recorded()["cells"]] == ["mine"]


def test_benchmark_disable_runs_each_cell_once(suite):
    done = suite.run("--benchmark-disable", "-k", "style_iteration", "--model=tiny", "--resolution=64")
    assert done.returncode == 0, done.stdout
    (cell,) = suite.recorded()["cells"]
    assert (len(cell["durations_seconds"]), cell["warmup_iterations"]) == (1, 0)


@pytest.mark.slow
def test_autosave_compare_and_grouping_of_pytest_benchmark_work(suite, tmp_path):
    storage = f"--benchmark-storage={tmp_path}/saved"
    first = suite.run(*ONLY, "--model=tiny", "--resolution=64,128", "--benchmark-autosave", storage)
    second = suite.run(
        *ONLY,
        "--model=tiny",
        "--resolution=64,128",
        "--benchmark-compare",
        storage,
        "--benchmark-group-by=param:resolution",
    )
    assert (first.returncode, second.returncode) == (0, 0), second.stdout
    groups = re.findall(r"benchmark 'resolution=(\w+)'", second.stdout)
    assert groups == ["64px", "128px"]
    assert "(0001_" in second.stdout
    assert "(NOW)" in second.stdout
    words = [sys.executable, "-m", "pytest_benchmark", f"--storage={tmp_path}/saved", "compare"]
    output = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert "test_style_iteration[cpu-tiny-128px]" in output


@pytest.mark.slow
def test_a_histogram_is_drawn_with_pygal(suite, tmp_path):
    pytest.importorskip("pygal")
    done = suite.run(*ONLY, "--model=tiny", "--resolution=32,64", f"--benchmark-histogram={tmp_path}/histogram")
    assert done.returncode == 0, done.stdout + done.stderr
    drawn = (tmp_path / "histogram.svg").read_text()
    assert "cpu-tiny-32px" in drawn
    assert "cpu-tiny-64px" in drawn


def test_a_histogram_without_pygal_is_rejected_in_one_sentence_before_anything_runs(suite):
    script = "import sys; sys.modules['pygal'] = None; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    words = suite.command(*ONLY, "--model=tiny", "--benchmark-histogram")
    words[1:3] = ["-c", script]
    done = subprocess.run(words, cwd=ROOT, env=suite.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert done.stderr.startswith("ERROR: --benchmark-histogram needs pygal, which is not installed; pip install ")
    assert not suite.record.exists()


def test_without_isolation_cells_run_inside_pytest(suite):
    done = suite.run(*ONLY, "--isolation=none", "--model=tiny,overflows", "--resolution=64")
    assert done.returncode == 1
    assert [cell["status"] for cell in suite.recorded()["cells"]] == ["ok", "invalid"]


@pytest.mark.slow
def test_the_largest_image_is_searched_with_a_small_memory_limit(suite):
    done = suite.run("--benchmark-only", "-k", "largest_image", "--model=nin", "--memory-limit=300MiB")
    assert done.returncode == 0, done.stdout
    (cell,) = suite.recorded()["cells"]
    assert cell["resolution"] == "largest"
    assert cell["failed_side_px"] == cell["largest_side_px"] + 64
    assert cell["failed_cause"] == "host_allocator"


@pytest.mark.slow
def test_the_largest_image_is_searched_on_cpu_only_on_request(suite):
    counts = [
        suite.run("--collect-only", "-q", "-k", "largest", "--model=tiny", *more).stdout.count("::test_largest_image")
        for more in ((), ("-m", "search"), ("--memory-limit=1GiB",))
    ]
    assert counts == [0, 1, 1]


def test_details_of_a_plugin_that_would_overwrite_a_key_of_the_record_fail_the_cell(suite):
    done = suite.run(*ONLY, "-p", "clashing_plugin", "--model=tiny", "--resolution=64")
    assert done.returncode == 1
    assert "pytest_goghmark_details gives 'status', which the record file's cells have already" in done.stdout
    (cell,) = suite.recorded()["cells"]
    assert (cell["status"], cell["room"]) == ("ok", 4096)
