"""One image over ranks that are real processes, against the whole image in one."""

import dataclasses
import math
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from models.steps.distributed.collectives import Exchange
from models.steps.distributed.sharded import MiddleShard, ShardedStyleIteration, most_sent_bytes
from models.steps.objectives import PlainObjective
from models.steps.style import style_task
from models.steps.tiling.chain import TileChain
from models.steps.tiling.partition import Bands, all_reduce_bytes, style_volume_bytes
from models.workload import Workload, build
from tests.models.ranks import in_ranks
from tests.models.steps.tiling.test_tiled import odd_chain

PORTRAIT = Workload(
    "models.steps.distributed.sharded:ShardedStyleIteration",
    "tests.models.steps.tiling.test_tiled:odd_chain",
    "cpu",
    width=97,
    height=185,
    tile_px=64,
)
LANDSCAPE = dataclasses.replace(PORTRAIT, width=175, height=66, tile_px=70, optimizer="lbfgs")
NAMES = {PORTRAIT: "portrait-adam", LANDSCAPE: "landscape-lbfgs"}

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


class Iteration(NamedTuple):
    """What is known of one iteration: on a rank, or of the whole image."""

    loss: float
    gradient: Tensor
    image: Tensor
    sent_bytes: int = 0


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def iterations(workload: Workload, count: int) -> list[Iteration]:
    """In a rank."""
    step: Any = build(workload)
    done = []
    for _ in range(count):
        step()
        sent_bytes = step.communication().bytes_per_iteration
        done.append(Iteration(step.loss(), step.own.grad, step.own.detach().clone(), sent_bytes))
    return done


@cache
def of_ranks(ranks: int, workload: Workload) -> list[list[Iteration]]:
    """Three iterations of each rank."""
    return in_ranks(ranks, iterations, workload, 3)


def plain_iterations(workload: Workload, count: int) -> list[Iteration]:
    torch.manual_seed(workload.seed)
    step: Any = build(dataclasses.replace(workload, step="models.steps.style:StyleIteration"))
    done = []
    for _ in range(count):
        step()
        done.append(Iteration(step.loss(), step.image().grad, step.image().detach().clone()))
    return done


def bands(workload: Workload, ranks: int) -> Bands:
    network = odd_chain()
    return TileChain(network, network.taps).bands(workload.height, workload.width, workload.tile_px, ranks)


def joined(workload: Workload, parts: list[Tensor]) -> Tensor:
    return torch.cat(parts, dim=bands(workload, len(parts)).axis)


