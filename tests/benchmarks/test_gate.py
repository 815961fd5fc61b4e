"""The gate over record files: its report and its exit codes."""

import copy
import json
import subprocess
import sys

import pytest

from benchmarks import gate
from fixtures.records.cell_record import identity_of
from fixtures.schema import Cell
from tests.paths import ROOT

MACHINE = {"torch": "2.15.0", "threads": 1, "devices": [{"name": "cpu", "model": "A CPU"}]}


def cell(model="nin", resolution="64", median=0.01, **further):
    cell = {"benchmark": "test_style_iteration", "device": "cpu", "model": model, "resolution": resolution}
    cell |= {"optimizer": "adam", "precision": "float32", "strategy": "plain", "batch": 1, "status": "ok"}
    cell |= {"median_seconds": median, "iterations_per_minute": 60 / median, "peak_memory_bytes": 2**28, "threads": 1}
    return cell | further


def failed(status="out_of_memory", **further):
    cell_ = cell(**further) | {"status": status, "message": "no memory is left"}
    del cell_["median_seconds"], cell_["iterations_per_minute"]
    return cell_


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Writes record files and runs the gate over them in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)

    def files(*cells_of_files, options=(), machine_of_head=MACHINE, run_options=()):
        paths = []
        for number, cells in enumerate(cells_of_files):
            machine = machine_of_head if number == len(cells_of_files) - 1 else MACHINE
            path = tmp_path / f"{number}.json"
            header = {"options": run_options[number]} if run_options else {}
            path.write_text(json.dumps({"schema": 1, "machine": machine, "cells": cells} | header))
            paths.append(str(path))
        return gate.main([*paths, *options])

    return files


def test_equal_figures_pass(files, capsys):
    assert files([cell()], [cell()]) == 0
    assert "1 unchanged" in capsys.readouterr().out


def test_without_a_measure_of_the_noise_a_drop_is_a_regression_beyond_20_percent_only(files, capsys):
    assert files([cell(), cell("vgg16")], [cell(median=0.013), cell("vgg16")]) == 1
    out = capsys.readouterr().out
    assert "test_style_iteration[cpu-nin-64px]" in out
    assert "1 regressed, 1 unchanged" in out
    assert files([cell(), cell("vgg16")], [cell(median=0.0106), cell("vgg16")]) == 0
    out = capsys.readouterr().out
    assert "1 inconclusive, 1 unchanged" in out
    assert "a drop beyond 5 % that may be noise; how noisy runs are here is not known" in out
    assert files([cell()], [cell(median=0.0106)], options=["--inconclusive=fail"]) == 3


def test_files_with_different_denoising_steps_are_not_compared(files, capsys):
    base, head = ([cell("dit_s2", kind="denoise", denoising_steps=steps)] for steps in (28, 20))
    assert files(base, base) == 0
    assert files(base, head) == 2
    assert "--denoising-steps=28 in" in capsys.readouterr().err


def test_a_limit_beyond_20_percent_counts_as_it_is(files):
    assert files([cell()], [cell(median=0.013)], options=["--max-drop=30%"]) == 0
    assert files([cell()], [cell(median=0.015)], options=["--max-drop=30%"]) == 1


def test_a_drop_is_of_throughput_and_may_be_a_fraction_of_a_percent(files):
    history = [[cell(median=median)] for median in (0.010001, 0.010002, 0.009999, 0.010000)]
    assert files(*history, [cell(median=0.01 / 0.975 * 1.001)], options=["--max-drop=2.5%"]) == 1
    assert files(*history, [cell(median=0.01 / 0.975 * 0.999)], options=["--max-drop=0.025"]) == 0


def test_a_cell_that_vanished_is_a_regression(files, capsys):
    assert files([cell(), cell("vgg16")], [cell()]) == 1
    assert "missing" in capsys.readouterr().out


def test_a_cell_that_no_longer_fits_is_a_regression_and_one_that_now_fits_is_not(files, capsys):
    assert files([cell()], [failed()]) == 1
    assert "now out of memory" in capsys.readouterr().out
    assert files([failed()], [cell()]) == 0
    assert "now fits" in capsys.readouterr().out


def test_a_cell_that_crashes_now_is_a_regression(files):
    assert files([cell()], [failed("crash")]) == 1


