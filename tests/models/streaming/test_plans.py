"""Plans: their work by torch's flop counter, and the figures for large images, without computing any."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.kl_decoder import kl_decoder
from models.streaming.decoder import TooLittleMemory, plan_for
from models.streaming.gradient_plans import gradient_plan, smallest_gradient_numbers
from models.streaming.plans import forward_plan, smallest_numbers
from models.streaming.trace import trace
from models.streaming.work import Extent
from tests.models.streaming.networks import latents_of, small_decoder
from tests.models.streaming.test_streams import streamed

GIB = 2**30


@pytest.fixture(scope="module")
def chain():
    return trace(kl_decoder(), 4)


def convolutions(run):
    """Multiply-adds of the convolutions of a call, by torch's flop counter."""
    with FlopCounterMode(display=False) as counter:
        run()
    counts = counter.get_flop_counts()["Global"]
    return sum(count for operator, count in counts.items() if "convolution" in str(operator)) / 2


@pytest.mark.parametrize(("maps", "back_maps"), [(2.0, 2.0), (1.0, 1.0), (0.8, 0.6)])
def test_the_work_of_a_plan_is_that_which_torch_counts(maps, back_maps):
    # High, so that rows at the edges of parts of maps, which are computed again and not counted, are few.
    network, latents = small_decoder(), latents_of(48, 1)
    small = trace(network, 4)
    extent = Extent(small, 48, 1)
    forward = forward_plan(extent, maps * extent.size(21))
    backward = gradient_plan(extent, back_maps * extent.size(21))
    upstream = torch.zeros(1, 3, 384, 8, dtype=latents.dtype)
    counted = convolutions(lambda: streamed(small, latents, upstream, forward, backward, 2000))
    assert forward.work + backward.work == pytest.approx(counted, rel=0.02)
    assert extent.plain() == pytest.approx(convolutions(lambda: network(latents)), rel=1e-9)


# Of the table in docs/exact-decoding.md.
@pytest.mark.parametrize(
    ("width", "height", "dtype", "gib", "times"),
    [
        (7680, 4320, torch.bfloat16, 8.6, 1.1),
        (7680, 4320, torch.bfloat16, 6.1, 1.9),
        (7680, 4320, torch.float32, 17.0, 1.1),
        (7680, 4320, torch.float32, 12.2, 1.9),
        (3840, 2160, torch.float32, 4.6, 1.1),
    ],
)
def test_large_images_fit_into_little_memory_with_little_more_work(chain, width, height, dtype, gib, times):
    weights = 49_490_199 * dtype.itemsize
    plan = plan_for(chain, height // 8, width // 8, dtype, int(gib * GIB) - weights)
    assert plan.peak_bytes + weights <= gib * GIB
    assert plan.relative_convolutions <= times


@pytest.mark.parametrize(("side", "gib"), [(2048, 3.0), (4096, 10.0)])
def test_gradients_of_large_images_fit(chain, side, gib):
    weights = 49_490_199 * 4
    plan = plan_for(chain, side // 8, side // 8, torch.float32, int(gib * GIB) - weights, gradient=True)
    assert plan.peak_bytes + weights <= gib * GIB


@pytest.mark.parametrize(("maps", "times"), [(1.0, 3.45), (1.5, 2.85), (2.0, 2.5)])
def test_forward_and_gradient_take_little_more_work_with_as_many_maps_as_forward(chain, maps, times):
    extent = Extent(chain, 128, 128)
    numbers = maps * extent.size(21)
    forward, backward = forward_plan(extent, numbers), gradient_plan(extent, numbers)
    assert forward.work + backward.work <= times * 2 * extent.plain()


def test_more_memory_never_takes_more_work(chain):
    extent = Extent(chain, 64, 64)
    least, most = smallest_numbers(extent), 2 * extent.size(21)
    works = [forward_plan(extent, least + (most - least) * part / 12).work for part in range(13)]
    assert works == sorted(works, reverse=True)
    assert works[-1] == forward_plan(extent, math.inf).work < extent.plain()


def test_below_the_smallest_plan_there_is_none(chain):
    extent = Extent(chain, 30, 20)
    assert forward_plan(extent, smallest_numbers(extent)) is not None
    assert forward_plan(extent, smallest_numbers(extent) - 1) is None
    assert gradient_plan(extent, smallest_gradient_numbers(extent)) is not None
    assert gradient_plan(extent, smallest_gradient_numbers(extent) - 1) is None


def test_a_budget_that_is_too_small_is_refused_with_what_it_takes(chain):
    with pytest.raises(TooLittleMemory, match=r"1024x512 px takes (\d+\.\d+) GiB .* 0.01 GiB are left") as raised:
        plan_for(chain, 64, 128, torch.float32, GIB // 100)
    needed = float(str(raised.value).split(" takes ")[1].split(" GiB")[0])
    assert plan_for(chain, 64, 128, torch.float32, int((needed + 0.01) * GIB)).peak_bytes <= (needed + 0.01) * GIB