def deviation(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("workload", NAMES, ids=NAMES.get)
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_loss_gradient_and_image_are_those_of_the_whole_image(workload: Workload, ranks: int) -> None:
    found = of_ranks(ranks, workload)
    for number, wanted in enumerate(plain_iterations(workload, 3)):
        parts = [of_rank[number] for of_rank in found]
        assert {part.loss for part in parts} == {parts[0].loss}
        assert parts[0].loss == pytest.approx(wanted.loss, rel=1e-12)
        assert deviation(joined(workload, [part.gradient for part in parts]), wanted.gradient) < 1e-12
        assert deviation(joined(workload, [part.image for part in parts]), wanted.image) < 1e-12


def test_a_rank_without_tiles_stays_in_step() -> None:
    small = dataclasses.replace(LANDSCAPE, width=64, height=40)
    found = in_ranks(3, iterations, small, 3)
    assert not bands(small, 3).of_ranks[2].tiles
    for number, wanted in enumerate(plain_iterations(small, 3)):
        assert [of_rank[number].loss for of_rank in found] == pytest.approx([wanted.loss] * 3, rel=1e-12)
        assert deviation(joined(small, [of_rank[number].image for of_rank in found]), wanted.image) < 1e-12


def losses_after_a_bad_pixel(workload: Workload) -> list[float | None]:
    """In a rank: one pixel of the first rank's becomes infinite after the first iteration."""
    step: Any = build(workload)
    losses = []
    for number in range(3):
        if number == 1 and torch.distributed.get_rank() == 0:
            step.own.detach()[..., 0, 0] = math.inf
        step()
        losses.append(step.loss())
    return losses


@pytest.mark.parametrize("workload", NAMES, ids=NAMES.get)
def test_numbers_that_are_not_finite_put_nobody_out_of_step(workload: Workload) -> None:
    for first, *others in in_ranks(2, losses_after_a_bad_pixel, workload):
        assert math.isfinite(first)
        assert not any(math.isfinite(loss) for loss in others)


def iterations_beside_silent_ones(workload: Workload) -> tuple[list[Iteration], int]:
    """In a rank: the same iterations, and the bytes of those between them that send nothing."""
    step: Any = build(workload)
    done = []
    silent_bytes = 0
    for _ in range(3):
        step()
        sent_bytes = step.communication().bytes_per_iteration
        done.append(Iteration(step.loss(), step.own.grad.clone(), step.own.detach().clone(), sent_bytes))
        before = step._exchange.sent_bytes
        # Only one rank makes the call: it waits for nobody.
        if torch.distributed.get_rank() == 0:
            step.communication().iterate_alone()
        silent_bytes += step._exchange.sent_bytes - before
    return done, silent_bytes


def test_an_iteration_without_communication_sends_nothing_and_leaves_the_others_as_they_are() -> None:
    wanted = of_ranks(2, LANDSCAPE)
    beside_silent_ones = in_ranks(2, iterations_beside_silent_ones, LANDSCAPE)
    for rank, (found, silent_bytes) in enumerate(beside_silent_ones):
        assert silent_bytes == 0
        assert [one.loss for one in found] == [one.loss for one in wanted[rank]]
        assert all(map(torch.equal, (one.image for one in found), (one.image for one in wanted[rank])))


@pytest.mark.parametrize("workload", NAMES, ids=NAMES.get)
def test_what_a_rank_sends_is_what_the_formula_says(workload: Workload) -> None:
    ranks = 3
    channels = [8, 12, 8, 8]  # of the style layers of odd_chain
    for rank, found in enumerate(of_ranks(ranks, workload)):
        history = 2 if workload.optimizer == "lbfgs" else 0  # the first pair is there in the second iteration
        pixels = bands(workload, ranks).exchanged_pixels(rank)
        assert found[2].sent_bytes == style_volume_bytes(channels, pixels, ranks, history, number_bytes=8)


def test_a_sum_over_ranks_takes_twice_the_message_but_for_the_own_part() -> None:
    assert [all_reduce_bytes(1200, ranks) for ranks in (1, 2, 3, 4)] == [0, 1200, 1600, 1800]


def sent_bytes_in_float32(workload: Workload) -> int:
    """In a rank."""
    torch.set_default_dtype(torch.float32)
    step: Any = build(workload)
    step()
    return step.communication().bytes_per_iteration


def test_what_a_plan_says_of_a_group_is_what_its_ranks_send() -> None:
    workload = dataclasses.replace(PORTRAIT, ranks=3)
    assert max(in_ranks(3, sent_bytes_in_float32, workload)) == most_sent_bytes(workload)


def test_a_rank_of_a_group_that_is_not_here_can_be_run_alone() -> None:
    step = MiddleShard(dataclasses.replace(PORTRAIT, ranks=3))
    step()
    assert step.own.shape == (1, 3, bands(PORTRAIT, 3).of_ranks[1].own.length, PORTRAIT.width)
    assert step.communication().bytes_per_iteration == 0


def test_ranks_of_vgg19_find_the_gradient_of_the_whole_image() -> None:
    workload = dataclasses.replace(PORTRAIT, model="models.vgg:vgg19", width=75, height=48, tile_px=48)
    [wanted] = plain_iterations(workload, 1)
    found = in_ranks(2, iterations, workload, 1)
    assert deviation(torch.cat([of_rank[0].gradient for of_rank in found], dim=3), wanted.gradient) < 1e-12


def told_of_tiles(workload: Workload) -> list[tuple[int, int]]:
    """In a rank."""
    step: Any = build(workload)
    told: list[tuple[int, int]] = []
    step.on_progress(lambda done, every: told.append((done, every)))
    step()
    return told


def test_each_rank_tells_of_its_own_tiles() -> None:
    for share, told in zip(bands(PORTRAIT, 2).of_ranks, in_ranks(2, told_of_tiles, PORTRAIT), strict=True):
        every = 2 * len(share.tiles)
        assert told == [(done, every) for done in range(1, every + 1)]


def test_what_the_ranks_keep_is_one_image_and_one_content_target_between_them() -> None:
    ranks = 3
    steps = [ShardedStyleIteration(PORTRAIT, Exchange(rank, ranks, silent=True)) for rank in range(ranks)]
    assert sum(step.own.numel() for step in steps) == 3 * PORTRAIT.width * PORTRAIT.height
    whole = PlainObjective(style_task(PORTRAIT))._content_target
    assert sum(step._passes._content_target.numel() for step in steps) == whole.numel()
    for step, share in zip(steps, bands(PORTRAIT, ranks).of_ranks, strict=True):
        assert step._canvas.window.shape[2] == share.window.length < PORTRAIT.height
