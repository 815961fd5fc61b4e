"""Convolutions of tiles by Winograd's algorithm, with weights that are transformed at use, a layer at a time.

All layers share one workspace for their transformed weights, which take four times the memory of the largest of these
layers: 36 MiB for VGG's 512 channels. Transformed weights that stay, as those of `models.steps.winograd`, would take
eight times the memory of all of them, much of what `streamed` saves.

The transform takes the same time whatever the size of the tile. To transform once for all tiles, a layer would have to
be computed for all of them before the next one, and whole feature maps be kept. Instead the blocks in which the
algorithm is used have larger tiles, if none are requested.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from models.steps import winograd
from models.steps.objectives import StyleTask
from models.steps.tiling.blocks import Block
from models.steps.tiling.layers import Convolution
from models.steps.winograd_transforms import POINTS


@dataclass(frozen=True)
class WinogradConvolution(Convolution):
    """A convolution for which `winograd.is_applicable`.

    Attributes:
        taps: the weights, shape (9, inputs * outputs).
        workspace: for the transformed weights, at least 36 * inputs * outputs numbers; shared with other layers.
    """

    taps: Tensor = field(compare=False, repr=False)
    workspace: Tensor = field(compare=False, repr=False)

    def _convolve(self, features: Tensor, padding: tuple[int, int]) -> Tensor:
        return winograd.convolve(features, self._points(self._matrix), padding, self.module.bias)

    def _transposed(self, gradient: Tensor, padding: tuple[int, int]) -> Tensor:
        # The weights of the gradient are flipped, and have inputs and outputs exchanged.
        points = self._points(self._matrix.flip(1)).transpose(1, 2)
        return winograd.convolve(gradient, points, [2 - amount for amount in padding])

    @cached_property
    def _matrix(self) -> Tensor:
        return winograd.point_matrix().to(self.taps)

    def _points(self, matrix: Tensor) -> Tensor:
        points = self.workspace[: POINTS * self.taps.shape[1]].view(POINTS, -1)
        torch.mm(matrix, self.taps, out=points)
        return points.view(POINTS, self.module.in_channels, self.module.out_channels)


def with_winograd(blocks: Sequence[Block], tile_px: int, task: StyleTask) -> tuple[Block, ...]:
    """The blocks with the algorithm where it is expected to win, with tiles of that side.

    Changes the layout of their weights in memory, which are not copied.
    """
    if not winograd.is_available(task.content, task.precision):
        return tuple(blocks)
    chosen = [_chosen(block, tile_px) for block in blocks]
    numbers = max((layer.module.weight.numel() // 9 for layers in chosen for layer in layers.values()), default=0)
    workspace = task.content.new_empty(POINTS * numbers)
    return tuple(_replaced(block, layers, workspace) for block, layers in zip(blocks, chosen, strict=True))


def names_of_winograd(block: Block) -> list[str]:
    """Names of the block's layers that use the algorithm."""
    layers = zip(block.names, block.layers, strict=True)
    return [name for name, layer in layers if isinstance(layer, WinogradConvolution)]


def _chosen(block: Block, tile_px: int) -> dict[int, Convolution]:
    """The layers in which the algorithm is expected to win, by their indices."""
    chosen = {}
    for index, layer in enumerate(block.layers):
        if isinstance(layer, Convolution) and winograd.is_applicable(layer.module):
            positions = math.prod(next(block.tiles(index, tile_px)).lengths)
            if winograd.wins_with_transform(layer.module.in_channels, layer.module.out_channels, positions):
                chosen[index] = layer
    return chosen


def _replaced(block: Block, chosen: Mapping[int, Convolution], workspace: Tensor) -> Block:
    layers = list(block.layers)
    for index, layer in chosen.items():
        module = layer.module
        taps = module.weight.detach().permute(2, 3, 1, 0).reshape(9, -1)
        weight = taps.view(3, 3, module.in_channels, module.out_channels).permute(3, 2, 0, 1)
        module.weight = nn.Parameter(weight, requires_grad=False)
        layers[index] = WinogradConvolution(layer.windows, module, taps, workspace)
    return dataclasses.replace(block, layers=tuple(layers))
