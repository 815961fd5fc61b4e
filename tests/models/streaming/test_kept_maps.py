"""What is kept between the passes of a gradient, of the last part of `kl_decoder`."""

import pytest

from models.kl_decoder import kl_decoder
from models.streaming.gradient_graph import graph_of
from models.streaming.kept_maps import best_kept
from models.streaming.trace import trace
from models.streaming.work import gradient_work

SOURCE, STOP = 16, 22


@pytest.fixture(scope="module")
def chain():
    return trace(kl_decoder(), 4)


def test_without_places_every_pass_computes_all_again(chain):
    nothing = best_kept(chain, SOURCE, STOP, 0, False)
    assert nothing.work == gradient_work(chain, SOURCE, SOURCE, STOP)
    assert set(nothing.whole) == {frozenset()}


def test_every_place_and_every_row_saves_work(chain):
    works = [
        best_kept(chain, SOURCE, STOP, places, False, share).work
        for places, share in ((0, 0.0), (0, 0.5), (1, 0.0), (1, 0.5), (2, 0.0), (3, 0.0), (4, 0.0))
    ]
    assert works == sorted(set(works), reverse=True)


def test_no_more_is_kept_than_there_are_places_and_in_part_no_map_that_was_whole(chain):
    kept = best_kept(chain, 12, SOURCE, 2, True, 0.5)
    assert max(map(len, kept.whole)) == 2
    before = frozenset({graph_of(chain, 12, 12, SOURCE).incoming})
    for whole, part in zip(kept.whole, kept.part, strict=True):
        assert part not in before | whole
        before = whole


def test_a_gradient_without_a_place_cannot_be_taken_on(chain):
    assert best_kept(chain, 12, SOURCE, 0, True) is None
