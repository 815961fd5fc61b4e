"""The strategies of a style iteration: all compute the loss and gradient of `PlainObjective`, at different costs.

`checkpointed` is activation checkpointing (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost") with
torch's implementation; `compiled` is torch.compile, forward and backward. `fastest` combines the changes that were
measured to be faster and do not change the mathematics. Speed-ups in processor time of VGG-19 at 512 px in float32, on
one core with AVX-512, strategies alternating in separate processes, on a shared machine (accurate to a few percent):

    plain, 3.2 s per iteration                                                                          1.00
    channels last: convolutions use this layout, and need not convert each map before and after         1.20
    freed memory is kept, and one product for the gradient of a Gram matrix, which is symmetric         1.54

To this Winograd's algorithm is added in float32 on cpu, in the layers in which it takes less time; see
`models/steps/winograd.py`. `winograd` has it in every layer that it applies to. Where the time goes then, on a core
with AVX2, is in docs/results.md. Too small there to be worth code of their own, as shares of an iteration at 512 px:
ReLU 3 %, pooling 2 %, sums of gradients 1 %, losses and Adam together below 1 %. Gram products in blocks of 1024 to
16384 positions were no faster than in one (0.82 to 1.04 of the rate).

Most of the last step is due to memory: without it the large blocks of an iteration return to the kernel when freed, and
are zeroed again page by page. `plain`, too, computes nothing behind the last loss layer and uses in-place ReLUs. In
bfloat16 `fastest` reached 2.85 times the speed of `plain` in float32. Not in `fastest`: torch.compile, a separate
strategy, because it needs a compiler and half a minute before the first iteration; `graphed`, because only some devices
have graphs, and its speed has not been measured yet.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.errors import Unsupported
from models.network import StyleNetwork, smallest_side
from models.steps import winograd
from models.steps.compilation import Compilation
from models.steps.graphs import GraphedCall
from models.steps.malloc import keep_freed_memory
from models.steps.objectives import Objective, PlainObjective, StyleTask, lay_out_channels_last
from models.steps.tiling.blocks import blocks_of
from models.steps.tiling.chain import TileChain
from models.steps.tiling.streamed import StreamedObjective
from models.steps.tiling.tiled import TiledObjective


class ChannelsLastObjective(PlainObjective):
    """Channels last in memory. Layers keep the layout of their input, so only weights and image are converted."""

    def __init__(self, task: StyleTask) -> None:
        lay_out_channels_last(task.network)
        super().__init__(task)

    def _normalise(self, image: Tensor) -> Tensor:
        return super()._normalise(image.contiguous(memory_format=torch.channels_last))


POOLING_LAYERS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


class CheckpointedObjective(PlainObjective):
    """Activation checkpointing by blocks. A block computes its own losses, so that no feature map outlives it."""

    def __init__(self, task: StyleTask) -> None:
        super().__init__(task)
        self._blocks: list[list[tuple[str, nn.Module]]] = [[]]
        for name, layer in task.network.layers.named_children():
            self._blocks[-1].append((name, layer))
            if isinstance(layer, POOLING_LAYERS):
                self._blocks.append([])

    def loss(self, image: Tensor) -> Tensor:
        features = self._normalise(image)
        total = image.new_zeros(())
        for block in self._blocks[:-1]:
            # Blocks use no random numbers, so the generator's state need not be saved.
            features, loss = checkpoint(self._run, block, features, use_reentrant=False, preserve_rng_state=False)
            total = total + loss
        # The backward pass of the last block follows at once: checkpointing it would save nothing.
        _, loss = self._run(self._blocks[-1], features)
        return total + loss

    def _run(self, block: list[tuple[str, nn.Module]], features: Tensor) -> tuple[Tensor, Tensor]:
        """The block's output, and the sum of its losses."""
        loss = self._content_target.new_zeros(())
        for name, layer in block:
            features = layer(features)
            if name in self._network.loss_layers:
                loss = loss + self._loss_at(name, features)
        return features, loss


