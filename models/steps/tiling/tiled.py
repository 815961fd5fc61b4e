"""Strategy `tiled`: the exact loss and gradient of an image, in memory that does not grow with the activations.

A Gram matrix is a sum over positions, so tiles can add to it one after the other. Its gradient needs the whole sum
before the backward pass of the first tile. Hence two passes over the same tiles:

  1. without gradients: each tile adds its features to the Gram sums and to the content loss;
  2. with gradients: each tile but one is computed again, the known gradient of the losses is added at the loss layers,
     and the gradient with respect to the tile's pixels is added to the image's gradient.

With features F (channels x positions), G = F F^T / M and E = |G - A|^2 / (2 C)^2 (Gatys et al. 2016, equations 3
and 4, as in `models.steps.objectives`), dE/dF = (G - A) F / (C^2 M), their equation 6. This is linear in F: a tile that
owns some columns of F can compute the same columns of the gradient. Tiles overlap in what they compute, not in what
they own. In every layer, for one tile:

    +-----------------+
    | halo: computed, |   adjacent tiles own these features, add them to the sums and add the gradient;
    |   +---------+   |
    |   |  owned  |   |   this tile adds these features to the sums and adds the gradient.
    |   +---------+   |
    +-----------------+   At the image's border there is no halo, but the layer's padding.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from models.steps.loss_scale import LossScale, first_scale
from models.steps.objectives import Objective, StyleTask, full_precision, style_arithmetic, style_loss
from models.steps.tiling.chain import OwnedRegion, TileChain, selected_tiles
from models.steps.tiling.geometry import Tile


@dataclass
class Statistics:
    """The sums of pass 1. The statistics of disjoint sets of tiles add up to those of the whole image.

    Attributes:
        grams: sum of F F^T over positions for each style layer, shape (channels, channels).
        squared_error: sum of squared differences from the content target, shape (); None before the first.
    """

    grams: dict[str, Tensor] = field(default_factory=dict)
    squared_error: Tensor | None = None

    def add_gram(self, name: str, features: Tensor) -> None:
        """Add the features of some positions, shape (1, channels, height, width)."""
        flat = features[0].flatten(1)
        gram = flat @ flat.T
        self.grams[name] = self.grams[name].add_(gram) if name in self.grams else gram

    def add(self, other: "Statistics") -> None:
        """Add the statistics of other tiles."""
        for name, gram in other.grams.items():
            self.grams[name] = self.grams[name] + gram if name in self.grams else gram
        if other.squared_error is not None:
            self._add_squared_error(other.squared_error)

    def add_difference(self, difference: Tensor) -> None:
        """Add a difference between features and the content target, of any shape."""
        self._add_squared_error(difference.square().sum())

    def _add_squared_error(self, squared_error: Tensor) -> None:
        self.squared_error = squared_error if self.squared_error is None else self.squared_error + squared_error


@dataclass
class GradientFactors:
    """Factors of the loss's gradient with respect to features; known after pass 1.

    Attributes:
        style: the matrix D of dE/dF = D F for each style layer, shape (channels, channels).
        content: factor of the difference between features and the content target; a tensor of shape () in float16.
    """

    style: dict[str, Tensor] = field(default_factory=dict)
    content: float | Tensor = 0.0


@dataclass(frozen=True)
class TileSubset:
    """The tiles of an image that this process computes.

    Attributes:
        pixels: number of pixels of the whole image.
        sizes: height and width of each loss layer's output, for the whole image.
        tiles: the tiles of this process: all tiles, or those of one rank.
    """

    pixels: int
    sizes: Mapping[str, tuple[int, int]]
    tiles: Sequence[Tile]


class TilePasses:
    """The two passes over some of an image's tiles, and the targets of the losses.

    Args:
        task: its images contain at least the pixels that the tiles read.
        content, style: tiles of the image and of the style image.
        combine: maps the statistics of these tiles to those of all tiles of the image.
    """

    def __init__(
        self,
        task: StyleTask,
        chain: TileChain,
        content: TileSubset,
        style: TileSubset,
        combine: Callable[[Statistics], Statistics],
    ) -> None:
        self._network = network = task.network
        self._precision = task.precision
        self._chain = chain
        self._combine = combine
        self.tiles = content.tiles
        self._sizes = content.sizes
        self.loss_scale = LossScale(first_scale(task.precision, content.pixels), task.content)
        self._content_numbers = chain.channels[network.content_layer] * math.prod(self._sizes[network.content_layer])
        self._report: Callable[[int, int], None] = _ignore_progress
        self._done = 0
        with torch.no_grad(), style_arithmetic(task.precision, task.content):
            self._content_target = self._content_features(task.content)
            self._gram_targets = self._gram_matrices(task.style, style)

    def on_progress(self, report: Callable[[int, int], None]) -> None:
        """Call `report(done, total)` after each tile."""
        self._report = report

    def evaluate(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Loss at the image, shape (), and the contribution of these tiles to its gradient, shape of the image."""
        self._done = 0
        others, last = self.tiles[:-1], self.tiles[-1:]
        factors = GradientFactors()
        scale = self.loss_scale.factor
        with torch.no_grad(), style_arithmetic(self._precision, image):
            statistics = self.first_pass(image, others)
            # The last tile of pass 1 keeps its graph and is the first of pass 2: it is not computed again.
            graphs = [
                (tile, *self._forward(image, tile, factors, statistics))
                for tile in self._with_progress(selected_tiles(last))
            ]
            loss = self.loss_and_factors(self._combine(statistics), factors, scale)
            gradient = torch.zeros_like(image)
            for tile, pixels, output in graphs:
                self._backward(tile, pixels, output, gradient)
            graphs.clear()
            self._report_done(len(last))
            self.second_pass(image, others, factors, gradient)
        self.loss_scale.unscale(gradient)
        return loss, gradient

    def first_pass(self, image: Tensor, tiles: Sequence[Tile]) -> Statistics:
        """Pass 1 over some of the tiles."""
        statistics = Statistics()

        def hook(name: str, features: Tensor, region: OwnedRegion) -> Tensor:
            self._add_to_statistics(statistics, name, features, region)
            return features

        for tile in self._with_progress(selected_tiles(tiles)):
            self._chain.run(self._chain.pixels(image, tile), tile, hook)
        return statistics

    def loss_and_factors(self, statistics: Statistics, factors: GradientFactors, scale: float | Tensor = 1.0) -> Tensor:
        """The loss, shape (), from the statistics of all tiles; sets `factors` for `scale` times its gradient."""
        network = self._network
        assert statistics.squared_error is not None, "each position of the content layer is owned by a tile"
        # Half the mean squared error, as in `content_loss`.
        content = network.content_weight / self._content_numbers
        factors.content = content * scale
        loss = statistics.squared_error * (content / 2)
        for name, weight in network.style_layers.items():
            layer_weight = network.style_weight * weight
            positions = math.prod(self._sizes[name])
            gram, target = statistics.grams[name] / positions, self._gram_targets[name]
            loss = loss + layer_weight * style_loss(gram, target)
            factors.style[name] = (gram - target) * (layer_weight * scale / (gram.shape[0] ** 2 * positions))
        return loss

    def second_pass(self, image: Tensor, tiles: Sequence[Tile], factors: GradientFactors, gradient: Tensor) -> None:
        """Pass 2 over some of the tiles: adds their contribution to `gradient`, shape of the image."""
        for tile in self._with_progress(selected_tiles(tiles)):
            self._backward(tile, *self._forward(image, tile, factors), gradient)

    def _forward(
        self, image: Tensor, tile: Tile, factors: GradientFactors, statistics: Statistics | None = None
    ) -> tuple[Tensor, Tensor]:
        """A tile's pixels and its last features, with their graph; `factors` are read in the backward pass only."""

        def hook(name: str, features: Tensor, region: OwnedRegion) -> Tensor:
            if statistics is not None:
                self._add_to_statistics(statistics, name, features.detach(), region)
            feature_gradient = partial(self._feature_gradient, factors, name, region)
            result: Tensor = _AddGradient.apply(features, region, feature_gradient)
            return result

        pixels = self._chain.pixels(image, tile).detach().requires_grad_(True)
        with torch.enable_grad():
            return pixels, self._chain.run(pixels, tile, hook)

    def _backward(self, tile: Tile, pixels: Tensor, output: Tensor, gradient: Tensor) -> None:
        # The gradient of the last features is zero: gradients are added at the loss layers.
        output.backward(torch.zeros_like(output))
        assert pixels.grad is not None
        self._chain.pixels(gradient, tile).add_(pixels.grad)

    def _add_to_statistics(self, statistics: Statistics, name: str, features: Tensor, region: OwnedRegion) -> None:
        owned = _owned(features, region)
        if name in self._network.style_layers:
            statistics.add_gram(name, owned)
        if name == self._network.content_layer:
            statistics.add_difference(owned - region.view_level(self._content_target))

    def _feature_gradient(self, factors: GradientFactors, name: str, region: OwnedRegion, owned: Tensor) -> Tensor:
        """Gradient of the loss with respect to the features that a tile owns, shape (1, channels, height, width)."""
        parts = []
        if name in factors.style:
            parts.append((factors.style[name] @ owned[0].flatten(1)).view_as(owned))
        if name == self._network.content_layer:
            parts.append((owned - region.view_level(self._content_target)).mul_(factors.content))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def _content_features(self, content: Tensor) -> Tensor:
        """Features of the content image that these tiles own: shape (1, channels, height, width), or empty."""
        layer = self._network.content_layer
        size = self._chain.owned_size(layer, self.tiles)
        whole: list[Tensor] = []

        def hook(name: str, features: Tensor, region: OwnedRegion) -> Tensor:
            if name == layer:
                owned = _owned(features, region)
                if not whole:
                    whole.append(owned.new_empty(1, owned.shape[1], *size))
                region.view_level(whole[0]).copy_(owned)
            return features

        for tile in selected_tiles(self.tiles):
            self._chain.run(self._chain.pixels(content, tile), tile, hook)
        return whole[0] if whole else content.new_empty(0)

    def _gram_matrices(self, style: Tensor, subset: TileSubset) -> dict[str, Tensor]:
        """Gram matrices of the whole style image, shape (channels, channels)."""
        statistics = Statistics()

        def hook(name: str, features: Tensor, region: OwnedRegion) -> Tensor:
            if name in self._network.style_layers:
                statistics.add_gram(name, _owned(features, region))
            return features

        for tile in selected_tiles(subset.tiles):
            self._chain.run(self._chain.pixels(style, tile), tile, hook)
        grams = self._combine(statistics).grams
        return {name: gram / math.prod(subset.sizes[name]) for name, gram in grams.items()}

    def _with_progress(self, tiles: Iterable[Tile]) -> Iterable[Tile]:
        for tile in tiles:
            yield tile
            self._report_done(1)

    def _report_done(self, tiles: int) -> None:
        self._done += tiles
        self._report(self._done, 2 * len(self.tiles))


