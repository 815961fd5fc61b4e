"""The section of decoders that work in tiles."""

import json

import pytest
from PIL import Image

from benchmarks.reporting.data import gather
from benchmarks.reporting.page import SECTIONS
from benchmarks.reporting.tilers import tilers
from fixtures.records.reader import read_records

MACHINE = {"torch": "2.15.0", "threads": 1, "devices": [{"name": "cpu", "model": "A CPU"}]}


def cell(tiler, errors, side=1024, **further):
    facts = {"benchmark": "test_tilers", "kind": "tiling", "device": "cpu", "model": "kl_decoder_s", "tiler": tiler}
    facts |= {"resolution": str(side), "width": side, "height": side, "status": "ok", "median_seconds": 2.0}
    return facts | {"peak_memory_bytes": 2**30, "tiling_errors": errors} | further


def figures(relative_l2, seam=None, **further):
    return {"relative_l2": relative_l2, "largest_difference": 1.5, "seam": seam, "status": "ok", **further}


@pytest.fixture
def section(tmp_path):
    def section(*cells):
        path = tmp_path / "record.json"
        commit = {"id": "a" * 40, "dirty": False}
        path.write_text(json.dumps({"schema": 1, "machine": MACHINE, "commit": commit, "cells": list(cells)}))
        return tilers(gather(read_records(path)))

    return section


def test_each_tiler_has_a_row_for_each_kind_of_latents_and_the_finding_is_of_the_largest_size(section):
    shown = section(
        cell("whole", {"noise": figures(0.0)}),
        cell("diffusers", {"noise": figures(0.8, 1.25), "photograph": figures(0.3, 1.5)}),
        cell("diffusers", {"noise": figures(0.1)}, side=512),
        cell("mine", {"noise": figures(0.012345, 7.0)}),
    )
    assert shown.finding == (
        "Relative L2 distance to the whole decode, kl_decoder_s at 1024 px, noise: diffusers 80 %, mine 1.234 %."
    )
    rows = [[datum.text for datum in row.data] for row in shown.tables[0].rows]
    assert [row[2:6] for row in rows] == [
        ["512", "diffusers", "noise", "0.1"],
        ["1024", "whole", "noise", "0"],
        ["1024", "diffusers", "noise", "0.8"],
        ["1024", "diffusers", "photograph", "0.3"],
        ["1024", "mine", "noise", "0.01234"],
    ]
    assert rows[2][10:] == ["1.25", "2", "1 GiB", "ok"]
    assert len(shown.tables[0].header) == len(rows[0])


def test_error_maps_are_shown_except_of_the_whole_decode_and_missing_ones(section, tmp_path):
    Image.new("L", (800, 600), 90).save(tmp_path / "map.png")
    shown = section(
        cell("whole", {"noise": figures(0.0, error_map="map.png", error_map_white=0.0)}),
        cell("mine", {"noise": figures(0.5, error_map="map.png", error_map_white=0.25)}),
        cell("gone", {"noise": figures(0.5, error_map="gone.png", error_map_white=0.25)}),
    )
    (picture,) = shown.pictures
    assert picture.caption == "mine, kl_decoder_s, 1024 px, noise; white is 0.25"
    assert picture.data_uri.startswith("data:image/jpeg;base64,")


def test_what_failed_is_shown_with_its_reason(section):
    failure = {"status": "error", "message": "the tiler returned an image of shape (1, 3, 8, 8)", "tiling_errors": None}
    too_large = {"noise": {"status": "out_of_memory", "message": "no memory is left"}}
    shown = section(cell("mine", {}, **failure), cell("other", too_large))
    assert shown.finding == "No decoder that works in tiles could be compared with the whole decode."
    assert [row.data[-1].text for row in shown.tables[0].rows] == ["error", "out_of_memory"]
    assert shown.notes[-2:] == [
        "mine, kl_decoder_s, 1024 px: error: the tiler returned an image of shape (1, 3, 8, 8)",
        "other, kl_decoder_s, 1024 px, noise: out_of_memory: no memory is left",
    ]


def test_a_record_without_tilers_has_no_section(section):
    assert section(cell("", {}, kind="decode")) is None
    assert tilers in SECTIONS
