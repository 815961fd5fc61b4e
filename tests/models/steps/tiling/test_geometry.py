"""Geometry compared with brute force: sizes with torch's layers, all else with propagation of single positions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.errors import InputError
from models.steps.tiling import geometry
from models.steps.tiling.geometry import Box, Span, Window
from models.steps.tiling.layers import window_counts


@st.composite
def windows(draw: st.DrawFn) -> Window:
    if draw(st.booleans()):  # a pooling layer: torch allows padding up to half the kernel
        kernel = draw(st.integers(1, 4))
        padding = draw(st.integers(0, kernel // 2))
        return Window(kernel, draw(st.integers(1, 4)), padding, padding, 1, draw(st.booleans()))
    kernel, dilation = draw(st.integers(1, 5)), draw(st.integers(1, 2))
    padding = st.integers(0, dilation * (kernel - 1))
    return Window(kernel, draw(st.integers(1, 3)), draw(padding), draw(padding), dilation)


chains = st.lists(windows(), min_size=1, max_size=6)


@st.composite
def cuttings(draw: st.DrawFn) -> tuple[list[Window], int, int, set[int]]:
    chain = draw(chains.filter(lambda chain: geometry.alignment(chain) <= 24))
    size = draw(st.integers(1, 90).filter(lambda size: all_levels(chain, size)))
    side = draw(st.integers(geometry.alignment(chain), 100))
    loss_levels = draw(st.sets(st.integers(1, len(chain)))) | {len(chain)}
    return chain, size, side, loss_levels


def all_levels(chain: list[Window], size: int) -> bool:
    try:
        return bool(geometry.sizes(chain, size))
    except InputError:
        return False


def read_by(window: Window, output: int, size: int) -> set[int]:
    """Inputs of one output, without padding."""
    positions_read = (output * window.stride - window.before + window.dilation * step for step in range(window.kernel))
    return {position for position in positions_read if 0 <= position < size}


def positions(span: Span) -> set[int]:
    return set(range(span.start, span.stop))


@given(window=windows(), size=st.integers(1, 40))
def test_the_size_of_an_output_is_that_of_torchs_layer(window: Window, size: int) -> None:
    row = torch.empty(1, 1, size)
    try:
        if window.ceil_mode:
            shape = nn.MaxPool1d(window.kernel, window.stride, window.before, ceil_mode=True)(row).shape
        else:
            padded = nn.functional.pad(row, (window.before, window.after))
            shape = nn.Conv1d(1, 1, window.kernel, window.stride, 0, window.dilation)(padded).shape
    except RuntimeError:  # the kernel is larger than the padded input
        assert window.outputs(size) == 0
    else:
        assert window.outputs(size) == shape[-1]


@given(window=windows(), size=st.integers(1, 40), start=st.integers(0, 39), length=st.integers(0, 9))
def test_the_dependents_of_inputs_are_the_outputs_whose_windows_overlap_them(
    window: Window, size: int, start: int, length: int
) -> None:
    inputs, outputs = Span(start, start + length).clipped(size), window.outputs(size)
    reached = {out for out in range(outputs) if positions(window.inputs(Span(out, out + 1))) & positions(inputs)}
    assert positions(window.dependents(inputs, outputs)) == reached


@given(window=windows().filter(lambda window: window.dilation == 1), size=st.integers(1, 40))
def test_the_counts_of_average_pooling_are_the_numbers_of_positions_in_each_window(window: Window, size: int) -> None:
    every = Span(0, window.outputs(size))
    for padding, first, stop in ((False, 0, size), (True, -window.before, size + window.after)):
        in_map = [positions(window.inputs(Span(out, out + 1))) & set(range(first, stop)) for out in range(every.stop)]
        # A window within the padding has no positions: layers with so wide a padding are rejected.
        if all(in_map):
            counts = window_counts(window, every, size, padding, torch.empty(0))
            assert counts.tolist() == [len(window_positions) for window_positions in in_map]


def test_an_empty_box_adds_nothing_and_has_no_elements() -> None:
    box, empty = Box(Span(1, 3), Span(2, 5)), Box(Span(0, 9), Span(4, 4))
    assert box.hull(empty) == empty.hull(box) == box
    assert empty.empty
    assert torch.empty(1, 2, 9, 9)[empty.slices].numel() == 0
    assert torch.empty(1, 2, 9, 9)[box.slices].shape[2:] == box.lengths


@settings(max_examples=300)
@given(cuttings())
def test_every_position_of_every_level_is_owned_by_exactly_one_strip(
    cutting: tuple[list[Window], int, int, set[int]],
) -> None:
    chain, size, side, loss_levels = cutting
    strips = geometry.strips(chain, size, side, loss_levels)
    for level, length in enumerate(geometry.sizes(chain, size)):
        owned = [position for strip in strips for position in range(*strip.owned[level])]
        assert sorted(owned) == list(range(length))


@settings(max_examples=300)
@given(cuttings())
def test_a_strip_computes_exactly_the_positions_that_its_owned_positions_depend_on(
    cutting: tuple[list[Window], int, int, set[int]],
) -> None:
    chain, size, side, loss_levels = cutting
    levels = geometry.sizes(chain, size)
    for strip in geometry.strips(chain, size, side, loss_levels):
        expected: set[int] = set()
        for level in reversed(range(len(levels))):
            if level in loss_levels:
                expected |= positions(strip.owned[level])
            assert expected <= positions(strip.computed[level])
            # A strip is contiguous: it also computes positions that no window reads.
            if expected and all(window.stride <= window.kernel and window.dilation == 1 for window in chain):
                assert (strip.computed[level].start, strip.computed[level].stop) == (min(expected), max(expected) + 1)
            if level:
                window, size_below = chain[level - 1], levels[level - 1]
                expected = {position for output in expected for position in read_by(window, output, size_below)}


@settings(max_examples=300)
@given(cuttings())
def test_padding_is_that_of_the_whole_image_and_only_at_its_border(
    cutting: tuple[list[Window], int, int, set[int]],
) -> None:
    chain, size, side, loss_levels = cutting
    levels = geometry.sizes(chain, size)
    for strip in geometry.strips(chain, size, side, loss_levels):
        for level in range(strip.depth):
            window, read, (before, after) = chain[level], strip.reads[level], strip.padding[level]
            real = read.clipped(levels[level])
            assert positions(real) <= positions(strip.computed[level])
            assert before <= window.before
            assert after <= window.after
            assert before + real.length + after == read.length
            # Without padding, the layer computes exactly the positions of the next level from what it reads.
            alone = Window(window.kernel, window.stride, 0, 0, window.dilation, window.ceil_mode)
            assert alone.outputs(read.length) == strip.computed[level + 1].length


@given(cuttings())
def test_strips_start_at_multiples_of_the_alignment_and_are_no_longer_than_requested(
    cutting: tuple[list[Window], int, int, set[int]],
) -> None:
    chain, size, side, loss_levels = cutting
    strips = geometry.strips(chain, size, side, loss_levels)
    assert all(strip.owned[0].start % geometry.alignment(chain) == 0 for strip in strips)
    assert max(strip.owned[0].length for strip in strips) <= side


@given(cuttings())
def test_no_strip_reads_pixels_beyond_the_halo(cutting: tuple[list[Window], int, int, set[int]]) -> None:
    chain, size, side, loss_levels = cutting
    before, after = geometry.halo(chain, loss_levels)
    strips = geometry.strips(chain, size, side, loss_levels)
    for strip in strips[:-1]:  # the last strip also owns positions that exist because of padding
        if strip.computed[0].length:
            assert strip.computed[0].start >= strip.owned[0].start - before
            assert strip.computed[0].stop <= strip.owned[0].stop + after


@given(chain=chains.filter(lambda chain: geometry.alignment(chain) <= 24))
def test_the_receptive_field_of_a_position_contains_the_pixels_that_it_depends_on(chain: list[Window]) -> None:
    receptive_field = geometry.receptive_field(chain, Span(0, 1))
    reached = {0}
    for window in reversed(chain):
        reached = {
            out * window.stride - window.before + window.dilation * step
            for out in reached
            for step in range(window.kernel)
        }
    assert (receptive_field.start, receptive_field.stop) == (min(reached), max(reached) + 1)


def test_a_side_below_the_alignment_is_rejected_with_the_smallest_that_works() -> None:
    chain = [Window(2, 2), Window(2, 2), Window(2, 2)]
    with pytest.raises(InputError, match="the smallest that this network allows is 8 px"):
        geometry.strips(chain, 64, 7, {3})


def test_an_image_that_a_layer_shrinks_to_nothing_is_rejected() -> None:
    with pytest.raises(InputError, match="shrinks 4 px to nothing"):
        geometry.strips([Window(11, 4)], 4, 16, {1})
