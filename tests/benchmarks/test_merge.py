"""Record files of several machines, merged into one and read again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gate, merge
from fixtures.records.reader import read_record, read_records
from tests.paths import ROOT

EPYC = {"torch": "2.15.0", "threads": 2, "memory_bytes": 8 * 2**30, "devices": [{"name": "cpu", "model": "EPYC"}]}
H100 = EPYC | {"driver": "590.1", "devices": [*EPYC["devices"], {"name": "cuda:0", "model": "H100"}]}


def cell(resolution="64", median=0.01, **further):
    identity = {"benchmark": "test_style_iteration", "device": "cpu", "model": "nin", "resolution": resolution}
    return identity | {"status": "ok", "median_seconds": median} | further


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Writes a record file, and returns its name in the current directory."""
    monkeypatch.chdir(tmp_path)

    def file(name, *cells, machine=EPYC, options=None, commit="c0ffee"):
        content = {"schema": 1, "started": name, "machine": machine, "cells": cells}
        Path(name).write_text(json.dumps(content | {"commit": {"id": commit}, "options": options or {}}))
        return name

    return file


def merged(*words):
    assert merge.main([*words, "-o", "fleet.json"]) == 0
    return json.loads(Path("fleet.json").read_text())


def test_each_cell_keeps_its_machine(file, capsys):
    content = merged(file("a.json", cell(), cell("128")), file("b.json", cell(), machine=H100))
    assert (content["schema"], content["machine"]) == (1, EPYC)
    assert [(one["resolution"], one["machine"]) for one in content["cells"]] == [("64", 0), ("128", 0), ("64", 1)]
    assert [machine["label"] for machine in content["machines"]] == ["EPYC", "H100"]
    assert "590.1" in capsys.readouterr().out


def test_a_merged_file_is_read_as_the_records_that_it_was_made_from(file):
    names = file("a.json", cell()), file("b.json", cell(median=0.2), machine=H100, commit="beef", options={"epochs": 9})
    merged(*names)
    for alone, out_of_fleet in zip(map(read_record, map(Path, names)), read_records(Path("fleet.json")), strict=True):
        assert out_of_fleet.machine == alone.machine
        assert {
            key: fact for key, fact in alone.header.items() if key != "cells"
        }.items() <= out_of_fleet.header.items()
        assert [{**one.facts, "machine": 0} for one in alone.cells.values()] == [
            {**one.facts, "machine": 0} for one in out_of_fleet.cells.values()
        ]
        assert alone.cells.keys() == out_of_fleet.cells.keys()


def test_files_of_one_machine_become_one(file):
    pages_less = EPYC | {"memory_bytes": EPYC["memory_bytes"] - 2**20}
    content = merged(file("a.json", cell()), file("b.json", cell("128"), machine=pages_less))
    (machine,) = content["machines"]
    assert [source["file"] for source in machine["sources"]] == ["a.json", "b.json"]
    assert [one["machine"] for one in content["cells"]] == [0, 0]


@pytest.mark.parametrize(
    "other", [{"driver": "580.0"}, {"torch": "2.11.0"}, {"memory_bytes": 16 * 2**30}], ids=("driver", "torch", "memory")
)
def test_a_machine_with_another_version_or_size_is_another_machine(file, other):
    content = merged(file("a.json", cell(), machine=H100), file("b.json", cell(), machine=H100 | other))
    assert [machine["label"] for machine in content["machines"]] == ["H100", "H100 (2)"]


def test_machines_that_are_alike_are_distinguished_by_their_labels(file):
    a, b = file("a.json", cell()), file("b.json", cell(median=0.02))
    content = merged(f"left={a}", f"right={b}")
    assert [machine["label"] for machine in content["machines"]] == ["left", "right"]
    assert [one["median_seconds"] for one in content["cells"]] == [0.01, 0.02]


def test_a_merged_file_can_be_merged_again(file):
    content = merged(f"left={file('a.json', cell())}", f"right={file('b.json', cell())}")
    Path("fleet.json").rename("first.json")
    assert merged("first.json", f"left={file('a.json', cell())}") == {
        **content,
        "machines": [
            {**content["machines"][0], "sources": 2 * content["machines"][0]["sources"]},
            content["machines"][1],
        ],
    }


def test_the_same_cell_with_two_values_is_a_conflict_that_names_it(file, capsys):
    a, b = file("a.json", cell(), cell("128")), file("b.json", cell(median=0.02), cell("128"))
    assert merge.main([a, b, "-o", "fleet.json"]) == 2
    error = capsys.readouterr().err
    assert "1 cell(s)" in error
    assert "test_style_iteration[cpu-nin-64px] of EPYC in a.json and b.json" in error
    assert "--prefer=first" in error
    assert not Path("fleet.json").exists()


@pytest.mark.parametrize(("preferred", "median"), [("first", 0.01), ("last", 0.02)])
def test_one_of_two_values_can_be_preferred(file, preferred, median):
    content = merged(file("a.json", cell()), file("b.json", cell(median=0.02)), f"--prefer={preferred}")
    assert [one["median_seconds"] for one in content["cells"]] == [median]


def test_options_that_change_the_meaning_of_figures_are_named(file, capsys):
    of_a, of_b = ({"weights": weights, "model": [weights]} for weights in ("random", "imagenet"))
    merged(file("a.json", cell(), options=of_a), file("b.json", cell("128"), options=of_b))
    output = capsys.readouterr().out
    assert "option weights differs: random in a.json, imagenet in b.json" in output
    assert "option model" not in output


def test_a_command_for_one_machine_says_so(file, capsys):
    merged(file("a.json", cell()), file("b.json", cell(), machine=H100))
    assert gate.main(["fleet.json", "a.json"]) == 2
    assert "holds 2 machines (EPYC; H100), and this takes one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("absent.json", "cannot be read"),
        ("=a.json", "a label is one or more letters"),
        ("all=fleet.json", "names the one machine of a file"),
        ("broken.json", "is damaged"),
    ],
)
def test_bad_input_is_a_sentence_and_exit_status_2(file, capsys, word, sentence):
    content = merged(file("a.json", cell()), file("b.json", cell(), machine=H100))
    content["cells"][0]["machine"] = 2
    Path("broken.json").write_text(json.dumps(content))
    assert merge.main([word, "-o", "out.json"]) == 2
    assert sentence in capsys.readouterr().err


def test_no_torch_is_imported():
    code = "import sys, benchmarks.merge; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
