"""`fastest`"""

from typing import Any

import torch
from torch import Tensor

from models.steps.allocator import keep_freed_memory
from models.steps.channels_last import ChannelsLastObjective
from models.steps.objective import StyleTask


class FastestObjective(ChannelsLastObjective):
    """Channels last, one product per Gram gradient, memory that is kept.

    The memory is kept for the rest of the process's life: what comes after in the same process has it, too.
    """

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
