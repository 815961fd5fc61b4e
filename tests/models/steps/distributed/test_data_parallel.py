"""Training over ranks in separate processes, compared with training on all their images in one process."""

import dataclasses

import pytest
import torch

from models.steps.classify import Training
from models.steps.distributed.data_parallel import DataParallelTraining
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


@pytest.fixture(autouse=True)
def float64():
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


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
