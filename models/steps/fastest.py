"""`fastest`"""

import ctypes
from typing import Any

import torch
from torch import Tensor

from models.steps.channels_last import ChannelsLastObjective
from models.steps.objective import StyleTask

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


class FastestObjective(ChannelsLastObjective):
    """Channels last, one product per Gram gradient, memory that is kept."""

    def __init__(self, task: StyleTask) -> None:
        keep_freed_memory()
        super().__init__(task)

    def _gram(self, features: Tensor) -> Tensor:
        return GramMatrix.apply(features)


class GramMatrix(torch.autograd.Function):
    """`losses.gram_matrix`, whose gradient is one matrix product where autograd needs two.

    G = F F^T / M gives F the gradient (D + D^T) F / M, and D, the gradient of a function of G alone, is symmetric
    because G and its target are: 2 D F / M.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        flat = features.flatten(2).squeeze(0)
        ctx.save_for_backward(features)
        return flat @ flat.T / flat.shape[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (features,) = ctx.saved_tensors
        positions = features.permute(0, 2, 3, 1).flatten(0, 2)
        pulled = positions @ (gradient * (2 / positions.shape[0]))
        return pulled.view(1, *features.shape[2:], -1).permute(0, 3, 1, 2)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed: it gives large blocks back to the kernel, and each iteration faults them in anew.

    For the rest of the process's life, so a worker is to be had for it. Elsewhere than with glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