def test_a_cell_without_a_base_is_new_and_passes(files, capsys):
    assert files([cell()], [cell(), cell("vgg16")]) == 0
    assert "1 unchanged, 1 new" in capsys.readouterr().out


def test_cells_that_differ_in_any_axis_are_cells_of_their_own(files, capsys):
    before = [cell(mode="forward"), cell(mode="training"), cell(batch=8)]
    assert files(before, [cell(mode="forward"), cell(mode="training", median=0.03), cell(batch=8)]) == 1
    out = capsys.readouterr().out
    assert "test_style_iteration[cpu-nin-64px-batch1-training]  regressed" in out
    assert "1 regressed" in out


def test_growth_of_memory_beyond_the_limit_is_a_regression(files):
    grown = [cell(peak_memory_bytes=int(2**28 * 1.3))]
    assert files([cell()], grown) == 1
    assert files([cell()], grown, options=["--max-memory-growth=40%"]) == 0


def search(side, budget=2**30, **further):
    result = {"largest_side_px": side, "memory_budget_bytes": budget, "median_seconds": side / 1e5}
    return cell(resolution="largest", **result | further)


@pytest.mark.parametrize(
    ("before", "now", "code", "verdict"),
    [(1024, 960, 1, "regressed"), (1024, 1088, 0, "improved"), (2048, 1984, 0, "unchanged")],
)
def test_a_search_is_compared_by_its_size_and_not_by_the_rate_at_that_size(files, capsys, before, now, code, verdict):
    assert files([search(before)], [search(now, peak_memory_bytes=2**29)]) == code
    out = capsys.readouterr().out
    assert f"1 {verdict}" in out
    assert f"largest image: {before} px before, {now} px now" in out


def test_searches_in_different_budgets_decide_nothing(files, capsys):
    assert files([search(1024)], [search(512, budget=2**28)]) == 0
    assert "1 inconclusive" in (out := capsys.readouterr().out)
    assert "--memory-limit" in out


def test_a_noisy_history_widens_the_threshold_and_says_so(files, capsys):
    history = [[cell(median=median)] for median in (0.0100, 0.0104, 0.0097, 0.0101, 0.0098)]
    assert files(*history, [cell(median=0.0108)]) == 0
    out = capsys.readouterr().out
    assert "1 inconclusive" in out
    assert "threshold widened to" in out
    assert "history of 5 runs" in out
    assert files(*history, [cell(median=0.0108)], options=["--inconclusive=fail"]) == 3
    assert files(*history, [cell(median=0.0150)]) == 1


def histories(scale_of_head, runs=(1.0, 1.01, 0.99, 1.005, 0.995), slow=None):
    """A run's cells share its factor; each cell has its own noise of a tenth of a percent."""
    models = ("nin", "vgg16", "vgg19", "tiny")
    noise = [0.0, 1e-3, -1e-3, 5e-4, -5e-4]

    def run(factor, number):
        own = {model: factor * (1 + noise[(number + place) % 5]) for place, model in enumerate(models)}
        return [cell(model, median=0.01 * own[model]) for model in models]

    *bases, head = [run(factor, number) for number, factor in enumerate((*runs, scale_of_head))]
    if slow:
        head = [
            each | {"median_seconds": each["median_seconds"] * 1.06} if each["model"] == slow else each for each in head
        ]
    return [*bases, head]


def test_a_machine_that_is_slower_as_a_whole_is_one_sentence_and_no_alarm_of_its_cells(files, capsys):
    assert files(*histories(1.04)) == 0
    out = capsys.readouterr().out
    assert "4 unchanged" in out
    assert "all cells: 0.96" in out


def test_a_run_that_is_slower_than_any_before_is_one_regression_and_not_one_of_each_cell(files, capsys):
    assert files(*histories(1.2)) == 1
    out = capsys.readouterr().out
    assert "1 regressed, 4 unchanged" in out
    assert "what all cells have in common, and is taken out of their ratios: throughput fell" in out


def test_the_noise_of_few_runs_is_pooled_over_cells(files, capsys):
    assert files(*histories(1.0, slow="nin")) == 1
    out = capsys.readouterr().out
    assert "1 regressed, 3 unchanged" in out
    # One cell of three runs alone would have two degrees of freedom, and a threshold beyond all this.
    assert files(*histories(1.0, runs=(1.0, 1.01, 0.99), slow="nin")) == 1


