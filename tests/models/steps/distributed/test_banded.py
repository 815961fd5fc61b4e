"""One decode over ranks in separate processes, compared with the whole network in one process."""

from functools import cache

import pytest
import torch

from models.errors import InputError
from models.steps.distributed.banded import ConnectedRanks
from models.steps.distributed.collectives import Communicator
from models.streaming.arena import Arena
from models.streaming.bands import even_bands
from models.streaming.forward import ForwardPass
from models.streaming.plans import Fused, Paired, Split, forward_plan, smallest_numbers
from models.streaming.trace import trace
from models.streaming.work import Extent
from tests.models.ranks import in_ranks
from tests.models.streaming.networks import distance, latents_of, own_network, small_decoder

# Height, width and strip's positions; arenas in maps of the largest size. 0: the smallest that works.
SIZES = ((7, 5, 600), (9, 3, 97), (3, 2, 1))
MAPS = (2.0, 1.0, 0.75, 0.5, 0.0)
CASES = [(*size, maps) for size in SIZES for maps in MAPS]


@pytest.fixture(autouse=True)
def float64():
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def plan_of(chain, height, width, maps, ranks):
    extent = Extent(chain, -(-height // ranks), width, height)
    return forward_plan(extent, max(int(maps * extent.size(len(chain.operations) - 1)), smallest_numbers(extent)))


def band_of(chain, latents, strip_positions, maps):
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


def bands():
    """In a rank: its rows of the images of all cases, those of a user's network last."""
    chain = trace(small_decoder(), 4)
    of_decoder = [band_of(chain, latents_of(height, width), *further) for height, width, *further in CASES]
    own_chain = trace(own_network(), 2)
    return [*of_decoder, *(band_of(own_chain, latents_of(5, 6, channels=2), 50, maps) for maps in (9.0, 0.0))]


@cache
def recorded_bands(ranks):
    return in_ranks(ranks, bands)


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda index: "-".join(map(str, CASES[index])))
def test_the_bands_of_all_ranks_are_the_image(ranks, case):
    height, width, *_ = CASES[case]
    image = torch.cat([recorded[case][0] for recorded in recorded_bands(ranks)], 2)
    with torch.no_grad():
        assert distance(image, small_decoder()(latents_of(height, width))) < 1e-12


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("case", [-2, -1])
def test_the_bands_of_a_users_network_with_two_attentions_are_its_image(ranks, case):
    image = torch.cat([recorded[case][0] for recorded in recorded_bands(ranks)], 2)
    with torch.no_grad():
        assert distance(image, own_network()(latents_of(5, 6, channels=2))) < 1e-12
