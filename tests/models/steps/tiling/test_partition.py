"""How an image is shared out: integers alone."""

import pytest
import torch

from models.steps.tiling.chain import TileChain
from models.steps.tiling.geometry import Span
from models.steps.tiling.partition import balanced_cuts
from models.vgg import vgg19


def chain() -> TileChain:
    with torch.device("meta"):
        network = vgg19()
    return TileChain(network, network.taps)


@pytest.mark.parametrize(("height", "width"), [(1024, 1024), (331, 1277), (1500, 40), (16, 16)])
@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_every_pixel_is_kept_by_exactly_one_rank(height: int, width: int, ranks: int) -> None:
    bands = chain().bands(height, width, 512, ranks)
    assert [part.own.start for part in bands.of_ranks] == [0, *(part.own.stop for part in bands.of_ranks[:-1])]
    assert bands.of_ranks[-1].own.stop == max(height, width)
    assert bands.across_px == min(height, width)


@pytest.mark.parametrize("ranks", [1, 2, 5, 8])
def test_a_window_holds_what_the_tiles_need_and_nothing_else(ranks: int) -> None:
    bands = chain().bands(200, 1200, 128, ranks)
    for part in bands.of_ranks:
        needs = [tile.columns.need[0] for tile in part.tiles]
        assert min(need.start for need in needs) == 0
        assert max(need.stop for need in needs) == part.window.length


def test_inner_bands_are_thinner_because_they_have_two_halos() -> None:
    bands = chain().bands(1024, 512, 512, 4).of_ranks
    first, second, third, last = (part.own.length for part in bands)
    assert first == last > second == third
    windows = [part.window.length for part in bands]
    assert max(windows) < 1.2 * min(windows)


def test_two_ranks_have_halves() -> None:
    bands = chain().bands(1024, 1024, 512, 2)
    assert [part.own for part in bands.of_ranks] == [Span(0, 512), Span(512, 1024)]
    assert [len(part.tiles) for part in bands.of_ranks] == [2, 2]


def test_the_largest_part_is_the_smallest_that_can_be() -> None:
    amounts = [9, 1, 1, 1, 5, 5, 2]
    cuts = balanced_cuts(len(amounts), 3, lambda start, stop: sum(amounts[start:stop]))
    assert cuts == [0, 1, 5, 7]


def test_more_ranks_than_positions_leave_the_last_with_nothing() -> None:
    bands = chain().bands(48, 16, 512, 5)
    assert [part.own.length for part in bands.of_ranks] == [16, 16, 16, 0, 0]
    assert not bands.of_ranks[4].tiles
