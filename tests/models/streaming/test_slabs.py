"""Streams over a slab of rows between those of its neighbours, in one process."""

import pytest
import torch
from torch.nn.functional import conv2d

from models.streaming.arena import Arena
from models.streaming.operations import Convolution, Nearest, Residual, UpsamplingConvolution, row_before
from models.streaming.rows import Pipeline, Selection, streams_of
from models.streaming.slabs import Ends, Rows, Slab, Surrounded, even_slabs, read_rows, rows_around


def convolution(side=3, kind=Convolution):
    torch.manual_seed(0)
    return kind("", torch.randn(4, 4, side, side, dtype=torch.float64), None)


# Names and operations; in the last a residual within one.
WAYS = {
    "convolution": [convolution()],
    "upsampling": [convolution(kind=UpsamplingConvolution)],
    "nearest": [Nearest(""), convolution()],
    "residuals": [convolution(), Residual("", (Residual("", (convolution(),), None), convolution()), convolution(1))],
    "upsampled-residual": [convolution(kind=UpsamplingConvolution), Residual("", (convolution(), convolution()), None)],
}


def streamed(features, operations, rows, strip_rows):
    """The slab's own rows of the output, strip by strip."""
    above, own, below = features[:, :, : rows.stop].split(
        [rows.own_start, rows.own_stop - rows.own_start, rows.stop - rows.own_stop], 2
    )
    slab, out = Surrounded(above[:, :, rows.start :], own, below, rows, Arena(0, own)), rows.behind(operations)
    streams = streams_of(operations, {}, zeros=(rows.has_top, rows.has_bottom))
    selection = Selection(out.own_start - out.start, out.own_stop - out.own_start)
    return list(Pipeline([*streams, selection]).passed(slab.strips(strip_rows)))


@pytest.mark.parametrize("operations", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("strip_rows", [1, 2, 5])
def test_slabs_with_rows_around_are_the_whole_map_in_its_layout(operations, strip_rows):
    features = torch.randn(1, 4, 11, 3, dtype=torch.float64).to(memory_format=torch.channels_last)
    (whole,) = streamed(features, operations, Rows(0, 11, 0, 11, 11), 11)
    strips = [
        strip
        for slab in even_slabs(11, 4)
        for strip in streamed(features, operations, slab.rows(1, rows_around(operations)), strip_rows)
    ]
    assert torch.allclose(torch.cat(strips, 2), whole, rtol=1e-13, atol=1e-13)
    # In another layout all that follows takes more time.
    layouts = {strip.is_contiguous(memory_format=torch.channels_last) for strip in strips if strip.shape[2] > 1}
    assert layouts == {whole.is_contiguous(memory_format=torch.channels_last)}


def test_a_whole_map_is_convolved_with_zeros_around():
    features, layer = torch.randn(1, 4, 5, 3, dtype=torch.float64), convolution()
    (whole,) = streamed(features, [layer], Rows(0, 5, 0, 5, 5), 5)
    assert torch.allclose(whole, conv2d(features, layer.weight, padding=1), rtol=1e-13, atol=1e-13)


def test_every_convolution_needs_a_row_and_upsampling_halves_them():
    assert [rows_around(operations) for operations in WAYS.values()] == [1, 1, 1, 3, 2]
    # The two rows of a pair are computed together, so that row 7 needs what row 6 needs.
    assert [row_before(WAYS["upsampling"], row) for row in (5, 6, 7, 8)] == [1, 2, 2, 3]


def test_rows_behind_operations_are_those_that_follow_from_the_rows_before():
    operations = WAYS["upsampled-residual"]
    assert Rows(3, 9, 5, 7, 12).behind(operations) == Rows(10, 14, 10, 14, 24)
    assert Rows(0, 12, 5, 7, 12).behind(operations) == Rows(0, 24, 10, 14, 24)


def test_a_slab_is_read_by_every_slab_that_its_rows_reach():
    first, second, last = (Slab(start, start + 1, 3, 1).rows(2, 4) for start in range(3))
    assert (first.start, first.stop) == (0, 6)
    assert read_rows(last, first) == (0, 2)
    assert read_rows(second, last) == (4, 6)


@pytest.mark.parametrize("rows", [0, 2, 9])
def test_ends_are_the_first_and_last_rows_that_pass(rows):
    features, ends = torch.arange(7.0).view(1, 1, 7, 1), Ends(rows)
    for strip in features.split([1, 3, 1, 2], 2):
        ends.add(strip)
    first, last = ends.both
    assert torch.equal(first, features[:, :, :rows])
    assert torch.equal(last, features[:, :, max(0, 7 - rows) :])
