"""One image over ranks in separate processes, compared with the whole image in one process."""

import dataclasses
import math
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from models.steps.distributed.collectives import Communicator
from models.steps.distributed.sharded import MiddleShard, ShardedStyleIteration, most_sent_bytes
from models.steps.lbfgs import message_numbers
from models.steps.objectives import PlainObjective
from models.steps.style import style_task
from models.steps.tiling.chain import TileChain
from models.steps.tiling.partition import Partition, all_reduce_bytes, style_volume_bytes
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
    """The results of one iteration, on a rank or for the whole image."""

    loss: float
    gradient: Tensor
    image: Tensor
    sent_bytes: int = 0


def iterations(workload: Workload, count: int) -> list[Iteration]:
    """In a rank."""
    step: Any = build(workload)
    done = []
    for _ in range(count):
        step()
        sent_bytes = step.communication().bytes_per_iteration
        done.append(Iteration(step.loss(), step.owned.grad, step.owned.detach().clone(), sent_bytes))
    return done


@cache
def recorded_iterations(ranks: int, workload: Workload) -> list[list[Iteration]]:
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


def partition(workload: Workload, ranks: int) -> Partition:
    network = odd_chain()
    return TileChain(network).partition(workload.height, workload.width, workload.tile_px, ranks)


def concatenated(workload: Workload, parts: list[Tensor]) -> Tensor:
    return torch.cat(parts, dim=partition(workload, len(parts)).axis)


