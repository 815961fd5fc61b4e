"""Image and gradient by row streams equal those of the whole network, under every plan and with any strips."""

import pytest
import torch

from models.generators import materialise
from models.kl_decoder import kl_decoder
from models.streaming.arena import Arena
from models.streaming.decoder import StreamedDecoder
from models.streaming.forward import ForwardPass
from models.streaming.gradient import GradientPass
from models.streaming.gradient_plans import gradient_plan, smallest_gradient_numbers
from models.streaming.plans import Fused, Paired, Split, forward_plan, smallest_numbers
from models.streaming.trace import trace
from models.streaming.work import Extent
from tests.models.streaming.networks import CPU, distance, latents_of, own_network, plain, small_decoder

HEIGHT, WIDTH = 7, 5
MAPS = (2.0, 1.0, 0.75, 0.5, 0.0)  # 0: the smallest that works
GRADIENT_MAPS = (4.5, *MAPS[:3], 0.6, 0.0)


def streamed(chain, latents, upstream, forward, backward, strip_positions):
    """Image and gradient by these plans."""
    arena = Arena(max(forward.numbers, backward.numbers), latents)
    scale = chain.scales[-1]
    image = torch.full((1, chain.channels[-1], scale * latents.shape[2], scale * latents.shape[3]), torch.nan).to(
        latents
    )
    gradient = torch.full_like(latents, torch.nan)
    with torch.no_grad():
        first = ForwardPass(chain, forward, arena, strip_positions, keep_outputs_of_attention=True)
        first(latents, image)
        GradientPass(chain, backward, arena, first)(latents, upstream, gradient)
    return image, gradient


@pytest.fixture(scope="module")
def whole():
    network, latents = small_decoder(), latents_of(HEIGHT, WIDTH)
    return trace(network, 4), latents, *plain(network, latents)


@pytest.mark.parametrize("maps", MAPS)
def test_image_and_gradient_are_exact_under_every_forward_plan(whole, maps):
    chain, latents, image, upstream, gradient = whole
    extent = Extent(chain, HEIGHT, WIDTH)
    numbers = max(int(maps * extent.size(21)), smallest_numbers(extent))
    ours, ours_back = streamed(chain, latents, upstream, forward_plan(extent, numbers), gradient_plan(extent), 600)
    assert distance(ours, image) < 1e-12
    # A row that is merged twice into the statistics leaves an image nearly right, and not its gradient.
    assert distance(ours_back, gradient) < 1e-12


@pytest.mark.parametrize("maps", GRADIENT_MAPS)
def test_the_gradient_is_exact_under_every_gradient_plan(whole, maps):
    chain, latents, _, upstream, gradient = whole
    extent = Extent(chain, HEIGHT, WIDTH)
    numbers = max(int(maps * extent.size(21)), smallest_gradient_numbers(extent))
    _, ours = streamed(chain, latents, upstream, forward_plan(extent), gradient_plan(extent, numbers), 600)
    assert distance(ours, gradient) < 1e-12


@pytest.mark.parametrize("strip_positions", [1, 97, 10**6])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (3, 1)])
def test_any_strip_and_any_size_give_the_same(height, width, strip_positions):
    network, latents = small_decoder(), latents_of(height, width)
    image, upstream, gradient = plain(network, latents)
    chain = trace(network, 4)
    extent = Extent(chain, height, width)
    forward, backward = forward_plan(extent, extent.size(21)), gradient_plan(extent, 1.5 * extent.size(21))
    ours, ours_back = streamed(chain, latents, upstream, forward, backward, strip_positions)
    assert distance(ours, image) < 1e-12
    assert distance(ours_back, gradient) < 1e-12


def test_a_users_network_with_attention_at_two_places_is_exact():
    network, latents = own_network(), latents_of(5, 6, channels=2)
    image, upstream, gradient = plain(network, latents)
    chain = trace(network, 2)
    extent = Extent(chain, 5, 6)
    for numbers in (smallest_gradient_numbers(extent), 10**9):
        forward, backward = forward_plan(extent, max(numbers, smallest_numbers(extent))), gradient_plan(extent, numbers)
        ours, ours_back = streamed(chain, latents, upstream, forward, backward, 50)
        assert distance(ours, image) < 1e-12
        assert distance(ours_back, gradient) < 1e-12


def test_the_full_decoder_is_exact():
    network = kl_decoder()
    materialise(network, CPU)
    network.double().eval().requires_grad_(False)
    latents = latents_of(2, 3)
    image, upstream, gradient = plain(network, latents)
    decoder = StreamedDecoder(trace(network, 4), 2, 3, latents, gradient=True, strip_positions=64)
    ours = torch.empty_like(image)
    ours_back = decoder.gradient(latents, ours, lambda _: upstream)
    assert distance(ours, image) < 1e-12
    assert distance(ours_back, gradient) < 1e-12


@pytest.mark.parametrize(("dtype", "times"), [(torch.float32, 1.6), (torch.bfloat16, 1.2)])
def test_lower_precisions_are_about_as_far_from_float64_as_the_whole_network(dtype, times):
    network, latents = small_decoder(), latents_of(3, 4)
    latents = latents.to(dtype).double()  # the same numbers in both
    network = network.to(dtype).double()
    exact = network(latents)
    network = network.to(dtype)
    apart = float((network(latents.to(dtype)).double() - exact).norm())
    chain = trace(network, 4)
    for numbers in (None, 2 * 10**6):
        decoder = StreamedDecoder(chain, 3, 4, latents.to(dtype), numbers, strip_positions=100)
        image = torch.empty(exact.shape, dtype=dtype)
        decoder.decode(latents.to(dtype), image)
        assert 0 < float((image.double() - exact).norm()) < times * apart


def test_the_plans_of_these_tests_have_every_kind_of_step(whole):
    extent = Extent(whole[0], HEIGHT, WIDTH)
    kinds = {type(step) for maps in MAPS[:3] for step in forward_plan(extent, int(maps * extent.size(21))).steps}
    assert {Fused, Paired, Split} <= kinds


def test_the_gradient_plans_of_these_tests_keep_whole_maps_and_parts_and_nothing(whole):
    extent = Extent(whole[0], HEIGHT, WIDTH)
    steps = [
        step
        for maps in GRADIENT_MAPS[:-1]
        for portion in gradient_plan(extent, int(maps * extent.size(21))).portions
        for step in portion.steps
    ]
    assert {True, False} == {step.kept is None for step in steps}
    with_kept = [step for step in steps if step.kept is not None]
    assert {True, False} == {step.part_rows > 0 and any(step.kept.part) for step in with_kept}
    assert max(len(kept) for step in with_kept for kept in step.kept.whole) == 4