class CompiledObjective(PlainObjective):
    """Compiles in the first call, which runs twice: compile time is the difference between the two runs.

    torch caches compiled code on disk, so that a second worker finds most of it there.

    Raises:
        Unsupported: there is no compiler, or it cannot compile this network.
    """

    def __init__(self, task: StyleTask) -> None:
        super().__init__(task)
        self._compiled = torch.compile(super().loss, dynamic=False)
        self._compilation = Compilation()

    def __call__(self, image: Tensor) -> Tensor:
        self._compilation.finish(lambda: self._run_first(image))
        return super().__call__(image)

    def compile_seconds(self) -> float | None:
        return self._compilation.seconds

    def loss(self, image: Tensor) -> Tensor:
        return self._compiled(image)

    def _run_first(self, image: Tensor) -> None:
        float(super().__call__(image))  # waits for the device


class GraphedObjective(PlainObjective):
    """Forward, losses and backward in one graph of the device. The optimiser's step is queued as in other strategies.

    The graph reads an image of its own, so that it may be called with any image of the task's size. Loss and gradient
    are the graph's: the next call overwrites them.

    Raises:
        Unsupported: the device has no graphs, or this network cannot be captured.
    """

    def __init__(self, task: StyleTask) -> None:
        self._graphed = GraphedCall(task.content.device)
        super().__init__(task)
        self._input = task.content.clone().requires_grad_(True)
        self._loss = self._input.new_zeros(())

    def __call__(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            self._input.copy_(image)
        self._graphed(self._evaluate_input)
        image.grad = self._input.grad
        return self._loss

    def _evaluate_input(self) -> None:
        self._loss = super().__call__(self._input)


class WinogradObjective(ChannelsLastObjective):
    """Channels last, with Winograd's algorithm for every 3x3 convolution with stride 1.

    Raises:
        Unsupported: the task is not in float32, or not on the cpu.
    """

    def __init__(self, task: StyleTask) -> None:
        if not winograd.is_available(task.content, task.precision):
            raise Unsupported(
                f"strategy 'winograd' is for float32 on cpu, not for {task.precision} on {task.content.device.type},"
                " where the library chooses its own algorithms; use --strategy=fastest"
            )
        self._replaced = winograd.replace_convolutions(task.network, task.content, lambda *_: True)
        super().__init__(task)

    def algorithms(self) -> Mapping[str, Any]:
        return winograd.facts(self._replaced.names, self._replaced.multiplications)


class FastestObjective(ChannelsLastObjective):
    """Channels last, Winograd's algorithm where it wins, one product per Gram gradient, and freed memory is kept.

    The memory is kept until the process ends.
    """

    def __init__(self, task: StyleTask) -> None:
        keep_freed_memory()
        self._replaced = winograd.Replaced((), 1.0)
        if winograd.is_available(task.content, task.precision):
            self._replaced = winograd.replace_convolutions(task.network, task.content, winograd.wins)
        super().__init__(task)

    def algorithms(self) -> Mapping[str, Any]:
        return winograd.facts(self._replaced.names, self._replaced.multiplications)

    def _gram(self, features: Tensor) -> Tensor:
        return GramMatrix.apply(features)


class GramMatrix(torch.autograd.Function):
    """`objectives.gram_matrix` with one matrix product in the backward pass; autograd needs two.

    For G = F F^T / M, the gradient with respect to F is (D + D^T) F / M, with D the gradient with respect to G. Since G
    and its target are symmetric, so is D, and the gradient is 2 D F / M.
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
        feature_gradient = positions @ (gradient * (2 / positions.shape[0]))
        return feature_gradient.view(1, *features.shape[2:], -1).permute(0, 3, 1, 2)


def _not_offloaded(task: StyleTask) -> Objective:
    del task
    raise Unsupported("strategy 'offloaded' does not apply: it is for decoders; use --strategy=streamed")


STRATEGIES: dict[str, Callable[[StyleTask], Objective]] = {
    "plain": PlainObjective,
    "channels_last": ChannelsLastObjective,
    "checkpointed": CheckpointedObjective,
    "compiled": CompiledObjective,
    "graphed": GraphedObjective,
    "tiled": TiledObjective,
    "streamed": StreamedObjective,
    "offloaded": _not_offloaded,
    "fastest": FastestObjective,
    "winograd": WinogradObjective,
}


def smallest_tile(network: StyleNetwork, strategy: str) -> int:
    """Side in pixels of the smallest tile with which a strategy can run a network.

    Raises:
        InputError: the network has a layer that cannot be tiled.
    """
    if strategy == "streamed":  # any tile works: a block's halo is a few positions
        side = smallest_side(network)
        blocks_of(network, side, side)
        return 1
    return TileChain(network, strategy).smallest_side()
