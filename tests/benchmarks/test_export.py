"""Record files in the formats of other programs, read by those programs' own parsers where they are available."""

import json
import re
import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import export
from fixtures.records.cell_record import CellRecord
from fixtures.records.merging import merge
from fixtures.records.reader import RecordFile
from tests.paths import ROOT

MACHINE = {
    "torch": "2.15.0",
    "driver": 'a "quoted" \\ one\nof two lines',
    "devices": [{"name": "cpu", "model": "A CPU"}],
}


def cell(model="nin", resolution="64", median=0.5, **further):
    cell = {"benchmark": "test_style_iteration", "device": "cpu", "model": model, "resolution": resolution}
    cell |= {"optimizer": "adam", "precision": "float32", "strategy": "plain", "batch": 1, "status": "ok"}
    cell |= {
        "median_seconds": median,
        "spread": 0.1,
        "iterations_per_minute": 60 / median,
        "durations_seconds": [median],
    }
    return cell | {"images_per_second": 1 / median, "peak_memory_bytes": 3 * 2**20} | further


def failed(status="out_of_memory", **further):
    return (
        cell(**further)
        | {"status": status, "message": "no memory is left", "cause": None}
        | dict.fromkeys(("median_seconds", "spread", "iterations_per_minute", "images_per_second", "durations_seconds"))
    )


CELLS = [
    cell(),
    failed(resolution="8192"),
    failed("skipped", resolution="128"),
    cell("resnet50", "224", batch=16, mode="training", images_per_second=32.0),
    cell("copy", "", size="64MiB", benchmark="test_copy", rate=1e10, rate_unit="B/s", images_per_second=None),
    cell("vgg19", "largest", benchmark="test_largest_image", largest_side_px=1984),
    failed(model="vgg16", resolution="largest", benchmark="test_largest_image", largest_side_px=None),
]


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "record.json"
    content = {"schema": 1, "started": "2026-11-22T01:00:00+00:00", "machine": MACHINE, "cells": CELLS}
    path.write_text(json.dumps(content | {"commit": {"id": "0123456789abcdef", "dirty": True}}))
    return path


@pytest.fixture
def exported(record, capsys):
    def exported(to):
        assert export.main([str(record), f"--format={to}"]) == 0
        return capsys.readouterr().out

    return exported


@pytest.fixture
def samples(exported):
    """Of each metric name, its samples' labels and values."""
    families = list(text_string_to_metric_families(exported("prometheus")))
    assert {family.type for family in families} == {"gauge"}
    assert all(family.documentation for family in families)
    every = [sample for family in families for sample in family.samples]
    assert len({(sample.name, *sorted(sample.labels.items())) for sample in every}) == len(every)

    def samples(name, **labels):
        fitting = [
            sample for sample in every if sample.name == f"goghmark_{name}" and labels.items() <= sample.labels.items()
        ]
        return [(sample.labels, sample.value) for sample in fitting]

    return samples


def test_prometheus_reads_figures_in_base_units_labelled_with_their_cell_s_identity(samples):
    ((labels, value),) = samples("iteration_seconds", model="nin")
    assert value == 0.5
    assert labels.items() >= {
        "benchmark": "test_style_iteration", "device": "cpu", "model": "nin", "resolution": "64", "optimizer": "adam",
        "precision": "float32", "strategy": "plain", "batch": "1",
    }.items()  # fmt: skip
    assert samples("peak_memory_bytes", model="nin", resolution="64")[0][1] == 3 * 2**20
    assert samples("limit_bytes_per_second", size="64MiB")[0][1] == 1e10
    assert samples("largest_side_pixels", model="vgg19")[0][1] == 1984
    assert samples("run_start_timestamp_seconds") == [({}, 1795309200.0)]


def test_prometheus_gets_only_the_status_of_a_failed_cell(samples):
    of_cell = samples("cell_status", resolution="8192")
    assert len(of_cell) == 8
    assert [labels["status"] for labels, value in of_cell if value == 1] == ["out_of_memory"]
    assert sum(value for _, value in of_cell) == 1
    assert not samples("iteration_seconds", resolution="8192")
    assert not samples("peak_memory_bytes", resolution="8192")


def test_special_characters_in_labels_are_escaped_for_prometheus(samples):
    assert samples("machine_info") == [({"torch": "2.15.0", "driver": MACHINE["driver"]}, 1.0)]


