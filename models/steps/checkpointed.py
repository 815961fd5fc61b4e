"""`checkpointed`: autograd keeps the input of each pooling block and computes the block again in the backward pass.

Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", with torch's own implementation of it.
"""

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.steps.objective import PlainObjective, StyleTask

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
