"""The partition of an image over ranks."""

import pytest
import torch

from models.steps.tiling.chain import TileChain
from models.steps.tiling.geometry import Span
from models.steps.tiling.partition import balanced_cuts
from models.vgg import vgg19


def chain() -> TileChain:
    with torch.device("meta"):
        network = vgg19()
    return TileChain(network)


@pytest.mark.parametrize(("height", "width"), [(1024, 1024), (331, 1277), (1500, 40), (16, 16)])
@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_every_pixel_is_owned_by_exactly_one_rank(height: int, width: int, ranks: int) -> None:
    partition = chain().partition(height, width, 512, ranks)
    assert [part.owned.start for part in partition.parts] == [0, *(part.owned.stop for part in partition.parts[:-1])]
    assert partition.parts[-1].owned.stop == max(height, width)
    assert partition.uncut_side_px == min(height, width)


@pytest.mark.parametrize("ranks", [1, 2, 5, 8])
def test_the_local_pixels_of_a_rank_are_exactly_those_that_its_tiles_read(ranks: int) -> None:
    partition = chain().partition(200, 1200, 128, ranks)
    for part in partition.parts:
        spans = [tile.columns.computed[0] for tile in part.tiles]
        assert min(span.start for span in spans) == 0
        assert max(span.stop for span in spans) == part.local.length


def test_inner_ranks_own_fewer_pixels_because_they_have_two_halos() -> None:
    parts = chain().partition(1024, 512, 512, 4).parts
    first, second, third, last = (part.owned.length for part in parts)
    assert first == last > second == third
    lengths = [part.local.length for part in parts]
    assert max(lengths) < 1.2 * min(lengths)


def test_two_ranks_have_halves() -> None:
    partition = chain().partition(1024, 1024, 512, 2)
    assert [part.owned for part in partition.parts] == [Span(0, 512), Span(512, 1024)]
    assert [len(part.tiles) for part in partition.parts] == [2, 2]


def test_balanced_cuts_minimise_the_largest_work_of_a_part() -> None:
    work = [9, 1, 1, 1, 5, 5, 2]
    cuts = balanced_cuts(len(work), 3, lambda start, stop: sum(work[start:stop]))
    assert cuts == [0, 1, 5, 7]


def test_with_more_ranks_than_positions_the_last_ranks_own_nothing() -> None:
    partition = chain().partition(48, 16, 512, 5)
    assert [part.owned.length for part in partition.parts] == [16, 16, 16, 0, 0]
    assert not partition.parts[4].tiles
