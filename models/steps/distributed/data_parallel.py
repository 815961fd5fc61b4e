"""Data-parallel training: each rank has the whole network and its own images; gradients are averaged over the ranks.

Uses torch's DistributedDataParallel (Li et al. 2020, arXiv 2006.15704), which sends gradients in buckets while the
backward pass computes others.

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
    """One training iteration of one rank. The caller has initialised torch.distributed's default process group.

    Args:
        workload: its batch is the number of images of this rank.
    """

    def __init__(self, workload: Workload) -> None:
        rank = distributed.get_rank()
        # Each rank has its own images. DistributedDataParallel broadcasts the weights of rank 0.
        super().__init__(dataclasses.replace(workload, seed=workload.seed + rank))
        device = torch.device(workload.device)
        # Each gradient is a view into its bucket, which saves a copy.
        self._parallel = DistributedDataParallel(
            self._network, device_ids=None if device.type == "cpu" else [device], gradient_as_bucket_view=True
        )
        self._network = self._parallel

    def communication(self) -> Communication:
        """The gradients of all weights, in an all-reduce."""
        gradients_bytes = sum(weight.numel() * weight.element_size() for weight in self._parallel.parameters())
        return Communication(all_reduce_bytes(gradients_bytes, distributed.get_world_size()), self._iterate_alone)

    def _iterate_alone(self) -> None:
        """An iteration with this rank's gradients alone: all of its work, and no communication."""
        with self._parallel.no_sync():
            self()
