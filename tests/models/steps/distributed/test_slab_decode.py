"""One decode over ranks in separate processes, compared with the whole network in one process."""

import dataclasses
from functools import cache

import pytest
import torch

from models.errors import InputError
from models.kl_decoder import KLDecoder
from models.steps.decoding import StreamedForward
from models.steps.distributed.collectives import Communicator
from models.steps.distributed.slab_decode import ConnectedRanks, SlabDecode
from models.steps.distributed.slab_traffic import sent_bytes
from models.steps.tiling.partition import all_reduce_bytes
from models.streaming.arena import Arena
from models.streaming.forward import ForwardPass
from models.streaming.plans import Fused, Paired, Split, forward_plan, smallest_numbers
from models.streaming.slabs import even_slabs
from models.streaming.trace import trace
from models.streaming.work import Extent
from models.workload import Workload
from tests.models.ranks import in_ranks
from tests.models.streaming.networks import distance, latents_of, own_network, small_decoder

# Height, width and strip's positions; arenas in maps of the largest size. 0: the smallest that works.
MAPS = (2.0, 1.0, 0.75, 0.5, 0.0)
CASES = [*((7, 5, 600, maps) for maps in MAPS), (8, 3, 97, 0.75), (3, 2, 1, 2.0), (3, 2, 1, 0.0)]


def plan_of(chain, height, width, maps, ranks):
    extent = Extent(chain, -(-height // ranks), width, height)
    return forward_plan(extent, max(int(maps * extent.size(len(chain.operations) - 1)), smallest_numbers(extent)))


def slab_of(chain, latents, strip_positions, maps):
    """In a rank: its rows of the image."""
    communicator = Communicator.of_default_group()
    _, _, height, width = latents.shape
    ranks = ConnectedRanks(communicator, height)
    plan = plan_of(chain, height, width, maps, communicator.ranks)
    own, scale = latents[:, :, ranks.own.start : ranks.own.stop], chain.scales[-1]
    image = torch.full((1, chain.channels[-1], scale * own.shape[2], scale * width), torch.nan)
    with torch.no_grad():
        ForwardPass(chain, plan, Arena(plan.numbers, latents), strip_positions, ranks=ranks)(own, image)
    return image, communicator.sent_bytes


def slabs():
    """In a rank: its rows of the images of all cases, those of a user's network last."""
    chain = trace(small_decoder(), 4)
    of_decoder = [slab_of(chain, latents_of(height, width), *further) for height, width, *further in CASES]
    own_chain = trace(own_network(), 2)
    return [*of_decoder, *(slab_of(own_chain, latents_of(5, 6, channels=2), 50, maps) for maps in (9.0, 0.0))]


@cache
def recorded_slabs(ranks):
    return in_ranks(ranks, slabs)


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda index: "-".join(map(str, CASES[index])))
def test_the_slabs_of_all_ranks_are_the_image(ranks, case):
    height, width, *_ = CASES[case]
    image = torch.cat([recorded[case][0] for recorded in recorded_slabs(ranks)], 2)
    with torch.no_grad():
        assert distance(image, small_decoder()(latents_of(height, width))) < 1e-12


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("case", [-2, -1])
def test_the_slabs_of_a_users_network_with_two_attentions_are_its_image(ranks, case):
    image = torch.cat([recorded[case][0] for recorded in recorded_slabs(ranks)], 2)
    with torch.no_grad():
        assert distance(image, own_network()(latents_of(5, 6, channels=2))) < 1e-12


class ExactDecode(SlabDecode):
    _stored_as = staticmethod(lambda workload: torch.float64)


class WholeDecode(StreamedForward):
    _stored_as = staticmethod(lambda workload: torch.float64)


WORKLOAD = Workload("", f"{__name__}:narrow_decoder", "cpu", 40, 56, mode="forward", strategy="streamed", batch=2)


def narrow_decoder():
    with torch.device("meta"):
        return KLDecoder((16, 16, 8, 4), groups=2)


def decode(workload, memory_bytes):
    """In a rank: its rows of the images, the loss, the bytes sent by a decode, and by one without communication."""
    step = ExactDecode(dataclasses.replace(workload, memory_bytes=memory_bytes))
    for _ in range(2):
        step()
    sent, image, loss = step.communication().bytes_per_iteration, step._output.clone(), step.loss()
    before = step._communicator.sent_bytes
    if torch.distributed.get_rank() == 0:  # it must not wait for another
        step.communication().iterate_alone()
    return image, loss, sent, step._communicator.sent_bytes - before, step._streams.decoder.plan


@pytest.mark.parametrize("memory_bytes", [0, 149_482_744])
def test_a_decode_over_ranks_computes_images_and_loss_of_one_rank_and_sends_what_the_formula_says(memory_bytes):
    whole = WholeDecode(WORKLOAD)
    whole()
    results = in_ranks(3, decode, WORKLOAD, memory_bytes)
    assert distance(torch.cat([image for image, *_ in results], 2), whole._output) < 1e-12
    assert [loss for _, loss, *_ in results] == pytest.approx([whole.loss()] * 3, rel=1e-4)
    chain, plan = trace(narrow_decoder(), 4), results[0][-1].forward
    # Two images, and the sum of their pixels in float32.
    of_one = sent_bytes(chain, plan, 7, 5, 3, number_bytes=8)
    assert [sent for _, _, sent, _, _ in results] == [2 * sent + all_reduce_bytes(4, 3) for sent in of_one]
    assert [alone for _, _, _, alone, _ in results] == [0, 0, 0]
    assert (Split in map(type, plan.steps)) == bool(memory_bytes)


def test_fewer_rows_than_ranks_are_refused_in_a_sentence():
    with pytest.raises(InputError, match="latents of 2 rows cannot be cut into a slab for each of 3 ranks; give at"):
        ConnectedRanks(Communicator(0, 3, disabled=True), 2)
    assert [slab.stop - slab.start for slab in even_slabs(8, 3)] == [2, 3, 3]


def test_the_plans_of_these_tests_have_every_kind_of_step():
    chain = trace(small_decoder(), 4)
    kinds = {type(step) for maps in MAPS for step in plan_of(chain, 7, 5, maps, 2).steps}
    assert {Fused, Paired, Split} <= kinds
