"""The report: its sections for different records, and what it refuses."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from PIL import Image

from benchmarks import report
from benchmarks.reporting import plotting
from benchmarks.reporting.data import gather
from benchmarks.reporting.roofline import roofs_of
from fixtures.records.reader import read_records
from tests.paths import ROOT

GPU = {"name": "cuda:0", "model": "A Card", "memory_bytes": 24 * 2**30}
MACHINE = {"torch": "2.15.0", "threads": 1, "memory_bytes": 2**34, "devices": [{"name": "cpu", "model": "A CPU"}, GPU]}


def cell(model="nin", resolution="64", seconds=0.01, **further):
    side = int(resolution) if resolution.isdigit() else 0
    facts = {"benchmark": "test_style_iteration", "device": "cpu", "model": model, "resolution": resolution}
    facts |= {"width": side, "height": side, "status": "ok", "durations_seconds": [seconds] * 3, "spread": 0.01}
    facts |= {"median_seconds": seconds, "iterations_per_minute": 60 / seconds, "images_per_second": 1 / seconds}
    facts |= {"peak_memory_bytes": 2**20 * (100 + side), "predicted_memory_bytes": 2**20 * (90 + side)}
    return facts | further


def failed(status="out_of_memory", **further):
    facts = cell(**further) | {"status": status, "phase": "measure", "message": "no memory is left"}
    return {key: value for key, value in facts.items() if "second" not in key and "minute" not in key}


def record(cells, machine=MACHINE, commit="a" * 40, **header):
    return {"schema": 1, "machine": machine, "commit": {"id": commit, "dirty": False}, "cells": cells, **header}


@pytest.fixture
def plots(tmp_path):
    """The folder of the plots; without this fixture they are not written, which takes half of the time."""
    return tmp_path / "out" / "plots"


@pytest.fixture
def reported(tmp_path, monkeypatch, request):
    """Writes records and their report, and returns the page."""
    monkeypatch.chdir(tmp_path)
    if "plots" not in request.fixturenames:
        monkeypatch.setattr(plotting, "save", lambda *_: None)

    def reported(*records):
        paths = [tmp_path / f"{number}.json" for number in range(len(records))]
        for path, content in zip(paths, records, strict=True):
            path.write_text(json.dumps(content))
        assert report.main([*map(str, paths), "--output=out"]) == 0
        return (tmp_path / "out" / "index.html").read_text(encoding="utf-8")

    return reported


def test_the_headline_is_the_rate_and_the_speed_up_of_the_card(reported):
    page = reported(record([cell("vgg19", "512", 1.0), cell("vgg19", "512", 0.02, device="cuda:0")]))
    assert "vgg19 at 512 px: 3000 iterations per minute on A Card (cuda:0), 50 times as fast as A CPU (cpu)" in page


def test_records_in_which_every_cell_failed_are_reported_by_their_statuses(reported):
    page = reported(record([failed(), failed("timeout", resolution="128"), failed("crash", mode="forward", batch=8)]))
    assert "No cell has figures" in page
    assert "1 out of memory, 1 timeout, 1 crash" in page
    assert 'data-status="timeout"' in page
    assert 'id="throughput"' not in page


def test_a_record_without_cells_makes_a_page(reported):
    assert "The record has no cells" in reported(record([]))


def test_a_section_without_data_is_left_out(reported):
    page = reported(record([cell(resolution="64"), cell(resolution="128")]))
    for name in ("throughput", "fits", "memory", "machine", "cells"):
        assert f'<section id="{name}">' in page
    absent = ("comparison", "largest", "speed-up", "strategies", "images", "roofline", "scaling", "history", "pictures")
    for name in absent:
        assert f'<section id="{name}">' not in page


def test_every_section_has_its_plots_as_files_and_its_data_in_a_table(reported, plots, tmp_path):
    ceiling = {"ceiling_share": 0.5, "ceiling_flops_per_second": 1e11, "arithmetic_intensity_flops_per_byte": 20.0}
    ranks = {"scaling": "weak", "ranks": 2, "speedup": 1.9, "efficiency": 0.95, "rank_peak_memory_bytes": [1, 2]}
    classifier = {"benchmark": "test_classification", "mode": "forward", "batch": 8, "pass_seconds": 1e5}
    reported(
        record(
            [
                *(cell(strategy=strategy, peak_memory_bytes=2**27) for strategy in ("plain", "streamed", "tiled")),
                cell(device="cuda:0", ceiling_bound_by="arithmetic", **ceiling),
                cell("vgg16", ceiling_bound_by="memory", **ceiling),
                cell("resnet50", "224", **classifier),
                cell("resnet50", "224", benchmark="test_data_parallel", mode="training", batch=16, **ranks),
                cell("nin", "largest", benchmark="test_largest_image", largest_side_px=2048, failed_side_px=2112),
            ]
        )
    )
    summary = (tmp_path / "out" / "summary.md").read_text()
    for name in (
        "throughput",
        "fits-1",
        "fits-2",
        "memory",
        "largest",
        "strategies",
        "images",
        "roofline-1",
        "scaling",
    ):
        assert f"](plots/{name}.png)" in summary
        ET.parse(plots / f"{name}.svg")
        with Image.open(plots / f"{name}.png") as picture:
            assert picture.width > 1000
    for heading in ("Several ranks", "Roofline", "Images per second", "Largest image that fits"):
        section = summary.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        assert section.count("\n| ") >= 3, heading


def generator(kind, model, resolution, mode="forward", make=cell, **further):
    facts = {"benchmark": f"test_{kind}", "kind": kind, "mode": mode, "batch": 1, "attention_operators": []}
    return make(model=model, resolution=resolution, **facts | further)


def test_denoisers_and_decoders_have_rates_images_and_memory_side_by_side(reported, plots, tmp_path):
    denoise = {"kind": "denoise", "model": "dit_s2", "denoising_steps": 20}
    decode = {"kind": "decode", "model": "kl_decoder_s"}
    flash = ["_scaled_dot_product_flash_attention_for_cpu"]
    budget = {"memory_budget_bytes": 2**30}
    page = reported(
        record(
            [
                *(generator(resolution=side, attention_operators=flash, **denoise) for side in ("64", "128")),
                generator(resolution="64", mode="input", images_per_second=None, **denoise),
                *(generator(resolution=side, **decode, **budget) for side in ("64", "128")),
                generator(resolution="256", make=failed, **decode, **budget),
                generator(resolution="largest", largest_side_px=192, width=192, height=192, **decode),
            ]
        )
    )
    assert "dit_s2 at 128 px: 6000 evaluations per minute on A CPU (cpu)</h1>" in page
    assert "kl_decoder_s at 128 px: 6000 decodes per minute on A CPU (cpu)." in page
    assert "The largest square image that fits: 192 × 192 px with kl_decoder_s on A CPU (cpu) (decode)." in page
    assert "kl_decoder_s forward runs out of memory at 256 px" in page
    assert "images/s (20 steps)" in page
    assert page.count(">flash<") == 2
    rates, of_images, memory = (
        page.partition(f'aria-label="{title}"')[2].partition("</svg>")[0]
        for title in (
            "Evaluations and decodes per minute against pixels",
            "Images per second of each stage, at 20 evaluations an image",
            "Peak memory of each stage against pixels",
        )
    )
    assert "kl_decoder_s forward: out of memory" in rates
    assert "dit_s2 input" in rates
    assert "dit_s2 input" not in of_images  # a gradient makes no image
    assert memory.count("limit on A CPU (cpu): 1 GiB") == 1  # the decoder's only
    assert {path.stem for path in plots.iterdir()} >= {"stages", "stage-images", "stage-memory", "largest"}


def test_without_denoisers_and_decoders_their_sections_are_left_out(reported):
    page = reported(record([cell()]))
    assert 'id="stages"' not in page
    assert 'id="stage-memory"' not in page


def test_a_run_of_generators_that_failed_shows_what_they_were_predicted_to_take(reported):
    page = reported(record([generator("decode", "kl_decoder", "1024", make=failed)]))
    assert 'id="stages"' not in page
    assert "kl_decoder forward runs out of memory at 1024 px." in page


def test_a_group_that_trains_a_denoiser_shows_the_images_that_it_trains_with(reported, tmp_path):
    ranks = {"scaling": "weak", "ranks": 2, "speedup": 1.9, "images_per_second": None, "batch": 16}
    reported(record([generator("denoise", "dit_s2", "128", "training", seconds=0.5, **ranks)]))
    section = (tmp_path / "out" / "summary.md").read_text().partition("## Several ranks")[2]
    assert "| 64 |" in section


def test_limits_of_devices_and_their_input_side_have_sections(reported, plots):
    copies = [cell("copy", "", benchmark="test_copy", size=size, rate=5e10) for size in ("1MiB", "64MiB")]
    workers = [cell("jpeg", "224", benchmark="test_input", size=f"{count}workers", batch=16) for count in (1, 2)]
    page = reported(record([*copies, *workers]))
    assert "A CPU (cpu) copies at 50 GB/s." in page
    assert "images per second from JPEG files with 1 worker threads" in page
    assert {path.stem for path in plots.iterdir()} == {"limits", "input"}


def test_roofs_are_flat_at_the_product_and_slope_with_the_bandwidth(tmp_path):
    by_memory = {
        "ceiling_bound_by": "memory",
        "ceiling_flops_per_second": 2e10,
        "arithmetic_intensity_flops_per_byte": 2.0,
    }
    by_product = {"ceiling_bound_by": "arithmetic", "ceiling_flops_per_second": 5e11}
    cells = [cell(**by_memory), cell("vgg19", **by_product), cell("vgg19", precision="bfloat16", **by_product)]
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record(cells)))
    roofs = roofs_of(gather(read_records(path)).cells)
    assert {roof.precision: roof.flops_per_second for roof in roofs} == {"float32": 5e11, "bfloat16": 5e11}
    assert {roof.bytes_per_second for roof in roofs} == {1e10}


def test_the_memory_plot_shows_the_card_s_memory_and_a_limit_but_not_what_was_free(reported):
    budgets = (23 * 2**30, 22 * 2**30, 2**30)
    page = reported(record([cell(str(budget), device="cuda:0", memory_budget_bytes=budget) for budget in budgets]))
    drawn = page.partition('aria-label="Peak memory against pixels"')[2].partition("</svg>")[0]
    assert "all of A Card (cuda:0): 24 GiB" in drawn
    assert "limit on A Card (cuda:0): 1 GiB" in drawn
    assert drawn.count("limit on") == 1


def test_a_machine_that_was_upgraded_shows_both_versions(reported):
    page = reported(record([cell()]), record([cell()], MACHINE | {"torch": "2.16.0"}, commit="b" * 40))
    assert "2.15.0; 2.16.0" in page
    assert "Conditions differ: torch 2.15.0 and 2.16.0." in page


def test_two_files_of_a_machine_are_before_and_after_with_verdicts(reported):
    before = [cell(), cell("vgg19"), cell(resolution="128")]
    after = [cell(seconds=0.02), cell("vgg19"), failed(resolution="128")]
    page = reported(record(before), record(after, commit="b" * 40))
    assert "Of 3 cells: 1 regressed, 1 now out of memory, 1 unchanged." in page
    assert 'aria-label="Throughput after, relative to before"' in page


def test_a_cell_that_was_requested_again_and_vanished_is_missing(reported):
    options = {"options": {"model": ["nin"]}}
    page = reported(record([cell(), cell(resolution="128")], **options), record([cell()], commit="b" * 40, **options))
    assert "1 missing, 1 unchanged" in page


def test_searches_are_not_compared_as_they_end_at_different_sizes(reported):
    before, after = (cell("nin", "largest", seconds, benchmark="test_largest_image") for seconds in (1.0, 5.0))
    page = reported(record([cell(), before]), record([cell(), after], commit="b" * 40))
    assert "Of 1 cells: 1 unchanged." in page


def test_a_benchmark_that_was_not_run_again_is_not_missing(reported):
    first = record([cell(), cell("resnet50", benchmark="test_classification", mode="forward")])
    page = reported(first, record([cell()], commit="b" * 40))
    assert "Of 1 cells: 1 unchanged." in page
    assert page.count("resnet50") > 2


def test_verdicts_of_a_side_by_side_run_are_shown_with_their_intervals(reported):
    sides = {"baseline": {"iterations_per_minute": 60.0}, "candidate": {"iterations_per_minute": 50.0}}
    ratio = {"throughput_ratio": 0.833, "throughput_ratio_low": 0.81, "throughput_ratio_high": 0.85, "reason": "slower"}
    page = reported(record([cell(verdict="regressed", comparison=sides | ratio)]))
    assert "Of 1 cells: 1 regressed." in page
    assert "0.833 (0.810 to 0.850)" in page


def test_three_files_of_a_machine_are_a_history(reported):
    files = [
        record([cell(seconds=seconds)], commit=commit * 40) for seconds, commit in ((1, "a"), (2, "b"), (0.5, "c"))
    ]
    page = reported(*files)
    assert "test_style_iteration[cpu-nin-64px] moved most; it ends +100 % from where it began" in page
    assert 'aria-label="Throughput over commits on A Card' in page


def test_files_of_two_machines_are_shown_side_by_side(reported):
    other = MACHINE | {"devices": [{"name": "cpu", "model": "Another CPU"}]}
    page = reported(record([cell()]), record([cell(seconds=0.005)], other))
    assert "2 machines" in page
    assert "Another CPU (cpu) runs nin 64 px 2 times as fast as A CPU (cpu)" in page
    assert 'id="comparison"' not in page


def test_a_merged_file_keeps_its_machines_apart(reported):
    one = {
        "label": "left",
        "facts": MACHINE,
        "sources": [{"file": "a.json", "started": None, "commit": {}, "options": {}}],
    }
    cells = [cell() | {"machine": 0}, cell(seconds=0.005) | {"machine": 1}]
    page = reported(record(cells) | {"machines": [one, one | {"label": "right"}]})
    assert "right (cpu) runs nin 64 px 2 times as fast as left (cpu)" in page


def test_a_picture_is_shown_small_and_a_missing_one_is_left_out(reported, tmp_path):
    Image.new("RGB", (2000, 1000), "navy").save(tmp_path / "made.png")
    page = reported(record([cell(picture="made.png"), cell(resolution="128", picture="gone.png")]))
    assert page.count("data:image/jpeg;base64,") == 1
    assert len(page) < 300_000


def test_a_cell_that_throttled_or_shared_its_device_is_marked(reported, tmp_path):
    page = reported(record([cell(telemetry={"throttled": ["hw_slowdown"], "shared": True}), cell(resolution="128")]))
    assert page.count("ok *") == (tmp_path / "out" / "summary.md").read_text().count("ok *") == 2
    assert "throttled (hw_slowdown); shared with others" in page
    assert "1 cell is marked *" in page


def test_launch_bound_cells_are_marked_and_device_times_have_a_table_with_the_memory_of_the_allocator(reported):
    figures = {"device_seconds": 0.008, "queueing_seconds": 0.0078, "kernels_per_iteration": 321, "launch_bound": True}
    figures |= {"peak_reserved_bytes": 3 * 2**30, "num_alloc_retries": 7, "num_ooms": 0}
    page = reported(record([cell(), cell(device="cuda:0", **figures)]))
    assert "Of 1 cells on accelerators 1 are bound by the launches of the host." in page
    section = page.partition('<section id="device-time">')[2].partition("</section>")[0]
    for text in ("321", "97.5 %", "3 GiB", ">7<", "ok, launch-bound"):
        assert text in section, text
    assert page.count("ok, launch-bound") >= 3  # rates, device times, all cells


def test_launch_bound_denoisers_are_marked_in_the_tables_of_their_stage(reported):
    page = reported(record([generator("denoise", "dit_s2", "64", device="cuda:0", launch_bound=True)]))
    for name in ("stages", "stage-memory"):
        assert "ok, launch-bound" in page.partition(f'<section id="{name}">')[2].partition("</section>")[0], name


def test_a_report_without_accelerators_has_no_section_of_device_times(reported):
    assert 'id="device-time"' not in reported(record([cell()]))


def test_text_of_a_record_is_escaped(reported):
    page = reported(record([cell("<script>alert(1)</script>"), failed(resolution="128") | {"message": "<b>no"}]))
    assert "<script>alert" not in page
    assert "<b>no" not in page


def test_the_page_loads_nothing_and_refers_to_its_own_files_only(reported, plots):
    page = reported(record([cell(), cell(resolution="128")]))
    targets = [part.partition('"')[0] for part in page.split('href="')[1:] + page.split('src="')[1:]]
    for target in targets:
        assert target.startswith(("#", "data:")) or (plots.parent / target).is_file(), target
    assert "url(http" not in page


def test_reporting_imports_neither_torch_nor_pytest(tmp_path):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record([cell(), cell("resnet50", mode="forward")])))
    code = (
        "import sys; from benchmarks import report;"
        f"assert report.main([{str(path)!r}, '--output={tmp_path}/out']) == 0;"
        "print({'torch', 'pytest'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_what_cannot_be_read_or_written_is_one_sentence_and_exit_code_2(reported, tmp_path, capsys):
    assert report.main(["absent.json"]) == 2
    reported(record([cell()]))
    (tmp_path / "file").write_text("")
    assert report.main(["0.json", "--output=file/out"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "absent.json" in errors[0]
    assert "--output=file/out cannot be written" in errors[1]
    assert len(errors) == 2


def test_without_the_libraries_the_extra_is_named(reported, monkeypatch, capsys):
    reported(record([cell()]))
    monkeypatch.setattr(report.importlib.util, "find_spec", lambda name: None)
    assert report.main(["0.json"]) == 2
    assert "pip install -e '.[report]'" in capsys.readouterr().err
