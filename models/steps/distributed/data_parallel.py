"""Training over several ranks: each has the whole network and images of its own, gradients are averaged.

The engine is torch's DistributedDataParallel (Li et al. 2020, arXiv 2006.15704): gradients travel in buckets while
the backward pass still computes others.

Short because torch does the work.
"""

import dataclasses

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from models.steps.classify import Training
from models.steps.tiling.partition import all_reduce_bytes
from models.workload import Communication, Workload


class DataParallelTraining(Training):
    """One iteration of training in one rank of the group that torch.distributed has been started with.

    Args:
        workload: its batch is the number of images of this rank.
    """

    def __init__(self, workload: Workload) -> None:
        rank = distributed.get_rank()
        # Images of its own for each rank; weights are those of rank 0 from the next lines on.
        super().__init__(dataclasses.replace(workload, seed=workload.seed + rank))
        device = torch.device(workload.device)
        # A view into the bucket for each gradient: one copy of them less to hold.
        self._parallel = DistributedDataParallel(
            self._network, device_ids=None if device.type == "cpu" else [device], gradient_as_bucket_view=True
        )
        self._network = self._parallel

    def communication(self) -> Communication:
        """Gradients of all weights, summed over the ranks."""
        gradients_bytes = sum(weight.numel() * weight.element_size() for weight in self._parallel.parameters())
        return Communication(all_reduce_bytes(gradients_bytes, distributed.get_world_size()), self._iterate_alone)

    def _iterate_alone(self) -> None:
        """An iteration with the gradients of this rank alone: all of its work, none of the waiting."""
        with self._parallel.no_sync():
            self()