class _AddGradient(torch.autograd.Function):
    """The identity; its backward pass adds a known gradient for the features that the tile owns."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, region: OwnedRegion, feature_gradient: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.save_for_backward(features)
        ctx.region, ctx.feature_gradient = region, feature_gradient
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (features,) = ctx.saved_tensors
        # Added to a copy, because autograd may still use its own tensor.
        total = gradient.clone()
        ctx.region.view_piece(total).add_(ctx.feature_gradient(_owned(features, ctx.region)))
        return total, None, None


def _ignore_progress(done: int, total: int) -> None:
    del done, total


def _owned(features: Tensor, region: OwnedRegion) -> Tensor:
    """The features that a tile owns, for the losses, which are in full precision whatever that of the convolutions."""
    return full_precision(region.view_piece(features))


# Used without a memory budget: such a tile of VGG-19, with its halo, takes 1 GB in float32.
DEFAULT_TILE_PX = 512


class TiledObjective(TilePasses, Objective):
    """The loss and gradient of `PlainObjective`, in two passes over tiles.

    Raises:
        InputError: the network has a layer that cannot be tiled, or the tile is too small for the network.
    """

    def __init__(self, task: StyleTask) -> None:
        chain = TileChain(task.network)
        self.tile_px = tile_side(task.tile_px, chain)
        content, style = (_all_tiles(chain, picture, self.tile_px) for picture in (task.content, task.style))
        super().__init__(task, chain, content, style, combine=lambda statistics: statistics)

    def __call__(self, image: Tensor) -> Tensor:
        image.grad = None
        loss, image.grad = self.loss_scale.settle(lambda: self.evaluate(image))
        return loss


def tile_side(requested_px: int, chain: TileChain) -> int:
    """Largest side of a tile in pixels: the requested one, or a default if that is 0."""
    return requested_px or max(DEFAULT_TILE_PX, chain.smallest_side())


def _all_tiles(chain: TileChain, picture: Tensor, tile_px: int) -> TileSubset:
    height, width = picture.shape[-2:]
    return TileSubset(height * width, chain.sizes(height, width), chain.tiles(height, width, tile_px))
