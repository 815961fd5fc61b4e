"""L-BFGS, compared with that of torch, which reads numbers on the host in every step."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures.worker.operators import OperatorObserver
from models.steps import lbfgs
from models.steps.lbfgs import LBFGS, history_images, message_numbers

SHAPE = (1, 3, 7, 11)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    # Several, and the last one shorter.
    monkeypatch.setattr(lbfgs, "_CPU_CHUNK", 100)


def first_image(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()


def wavy(image: Tensor) -> Tensor:
    """A smooth function with negative curvature here and there, so that pairs are refused."""
    weights = torch.linspace(0.5, 3, image.numel(), dtype=image.dtype).view_as(image)
    return (weights * image.square()).sum() / 2 + 0.7 * torch.sin(4 * image).sum() + image.mean().square()


def torchs(image: Tensor, history: int) -> torch.optim.Optimizer:
    return torch.optim.LBFGS([image], lr=1.0, max_iter=1, history_size=history)


def trajectory(
    optimizer: torch.optim.Optimizer, function: Callable[[Tensor], Tensor] = wavy, steps: int = 40
) -> list[Tensor]:
    [image] = optimizer.param_groups[0]["params"]

    def evaluate() -> Tensor:
        loss = function(image)
        [image.grad] = torch.autograd.grad(loss, image)
        return loss.detach()

    images = []
    for _ in range(steps):
        optimizer.step(evaluate)  # type: ignore[arg-type]
        images.append(image.detach().clone())
    return images


@pytest.mark.parametrize("history", [1, 2, 5, 10, 60])
def test_images_are_those_of_torch_until_long_after_the_history_is_full(history: int) -> None:
    ours, theirs = (trajectory(make(first_image(), history)) for make in (LBFGS, torchs))
    assert (theirs[-1] - theirs[0]).norm() > 1
    for own, expected in zip(ours, theirs, strict=True):
        assert (own - expected).norm() / expected.norm() < 1e-9


def test_a_pair_of_negative_curvature_is_refused_as_torch_does_and_the_oldest_one_stays() -> None:
    accepted = []
    image = first_image()
    optimizer = torchs(image, 3)
    for _ in range(40):
        before = optimizer.state[image].get("old_dirs", [])
        newest = before[-1] if before else None
        trajectory(optimizer, steps=1)
        history = optimizer.state[image]["old_dirs"]
        accepted.append(bool(history) and history[-1] is not newest)
    refused_when_full = accepted[6:].count(False)
    assert refused_when_full > 1
    assert accepted[6:].count(True) > 10


def test_the_first_step_is_no_longer_than_1_in_the_1_norm() -> None:
    image = first_image()
    start = image.detach().clone()
    [moved] = trajectory(LBFGS(image, 3), lambda image: 100 * image.square().sum(), steps=1)
    assert float((moved - start).abs().sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("factor", [1e-8, 0.0])
def test_an_image_with_a_small_gradient_stays_as_it_is(factor: float) -> None:
    image = first_image()
    start = image.detach().clone()
    for moved in trajectory(LBFGS(image, 3), lambda image: factor * image.sum(), steps=4):
        assert torch.equal(moved, start)


def test_the_first_step_after_a_small_gradient_is_that_of_torch() -> None:
    calls = [0]

    def flat_at_first(image: Tensor) -> Tensor:
        calls[0] += 1
        return 0.0 * image.sum() if calls[0] < 3 else 100 * wavy(image)

    ours = trajectory(LBFGS(first_image(), 3), flat_at_first, steps=12)
    calls[0] = 0
    torch.testing.assert_close(ours, trajectory(torchs(first_image(), 3), flat_at_first, steps=12), rtol=0, atol=1e-9)


def test_a_minimum_that_is_reached_ends_the_movement() -> None:
    images = trajectory(LBFGS(first_image(), 5), lambda image: (image - 0.25).square().sum(), steps=60)
    assert (images[-1] - 0.25).abs().max() < 1e-6
    assert torch.equal(images[-2], images[-1])


def test_nan_in_the_gradient_reaches_the_image_instead_of_counting_as_small() -> None:
    images = trajectory(LBFGS(first_image(), 3), lambda image: (image * float("nan")).sum(), steps=2)
    assert images[-1].isnan().all()


@pytest.mark.parametrize("history", [1, 10])
def test_float32_stays_near_float64(history: int) -> None:
    exact, rounded = (
        trajectory(LBFGS(first_image(dtype), history), steps=12) for dtype in (torch.float64, torch.float32)
    )
    assert (exact[-1] - rounded[-1]).norm() / exact[-1].norm() < 1e-3


class HostReads(OperatorObserver):
    """Counts the numbers that the host reads from tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def observe(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        del args, kwargs, result
        self.reads += func is torch.ops.aten._local_scalar_dense.default


@pytest.mark.parametrize(("make", "reads"), [(LBFGS, 0), (torchs, 2 * 10 + 4)])
def test_no_number_is_read_on_the_host_where_torch_reads_two_for_each_pair_and_four(
    make: Callable[[Tensor, int], torch.optim.Optimizer], reads: int
) -> None:
    image = first_image()
    optimizer = make(image, 10)
    trajectory(optimizer, steps=30)
    image.grad = torch.ones_like(image)
    with HostReads() as counter:
        optimizer.step(lambda: image.new_zeros(()))  # type: ignore[arg-type, return-value]
    assert counter.reads == reads


def test_memory_of_the_history_is_complete_after_the_first_step() -> None:
    image = first_image(torch.float32)
    optimizer = LBFGS(image, 4)
    trajectory(optimizer, steps=1)
    first = {key: value.data_ptr() for key, value in optimizer.state[image].items()}
    trajectory(optimizer, steps=9)
    assert {key: value.data_ptr() for key, value in optimizer.state[image].items()} == first
    assert optimizer.state[image]["rows"].nbytes == history_images(4) * image.nbytes


def test_an_image_that_is_a_view_is_moved_where_it_is() -> None:
    whole = torch.zeros(1, 3, 7, 15, dtype=torch.float64)
    part = whole[..., 2:13]
    part.copy_(first_image().detach())
    images = trajectory(LBFGS(part.requires_grad_(), 5), steps=12)
    torch.testing.assert_close(images, trajectory(LBFGS(first_image(), 5), steps=12))
    assert torch.equal(whole[..., 2:13], images[-1])
    assert not whole[..., :2].any()


def test_all_sums_over_pixels_are_handed_over_in_one_tensor() -> None:
    handed = []
    optimizer = LBFGS(first_image(), 5, sum_over_ranks=lambda sums: handed.append(sums.shape))
    trajectory(optimizer, steps=3)
    assert handed == [(message_numbers(5),)] * 3


def test_a_history_without_a_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="a history of 0 pairs; L-BFGS needs at least 1"):
        LBFGS(first_image(), 0)