def test_github_action_benchmark_gets_the_usual_rate_of_each_cell_and_the_largest_images(exported):
    entries = json.loads(exported("github-action-benchmark-bigger"))
    assert {entry["name"]: (entry["value"], entry["unit"]) for entry in entries} == {
        "test_style_iteration[cpu-nin-64px]": (120.0, "iterations/min"),
        "test_style_iteration[cpu-nin-8192px]": (0.0, "iterations/min"),
        "test_style_iteration[cpu-resnet50-224px-batch16-training]": (32.0, "images/s"),
        "test_copy[cpu-64MiB]": (1e10, "B/s"),
        "test_largest_image[cpu-vgg19] largest image": (1984, "px"),
        "test_largest_image[cpu-vgg16] largest image": (0, "px"),
    }
    assert entries[0]["range"] == "± 6"
    assert entries[0]["extra"] == "device: A CPU\ntorch: 2.15.0\ncommit: 0123456789ab with changes\nrounds: 1"
    assert "status: out_of_memory: no memory is left" in entries[1]["extra"]


def test_github_action_benchmark_gets_the_memory_of_cells_that_ran(exported):
    entries = json.loads(exported("github-action-benchmark-smaller"))
    assert [entry["name"] for entry in entries] == [
        "test_style_iteration[cpu-nin-64px] peak memory",
        "test_style_iteration[cpu-resnet50-224px-batch16-training] peak memory",
        "test_copy[cpu-64MiB] peak memory",
        "test_largest_image[cpu-vgg19] peak memory",
    ]
    assert {(entry["value"], entry["unit"]) for entry in entries} == {(3.0, "MiB")}


def test_cells_of_many_machines_are_distinguished(tmp_path, capsys):
    records = [
        RecordFile(tmp_path, MACHINE, {("test", "cpu", "nin"): CellRecord(cell())}, {}, label)
        for label in ("left", "right")
    ]
    path = tmp_path / "fleet.json"
    path.write_text(json.dumps(merge(records)))
    assert export.main([str(path), "--format=prometheus"]) == 0
    families = text_string_to_metric_families(capsys.readouterr().out)
    times = next(family for family in families if family.name == "goghmark_iteration_seconds")
    assert [sample.labels["machine"] for sample in times.samples] == ["left", "right"]
    assert export.main([str(path), "--format=github-action-benchmark-bigger"]) == 0
    names = [entry["name"] for entry in json.loads(capsys.readouterr().out)]
    assert names == ["left test_style_iteration[cpu-nin-64px]", "right test_style_iteration[cpu-nin-64px]"]


def test_without_prometheus_client_one_sentence_says_what_to_install(record, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert export.main([str(record), "--format=prometheus"]) == 2
    err = capsys.readouterr().err
    assert "needs prometheus-client, which is not installed; pip install -e '.[export]'" in err
    assert err.count("\n") == 1
    assert export.main([str(record), "--format=github-action-benchmark-bigger"]) == 0


@pytest.mark.parametrize("direction", ["bigger", "smaller"])
def test_entries_are_as_github_action_benchmark_describes_them(exported, direction):
    entries = json.loads(exported(f"github-action-benchmark-{direction}"))
    assert len({entry["name"] for entry in entries}) == len(entries)
    for entry in entries:
        assert set(entry) <= {"name", "value", "unit", "range", "extra"}
        assert isinstance(entry["value"], int | float)
        assert all(isinstance(entry[key], str) for key in set(entry) - {"value"})
        # It scales what follows the sign with the value's unit.
        assert re.fullmatch(r"± [\d.e+-]+", entry.get("range", "± 0"))


def test_the_output_is_replaced_in_one_step(record, tmp_path, capsys):
    output = tmp_path / "metrics" / "goghmark.prom"
    for _ in range(2):
        assert export.main([str(record), "--format=prometheus", f"--output={output}"]) == 0
    assert capsys.readouterr().out == ""
    assert output.read_text().startswith("# HELP goghmark_iteration_seconds ")
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.parametrize(
    ("cells", "words", "message"),
    [
        ([], ["--format=github-action-benchmark-bigger"], "has no cell with such a figure"),
        ([failed()], ["--format=github-action-benchmark-smaller"], "has no cell with such a figure"),
        ([cell()], ["--format=prometheus", "--output=/proc/nowhere/x.prom"], "cannot be written"),
        ([{"benchmark": 1}], ["--format=prometheus"], "is damaged"),
    ],
)
def test_what_cannot_be_exported_is_reported_in_one_sentence(tmp_path, capsys, cells, words, message):
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"schema": 1, "machine": MACHINE, "cells": cells}))
    assert export.main([str(path), *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_the_command_needs_no_torch(tmp_path):
    script = "import sys, benchmarks.export; sys.exit(any(name.partition('.')[0] in ('torch', 'pytest') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
