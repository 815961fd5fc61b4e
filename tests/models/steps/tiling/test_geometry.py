"""Geometry against brute force: sizes against torch's layers, everything else against propagation index by index."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.errors import InputError
from models.steps.tiling import geometry
from models.steps.tiling.geometry import Box, Span, Window


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
    taps = draw(st.sets(st.integers(1, len(chain)))) | {len(chain)}
    return chain, size, side, taps


def all_levels(chain: list[Window], size: int) -> bool:
    try:
        return bool(geometry.sizes(chain, size))
    except InputError:
        return False


def read_by(window: Window, output: int, size: int) -> set[int]:
    """Inputs of one output, padding left out."""
    places = (output * window.stride - window.before + window.dilation * step for step in range(window.kernel))
    return {place for place in places if 0 <= place < size}


def computed(span: Span) -> set[int]:
    return set(range(span.start, span.stop))


@given(window=windows(), size=st.integers(1, 40))
def test_a_level_is_as_long_as_torch_makes_it(window: Window, size: int) -> None:
    row = torch.empty(1, 1, size)
    try:
        if window.ceil_mode:
            shape = nn.MaxPool1d(window.kernel, window.stride, window.before, ceil_mode=True)(row).shape
        else:
            padded = nn.functional.pad(row, (window.before, window.after))
            shape = nn.Conv1d(1, 1, window.kernel, window.stride, 0, window.dilation)(padded).shape
    except RuntimeError:  # the kernel is larger than what there is
        assert window.outputs(size) == 0
    else:
        assert window.outputs(size) == shape[-1]


@given(window=windows(), size=st.integers(1, 40), start=st.integers(0, 39), length=st.integers(0, 9))
def test_what_inputs_feed_are_the_outputs_that_reach_over_them(
    window: Window, size: int, start: int, length: int
) -> None:
    inputs, outputs = Span(start, start + length).within(size), window.outputs(size)
    reached = {out for out in range(outputs) if computed(window.inputs(Span(out, out + 1))) & computed(inputs)}
    assert computed(window.feeds(inputs, outputs)) == reached


@given(window=windows().filter(lambda window: window.dilation == 1), size=st.integers(1, 40))
def test_the_counts_of_average_pooling_are_the_positions_that_a_window_has(window: Window, size: int) -> None:
    every = Span(0, window.outputs(size))
    for padding, first, stop in ((False, 0, size), (True, -window.before, size + window.after)):
        inside = [computed(window.inputs(Span(out, out + 1))) & set(range(first, stop)) for out in range(every.stop)]
        # A window that lies in the padding alone has none: layers whose padding is as wide are refused.
        if all(inside):
            assert window.counts(every, size, padding) == [len(positions) for positions in inside]


def test_an_empty_box_adds_nothing_and_has_no_elements() -> None:
    box, empty = Box(Span(1, 3), Span(2, 5)), Box(Span(0, 9), Span(4, 4))
    assert box.joined(empty) == empty.joined(box) == box
    assert empty.empty
    assert torch.empty(1, 2, 9, 9)[empty.slices].numel() == 0
    assert torch.empty(1, 2, 9, 9)[box.slices].shape[2:] == box.lengths


@settings(max_examples=300)
@given(cuttings())
def test_every_position_of_every_level_is_owned_by_exactly_one_strip(
    cutting: tuple[list[Window], int, int, set[int]],
) -> None:
    chain, size, side, taps = cutting
    strips = geometry.strips(chain, size, side, taps)
    for level, length in enumerate(geometry.sizes(chain, size)):
        owned = [place for strip in strips for place in range(*strip.own[level])]
        assert sorted(owned) == list(range(length))


@settings(max_examples=300)
@given(cuttings())
def test_a_strip_computes_what_its_own_positions_depend_on_and_no_pixel_more(
    cutting: tuple[list[Window], int, int, set[int]],
) -> None:
    chain, size, side, taps = cutting
    levels = geometry.sizes(chain, size)
    for strip in geometry.strips(chain, size, side, taps):
        wanted: set[int] = set()
        for level in reversed(range(len(levels))):
            if level in taps:
                wanted |= computed(strip.own[level])
            assert wanted <= computed(strip.need[level])
            # A strip is in one piece: gaps between what is read are computed as well.
            if wanted and all(window.stride <= window.kernel and window.dilation == 1 for window in chain):
                assert (strip.need[level].start, strip.need[level].stop) == (min(wanted), max(wanted) + 1)
            if level:
                wanted = {place for out in wanted for place in read_by(chain[level - 1], out, levels[level - 1])}


@settings(max_examples=300)
@given(cuttings())
def test_padding_is_that_of_the_whole_image_and_only_at_its_border(
    cutting: tuple[list[Window], int, int, set[int]],
) -> None:
    chain, size, side, taps = cutting
    levels = geometry.sizes(chain, size)
    for strip in geometry.strips(chain, size, side, taps):
        for level in range(strip.depth):
            window, read, (before, after) = chain[level], strip.reads[level], strip.padding[level]
            real = read.within(levels[level])
            assert computed(real) <= computed(strip.need[level])
            assert before <= window.before
            assert after <= window.after
            assert before + real.length + after == read.length
            # A layer without padding of its own makes exactly what is needed of what is read.
            alone = Window(window.kernel, window.stride, 0, 0, window.dilation, window.ceil_mode)
            assert alone.outputs(read.length) == strip.need[level + 1].length


@given(cuttings())
def test_strips_are_cut_at_the_alignment_and_no_longer_than_asked(
    cutting: tuple[list[Window], int, int, set[int]],
) -> None:
    chain, size, side, taps = cutting
    strips = geometry.strips(chain, size, side, taps)
    assert all(strip.own[0].start % geometry.alignment(chain) == 0 for strip in strips)
    assert max(strip.own[0].length for strip in strips) <= side


@given(cuttings())
def test_no_strip_needs_pixels_beyond_the_halo(cutting: tuple[list[Window], int, int, set[int]]) -> None:
    chain, size, side, taps = cutting
    before, behind = geometry.halo(chain, taps)
    strips = geometry.strips(chain, size, side, taps)
    for strip in strips[:-1]:  # the last one owns what padding made longer than the image
        if strip.need[0].length:
            assert strip.need[0].start >= strip.own[0].start - before
            assert strip.need[0].stop <= strip.own[0].stop + behind


@given(chain=chains.filter(lambda chain: geometry.alignment(chain) <= 24))
def test_the_receptive_field_is_what_one_position_reads_pixel_by_pixel(chain: list[Window]) -> None:
    field = geometry.field(chain, Span(0, 1))
    reached = {0}
    for window in reversed(chain):
        reached = {
            out * window.stride - window.before + window.dilation * step
            for out in reached
            for step in range(window.kernel)
        }
    assert (field.start, field.stop) == (min(reached), max(reached) + 1)


def test_a_side_below_the_alignment_is_refused_with_the_smallest_that_works() -> None:
    chain = [Window(2, 2), Window(2, 2), Window(2, 2)]
    with pytest.raises(InputError, match="the smallest that this network allows is 8 px"):
        geometry.strips(chain, 64, 7, {3})


def test_an_image_that_a_layer_shrinks_to_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="shrinks 4 px to nothing"):
        geometry.strips([Window(11, 4)], 4, 16, {1})