def test_table_and_verdict_have_the_same_base(files, capsys):
    history = [[cell(median=median)] for median in (0.010, 0.010, 0.010, 0.020)]
    assert files(*history, [cell(median=0.0119)]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "cpu-nin-64px" in line)
    before, now = row.split()[2:4]
    assert float(now) / float(before) == pytest.approx(0.01 * 2**0.25 / 0.0119, rel=1e-3)
    assert f"{0.01 * 2**0.25 / 0.0119:.3f} (" in row


def test_a_quiet_history_does_not_change_the_threshold(files, capsys):
    history = [[cell(median=median)] for median in (0.010001, 0.010002, 0.009999, 0.010000)]
    assert files(*history, [cell(median=0.0106)]) == 1
    assert "widened" not in capsys.readouterr().out


def calibration(tmp_path, devices=MACHINE["devices"], resolution="64"):
    identity = identity_of(Cell("test_style_iteration", "cpu", "nin", resolution, 0, 0))
    content = {"kind": "goghmark calibration", "schema": 1, "machine": MACHINE | {"devices": devices}}
    content["between_runs"] = [{"identity": identity, "log_deviation": 0.05, "runs": 20}]
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(content))
    return f"--calibration={path}"


@pytest.mark.parametrize("resolution", ["64", "128"])
def test_a_calibration_widens_the_threshold_also_for_other_cells_of_its_device(files, tmp_path, capsys, resolution):
    option = calibration(tmp_path, resolution=resolution)
    assert files([cell()], [cell(median=0.0110)], options=[option]) == 0
    assert "by the calibration" in capsys.readouterr().out
    assert files([cell()], [cell(median=0.0140)], options=[option]) == 1


def test_a_calibration_of_another_machine_is_not_used(files, tmp_path, capsys):
    option = calibration(tmp_path, devices=[{"name": "cpu", "model": "Another"}])
    assert files([cell()], [cell(median=0.0110)], options=[option]) == 0
    assert "is of another machine and not used" in capsys.readouterr().out


def test_a_floor_in_pyproject_keeps_a_noisy_cell_from_failing(files, tmp_path):
    (tmp_path / "pyproject.toml").write_text('[tool.goghmark.floors]\n"cpu-nin-*" = "40%"\n')
    assert files([cell(), cell("vgg16")], [cell(median=0.015), cell("vgg16")]) == 0
    assert files([cell(), cell("vgg16")], [cell(), cell("vgg16", median=0.015)]) == 1


def test_another_version_of_torch_is_named_and_can_be_allowed(files, capsys):
    other = MACHINE | {"torch": "2.11.0"}
    assert files([cell()], [cell()], machine_of_head=other) == 2
    assert "torch 2.15.0 and 2.11.0" in capsys.readouterr().err
    assert files([cell()], [cell()], options=["--allow=torch"], machine_of_head=other) == 0


def test_files_that_ran_with_different_values_of_an_option_of_the_whole_run_are_not_compared(files, capsys):
    on, off, before_the_option = {"cudnn_benchmark": True}, {"cudnn_benchmark": False}, {"device": None}
    for first in (off, before_the_option):
        assert files([cell()], [cell()], run_options=[first, on]) == 2
        text = capsys.readouterr().err
        assert "--cudnn-benchmark=off and on; measure both with the same value" in text
    assert files([cell()], [cell()], run_options=[on, on]) == 0
    assert files([cell()], [cell()], run_options=[before_the_option, off]) == 0
    assert files([cell()], [cell()], run_options=[off, on], options=["--history"]) == 2
    long = off | {"lbfgs_history": 100}
    capsys.readouterr()
    assert files([cell()], [cell()], run_options=[off, long]) == 2
    assert "--lbfgs-history=10 and 100; measure both with the same value" in capsys.readouterr().err


def test_other_numbers_of_threads_are_not_compared(files, capsys):
    assert files([cell()], [cell(threads=2)]) == 2
    assert "ran with 1 thread(s)" in capsys.readouterr().err


