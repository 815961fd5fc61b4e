"""Test ids and keys of record files carry the regression history: new ones may be added, none may vanish."""

import json
import os

import pytest

from tests.paths import ROOT

GOLDEN = ROOT / "tests" / "golden"
KEYS = json.loads((GOLDEN / "keys.json").read_text())


@pytest.fixture(scope="module")
def suite(forked_pytest):
    def suite(*arguments):
        return forked_pytest.run(["-q", "--device=cpu", *arguments], os.environ | {"OMP_NUM_THREADS": "1"})

    return suite


def test_every_golden_id_is_collected(suite):
    collected = []
    further = ("--strategy=all", "--precision=float32,bfloat16", "--optimizer=lbfgs", "--model=nin", "--resolution=64")
    for arguments in (("benchmarks", "--memory-limit=2GiB"), ("benchmarks/test_style_iteration.py", *further)):
        lines = suite("--collect-only", *arguments).stdout.splitlines()
        collected += [line.removeprefix("benchmarks/") for line in lines if "::" in line]
    assert not set((GOLDEN / "ids.txt").read_text().split()) - set(collected)


@pytest.fixture(scope="module")
def compared(suite, tmp_path_factory):
    """The record of a cell compared with its own revision."""
    record = tmp_path_factory.mktemp("golden") / "record.json"
    cell = ("benchmarks/test_style_iteration.py", "--model=nin", "--resolution=64", "--cell-seconds=1")
    done = suite("--benchmark-only", *cell, f"--against={ROOT}", f"--record={record}")
    assert record.exists(), done.stdout + done.stderr
    return json.loads(record.read_text())


@pytest.mark.parametrize("part", KEYS)
def test_a_record_has_every_golden_key(compared, part):
    (cell,) = compared["cells"]
    parts = {
        "record": compared,
        "options": compared["options"],
        "machine": compared["machine"],
        "cell": cell,
        "telemetry": cell["telemetry"],
        "comparison": cell["comparison"],
        "side": cell["comparison"]["baseline"],
        "against": compared["against"],
    }
    assert not set(KEYS[part]) - set(parts[part])


def test_a_cell_that_is_compared_with_itself_has_figures_on_both_sides(compared):
    (cell,) = compared["cells"]
    assert cell["verdict"] in ("unchanged", "improved", "inconclusive", "regressed")
    assert cell["comparison"]["pairs"] >= 3
