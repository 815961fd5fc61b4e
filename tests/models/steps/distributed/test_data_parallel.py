"""Training over ranks in separate processes, compared with training on all their images in one process."""

import dataclasses

import torch

from models.dit import DiT
from models.steps import generators
from models.steps.classify import Training
from models.steps.distributed.data_parallel import DataParallelDenoising, DataParallelTraining
from models.workload import Workload
from tests.models.ranks import in_ranks

WORKLOAD = Workload(
    "models.steps.distributed.data_parallel:DataParallelTraining",
    "models.classifiers:basic_cnn",
    "cpu",
    32,
    32,
    batch=2,
    seed=5,
)
ITERATIONS = 3


def train(workload, isolated=False):
    """In a rank: its images and labels, the weights after some iterations, and the bytes that it reports as sent."""
    step = DataParallelTraining(workload)
    for _ in range(ITERATIONS):
        step.communication().iterate_alone() if isolated else step()
    weights = torch.cat([weight.detach().flatten() for weight in step._parallel.module.parameters()])
    return step._images, step._labels, weights, step.communication().bytes_per_iteration


def distance(one, other):
    return float((one - other).norm() / other.norm())


def test_two_ranks_train_like_one_process_on_all_their_images():
    (images, labels, weights, sent_bytes), (others, other_labels, other_weights, _) = in_ranks(2, train, WORKLOAD)
    assert distance(images, others) > 1  # each rank has its own images
    assert torch.equal(weights, other_weights)
    alone = Training(dataclasses.replace(WORKLOAD, batch=4))
    alone._images, alone._labels = torch.cat([images, others]), torch.cat([labels, other_labels])
    for _ in range(ITERATIONS):
        alone()
    expected = torch.cat([weight.detach().flatten() for weight in alone._network.parameters()])
    assert distance(weights, expected) < 1e-12
    assert sent_bytes == 8 * weights.numel()  # each of two ranks sends half of it twice


def test_without_communication_each_rank_trains_on_its_own_images():
    (_, _, weights, _), (_, _, others, _) = in_ranks(2, train, WORKLOAD, True)
    assert 0 < distance(weights, others) < 1


# Denoisers: weights are in float32 whatever torch's default is, and these are not.


def narrow_dit():
    with torch.device("meta"):
        return DiT(depth=1, width=48, heads=2)


class ExactDenoising(DataParallelDenoising):
    _stored_as = staticmethod(lambda workload: torch.float64)


class ExactTraining(generators.Training):
    _stored_as = staticmethod(lambda workload: torch.float64)


DENOISING = Workload("", f"{__name__}:narrow_dit", "cpu", 32, 32, batch=2, seed=5, mode="training")


def denoise(workload, isolated=False):
    """In a rank: its latents, noise and conditions, the weights after some iterations, and the bytes that it sends."""
    step = ExactDenoising(workload)
    for _ in range(ITERATIONS):
        step.communication().iterate_alone() if isolated else step()
    given = (step._latents, step._target, *step._conditions)
    return given, flat_weights(step.network), step.communication().bytes_per_iteration


def flat_weights(network):
    return torch.cat([weight.detach().flatten() for weight in network.parameters()])


def test_two_ranks_train_a_denoiser_like_one_process_on_all_their_images():
    (given, weights, sent_bytes), (others, other_weights, _) = in_ranks(2, denoise, DENOISING)
    assert distance(given[0], others[0]) > 1  # each rank has its own images
    assert torch.equal(weights, other_weights)
    alone = ExactTraining(dataclasses.replace(DENOISING, batch=4))
    before = flat_weights(alone.network)
    alone._latents, alone._target, *conditions = (torch.cat(pair) for pair in zip(given, others, strict=True))
    alone._conditions = tuple(conditions)
    for _ in range(ITERATIONS):
        alone()
    trained = flat_weights(alone.network)
    # AdamW divides each gradient by its own size, which enlarges the rounding of tiny ones.
    assert distance(weights, trained) < 1e-9 * distance(trained, before)
    assert sent_bytes == 8 * weights.numel()


def test_without_communication_each_rank_trains_a_denoiser_on_its_own_images():
    (_, weights, _), (_, others, _) = in_ranks(2, denoise, DENOISING, True)
    assert 0 < distance(weights, others) < 1