def test_files_without_a_common_cell_cannot_be_compared(files, capsys):
    assert files([cell()], [cell("vgg16")]) == 2
    assert "no cell in common" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 1, "machine": {}, "cel', "truncated or not JSON"),
        ('{"schema": 2, "machine": {}, "cells": []}', "has schema 2"),
        ('{"some": "thing"}', "no record file of this suite"),
        ("[1, 2]", "no record file of this suite"),
        ('{"benchmarks": [], "machine_info": {"node": "x"}}', "no record file of this suite"),
        ('{"schema": 1, "machine": {}, "cells": [{"benchmark": "b"}]}', "is damaged: cell 0 has no 'device'"),
    ],
)
def test_a_file_that_is_no_record_is_reported_in_one_sentence(tmp_path, capsys, text, message):
    (tmp_path / "bad.json").write_text(text)
    assert gate.main([str(tmp_path / "bad.json"), str(tmp_path / "bad.json")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_missing_file_is_reported_in_one_sentence(capsys):
    assert gate.main(["nowhere.json", "nowhere.json"]) == 2
    assert "cannot be read (No such file or directory)" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--max-drop=5", "--max-drop=x", "--allow=weather", "--max-memory-growth=0%"])
def test_an_invalid_option_exits_with_two(files, capsys, option):
    assert files([cell()], [cell()], options=[option]) == 2
    assert option.partition("=")[0].removeprefix("--allow") in capsys.readouterr().err


def test_pytest_benchmark_files_that_the_suite_wrote_are_read(tmp_path):
    content = {"benchmarks": [], "machine_info": {"goghmark": MACHINE}, "cells": [cell()]}
    slower = copy.deepcopy(content) | {"cells": [cell(median=0.02)]}
    for name, written in (("a", content), ("b", slower)):
        (tmp_path / name).write_text(json.dumps(written))
    assert gate.main([str(tmp_path / "a"), str(tmp_path / "a")]) == 0
    assert gate.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 1


def test_a_record_of_a_side_by_side_run_is_judged_by_its_verdicts(files, capsys):
    comparison = {"reason": "throughput fell", "baseline": {"status": "ok"}, "candidate": {"status": "ok"}}
    assert files([cell(verdict="regressed", comparison=comparison)]) == 1
    assert files([cell(verdict="unchanged", comparison=comparison)]) == 0
    assert files([cell()]) == 2
    assert "had no --against" in capsys.readouterr().err


def test_a_verdict_whose_pairs_are_missing_is_not_given(files, capsys):
    comparison = {"reason": "none fell", "baseline": {"status": "ok"}, "candidate": {"status": "ok"}}
    comparison |= {
        "pairs": 2,
        "unit": "worker_pair",
        "pair_values": [{"log_ratio": 0.0, "worker_pair": 0, "server": 0}],
    }
    assert files([cell(verdict="unchanged", comparison=comparison)]) == 2
    error = capsys.readouterr().err
    assert "has 1 of its 2 pairs" in error
    assert error.count("\n") == 1


def test_a_history_of_several_machines_has_no_steps(files, capsys):
    other = MACHINE | {"torch": "2.11.0"}
    assert files(*[[cell()]] * 4, options=["--history"], machine_of_head=other) == 2
    assert "torch 2.15.0 and 2.11.0" in capsys.readouterr().err


def test_markdown_and_annotations_name_the_cell(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    files([cell()], [cell(median=0.02)], options=[f"--markdown={tmp_path / 'summary.md'}"])
    assert "::error title=goghmark::test_style_iteration[cpu-nin-64px] regressed" in capsys.readouterr().out
    assert "| `test_style_iteration[cpu-nin-64px]` | regressed |" in (tmp_path / "summary.md").read_text()


def test_a_disturbed_cell_is_marked_with_the_side_that_was(files, capsys):
    hot, shared = {"throttled": ["hw_slowdown"], "shared": False}, {"throttled": [], "shared": True}
    assert files([cell(telemetry=shared)], [cell(median=0.02, telemetry=hot)]) == 1
    output = capsys.readouterr().out
    assert "; before shared with others; now throttled (hw_slowdown)" in output
    assert files([cell(telemetry=None)], [cell()]) == 0
    assert "throttled" not in capsys.readouterr().out


def test_the_command_imports_no_torch():
    check = "import sys; import benchmarks.gate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0
