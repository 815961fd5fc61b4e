"""Ways to run an iteration: each computes the loss and gradient of `PlainObjective`, at another price.

`checkpointed` is Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", with torch's implementation of it;
`compiled` is torch.compile, forward and backward. `fastest` adds up what was measured to make an iteration faster
without changing its mathematics. Its shares are of the processor time of VGG-19 at 512 px in float32 on one core with
AVX-512, strategies alternating in processes of their own; others used the machine, so they are good to a few percent:

    plain, 3.2 s an iteration                                                                           1.00
    channels last: convolutions work in that order, and need not reorder every map before and after     1.20
    memory that is kept, and one product for the gradient of a Gram matrix, which is symmetric          1.54

Most of the last step is the memory: the large blocks of an iteration are given back to the kernel when they are freed,
and come again page by page, zeroed. Nothing behind the last loss layer is computed, and ReLU works in place, in
`plain` as well. In bfloat16 the same sum reached 2.85 times `plain` in float32. Left out of `fastest`: torch.compile,
a strategy of its own, because it takes a compiler and half a minute before the first iteration; and CUDA graphs, which
have not been measured.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.errors import Unsupported
from models.network import StyleNetwork, smallest_side
from models.steps.malloc import keep_freed_memory
from models.steps.objectives import Objective, PlainObjective, StyleTask, lay_out_channels_last
from models.steps.tiling.blocks import blocks_of
from models.steps.tiling.chain import TileChain
from models.steps.tiling.streamed import StreamedObjective
from models.steps.tiling.tiled import TiledObjective


class ChannelsLastObjective(PlainObjective):
    """What follows a convolution takes on the order of its input, so only weights and image are told."""

    def __init__(self, task: StyleTask) -> None:
        lay_out_channels_last(task.network)
        super().__init__(task)

    def _normalised(self, image: Tensor) -> Tensor:
        return super()._normalised(image.contiguous(memory_format=torch.channels_last))


POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


class CheckpointedObjective(PlainObjective):
    """One block at a time: its losses are computed within it, so that no feature map outlives it."""

    def __init__(self, task: StyleTask) -> None:
        super().__init__(task)
        self._blocks: list[list[tuple[str, nn.Module]]] = [[]]
        for name, layer in task.network.layers.named_children():
            self._blocks[-1].append((name, layer))
            if isinstance(layer, POOLS):
                self._blocks.append([])

    def loss(self, image: Tensor) -> Tensor:
        features = self._normalised(image)
        total = image.new_zeros(())
        for block in self._blocks[:-1]:
            # No random numbers in there, whose state would have to be kept.
            features, loss = checkpoint(self._run, block, features, use_reentrant=False, preserve_rng_state=False)
            total = total + loss
        # The last block's backward pass comes at once: there is nothing to be gained by forgetting it.
        _, loss = self._run(self._blocks[-1], features)
        return total + loss

    def _run(self, block: list[tuple[str, nn.Module]], features: Tensor) -> tuple[Tensor, Tensor]:
        """The block's output, and the sum of the losses that look into it."""
        loss = self._content_target.new_zeros(())
        for name, layer in block:
            # Its input is kept: what works in place within the block must not reach it.
            features = layer(features)
            if name in self._network.taps:
                loss = loss + self._loss_at(name, features)
        return features, loss


class CompiledObjective(PlainObjective):
    """Compiles in its first call, which runs twice: what the first run takes longer than the second is compilation.

    torch keeps compiled code on disk, so that a second worker finds most of it there.

    Raises:
        Unsupported: there is no compiler here, or it cannot compile this network.
    """

    def __init__(self, task: StyleTask) -> None:
        super().__init__(task)
        self._compiled = torch.compile(super().loss, dynamic=False)
        self._compile_seconds: float | None = None

    def __call__(self, image: Tensor) -> Tensor:
        if self._compile_seconds is None:
            first, second = (self._timed(image) for _ in range(2))
            self._compile_seconds = max(0.0, first - second)
        return super().__call__(image)

    def compile_seconds(self) -> float | None:
        return self._compile_seconds

    def loss(self, image: Tensor) -> Tensor:
        return self._compiled(image)

    def _timed(self, image: Tensor) -> float:
        start = time.perf_counter()
        try:
            loss = super().__call__(image)
        except Exception as error:
            if _of_compiler(error):
                reason = str(error).strip().splitlines()[0]
                raise Unsupported(f"torch.compile does not work here ({reason}); use another --strategy") from error
            raise
        float(loss)  # waits for the device
        return time.perf_counter() - start


def _of_compiler(error: Exception) -> bool:
    """Whether the compiler failed, rather than what it made."""
    return any(kind.__module__.startswith(("torch._dynamo", "torch._inductor")) for kind in type(error).__mro__)


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


STRATEGIES: dict[str, Callable[[StyleTask], Objective]] = {
    "plain": PlainObjective,
    "channels_last": ChannelsLastObjective,
    "checkpointed": CheckpointedObjective,
    "compiled": CompiledObjective,
    "tiled": TiledObjective,
    "streamed": StreamedObjective,
    "fastest": FastestObjective,
}


def smallest_tile(network: StyleNetwork, strategy: str) -> int:
    """Side in pixels of the smallest tile with which a strategy can run a network.

    Raises:
        InputError: the network has a layer that cannot be tiled.
    """
    if strategy == "streamed":  # a block's halo is a few positions, and any tile will do
        side = smallest_side(network)
        blocks_of(network, side, side)
        return 1
    return TileChain(network, network.taps, strategy).smallest_side()
