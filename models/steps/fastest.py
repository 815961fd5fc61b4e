"""`fastest`: what was measured to make an iteration faster without changing its mathematics, added up.

The shares are of the processor time of VGG-19 at 512 px in float32 on one core with AVX-512, strategies alternating in
processes of their own; others used the machine, so they are good to a few percent:

    plain, 3.2 s an iteration                                                                           1.00
    channels last: convolutions work in that order, and need not reorder every map before and after     1.20
    memory that is kept, and one product for the gradient of a Gram matrix, which is symmetric          1.54

Most of the last step is the memory: the large blocks of an iteration are given back to the kernel when they are freed,
and come again page by page, zeroed. Nothing behind the last loss layer is computed, and ReLU works in place, in
`plain` as well. In bfloat16 the same sum reached 2.85 times `plain` in float32.

Left out: torch.compile, a strategy of its own, because it takes a compiler and half a minute before the first
iteration; and CUDA graphs, which have not been measured.
"""

from typing import Any

import torch
from torch import Tensor

from models.steps.allocator import keep_freed_memory
from models.steps.channels_last import ChannelsLastObjective
from models.steps.objective import StyleTask


class FastestObjective(ChannelsLastObjective):
    """Channels last, one product per Gram gradient, and memory that is kept, for the rest of the process's life."""

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
