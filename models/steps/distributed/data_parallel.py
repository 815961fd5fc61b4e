"""Data-parallel training: each rank has the whole network and its own images; gradients are averaged over the ranks.

Uses torch's DistributedDataParallel (Li et al. 2020, arXiv 2006.15704), which sends gradients in buckets while the
backward pass computes others.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from models.steps import classify, generators
from models.steps.tiling.partition import all_reduce_bytes
from models.workload import Communication, Workload


class DataParallelTraining(classify.Training):
    """One training iteration of a classifier in one rank. The caller has initialised torch.distributed's default group.

    Args:
        workload: its batch is the number of images of this rank.
    """

    def __init__(self, workload: Workload) -> None:
        super().__init__(of_this_rank(workload))
        self._parallel = parallel(self._network, workload.device)
        self._network = self._parallel

    def communication(self) -> Communication:
        """The gradients of all weights, in an all-reduce."""
        return gradient_exchange(self._parallel, self)


class DataParallelDenoising(generators.Training):
    """One training iteration of a denoiser in one rank; the rest as for a classifier."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(of_this_rank(workload))
        self._parallel = parallel(self._network, workload.device)
        self._evaluate = self._parallel

    def communication(self) -> Communication:
        """The gradients of all weights, in an all-reduce."""
        return gradient_exchange(self._parallel, self)


def of_this_rank(workload: Workload) -> Workload:
    """The workload with a seed of this rank, so that it has its own images.

    Its weights differ as well until `parallel` gives all ranks those of rank 0.
    """
    return dataclasses.replace(workload, seed=workload.seed + distributed.get_rank())


def parallel(network: nn.Module, device: str) -> DistributedDataParallel:
    """The network with the weights of rank 0, which averages its gradients over the ranks in every backward pass."""
    devices = None if torch.device(device).type == "cpu" else [torch.device(device)]
    # Each gradient is a view into its bucket, which saves a copy.
    return DistributedDataParallel(network, device_ids=devices, gradient_as_bucket_view=True)


def gradient_exchange(network: DistributedDataParallel, iterate: Callable[[], None]) -> Communication:
    """What an iteration sends: the gradients of all weights, in an all-reduce.

    Args:
        iterate: one iteration. Without communication it has all of its work, with this rank's gradients alone.
    """

    def iterate_alone() -> None:
        with network.no_sync():
            iterate()

    gradients_bytes = sum(weight.numel() * weight.element_size() for weight in network.parameters())
    return Communication(all_reduce_bytes(gradients_bytes, distributed.get_world_size()), iterate_alone)