def deviation(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize("workload", NAMES, ids=NAMES.get)
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_loss_gradient_and_image_are_those_of_the_whole_image(workload: Workload, ranks: int) -> None:
    by_rank = recorded_iterations(ranks, workload)
    for number, expected in enumerate(plain_iterations(workload, 3)):
        parts = [recorded[number] for recorded in by_rank]
        assert {part.loss for part in parts} == {parts[0].loss}
        assert parts[0].loss == pytest.approx(expected.loss, rel=1e-12)
        assert deviation(concatenated(workload, [part.gradient for part in parts]), expected.gradient) < 1e-12
        assert deviation(concatenated(workload, [part.image for part in parts]), expected.image) < 1e-12


def test_a_rank_without_tiles_takes_part_in_all_communication() -> None:
    small = dataclasses.replace(LANDSCAPE, width=64, height=40)
    by_rank = in_ranks(3, iterations, small, 3)
    assert not partition(small, 3).parts[2].tiles
    for number, expected in enumerate(plain_iterations(small, 3)):
        assert [recorded[number].loss for recorded in by_rank] == pytest.approx([expected.loss] * 3, rel=1e-12)
        assert deviation(concatenated(small, [recorded[number].image for recorded in by_rank]), expected.image) < 1e-12


def losses_after_an_infinite_pixel(workload: Workload) -> list[float | None]:
    """In a rank: one pixel of rank 0 becomes infinite after the first iteration."""
    step: Any = build(workload)
    losses = []
    for number in range(3):
        if number == 1 and torch.distributed.get_rank() == 0:
            step.owned.detach()[..., 0, 0] = math.inf
        step()
        losses.append(step.loss())
    return losses


@pytest.mark.parametrize("workload", NAMES, ids=NAMES.get)
def test_infinite_pixels_cause_no_deadlock(workload: Workload) -> None:
    for first, *others in in_ranks(2, losses_after_an_infinite_pixel, workload):
        assert math.isfinite(first)
        assert not any(math.isfinite(loss) for loss in others)


def iterations_with_isolated_ones(workload: Workload) -> tuple[list[Iteration], int]:
    """In a rank: iterations, and the bytes sent by iterations without communication in between."""
    step: Any = build(workload)
    done = []
    isolated_bytes = 0
    for _ in range(3):
        step()
        sent_bytes = step.communication().bytes_per_iteration
        done.append(Iteration(step.loss(), step.owned.grad.clone(), step.owned.detach().clone(), sent_bytes))
        before = step._communicator.sent_bytes
        # Only one rank makes the call: it must not wait for another.
        if torch.distributed.get_rank() == 0:
            step.communication().iterate_alone()
        isolated_bytes += step._communicator.sent_bytes - before
    return done, isolated_bytes


def test_an_iteration_without_communication_sends_nothing_and_does_not_change_other_iterations() -> None:
    expected = recorded_iterations(2, LANDSCAPE)
    results = in_ranks(2, iterations_with_isolated_ones, LANDSCAPE)
    for rank, (actual, isolated_bytes) in enumerate(results):
        assert isolated_bytes == 0
        assert [one.loss for one in actual] == [one.loss for one in expected[rank]]
        assert all(map(torch.equal, (one.image for one in actual), (one.image for one in expected[rank])))


@pytest.mark.parametrize("workload", NAMES, ids=NAMES.get)
def test_a_rank_sends_as_many_bytes_as_the_formula_says(workload: Workload) -> None:
    ranks = 3
    channels = [8, 12, 8, 8]  # of the style layers of odd_chain
    for rank, actual in enumerate(recorded_iterations(ranks, workload)):
        sums = message_numbers(workload.lbfgs_history) if workload.optimizer == "lbfgs" else 0
        pixels = partition(workload, ranks).exchanged_pixels(rank)
        assert actual[2].sent_bytes == style_volume_bytes(channels, pixels, ranks, sums, number_bytes=8)


def test_an_all_reduce_sends_twice_the_message_less_two_shares_of_it() -> None:
    assert [all_reduce_bytes(1200, ranks) for ranks in (1, 2, 3, 4)] == [0, 1200, 1600, 1800]


def sent_bytes_in_float32(workload: Workload) -> int:
    """In a rank."""
    torch.set_default_dtype(torch.float32)
    step: Any = build(workload)
    step()
    return step.communication().bytes_per_iteration


@pytest.mark.parametrize("workload", NAMES, ids=NAMES.get)
def test_ranks_send_as_many_bytes_as_the_plan_predicts(workload: Workload) -> None:
    workload = dataclasses.replace(workload, ranks=3, lbfgs_history=4)
    assert max(in_ranks(3, sent_bytes_in_float32, workload)) == most_sent_bytes(workload)


def test_the_middle_rank_of_a_group_can_run_without_the_others() -> None:
    step = MiddleShard(dataclasses.replace(PORTRAIT, ranks=3))
    step()
    assert step.owned.shape == (1, 3, partition(PORTRAIT, 3).parts[1].owned.length, PORTRAIT.width)
    assert step.communication().bytes_per_iteration == 0


def test_ranks_of_vgg19_compute_the_gradient_of_the_whole_image() -> None:
    workload = dataclasses.replace(PORTRAIT, model="models.vgg:vgg19", width=75, height=48, tile_px=48)
    [expected] = plain_iterations(workload, 1)
    by_rank = in_ranks(2, iterations, workload, 1)
    assert deviation(torch.cat([recorded[0].gradient for recorded in by_rank], dim=3), expected.gradient) < 1e-12


def reported_tiles(workload: Workload) -> list[tuple[int, int]]:
    """In a rank."""
    step: Any = build(workload)
    reported: list[tuple[int, int]] = []
    step.on_progress(lambda done, total: reported.append((done, total)))
    step()
    return reported


def test_each_rank_reports_its_own_tiles() -> None:
    for part, reported in zip(partition(PORTRAIT, 2).parts, in_ranks(2, reported_tiles, PORTRAIT), strict=True):
        total = 2 * len(part.tiles)
        assert reported == [(done, total) for done in range(1, total + 1)]


def test_the_ranks_together_store_one_image_and_one_content_target() -> None:
    ranks = 3
    steps = [ShardedStyleIteration(PORTRAIT, Communicator(rank, ranks, disabled=True)) for rank in range(ranks)]
    assert sum(step.owned.numel() for step in steps) == 3 * PORTRAIT.width * PORTRAIT.height
    whole = PlainObjective(style_task(PORTRAIT))._content_target
    assert sum(step._passes._content_target.numel() for step in steps) == whole.numel()
    for step, part in zip(steps, partition(PORTRAIT, ranks).parts, strict=True):
        assert step._local_image.pixels.shape[2] == part.local.length < PORTRAIT.height
