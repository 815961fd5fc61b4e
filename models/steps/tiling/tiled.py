"""The tiled iteration of one device: all tiles of the image, one after the other.

What the passes over tiles find and need: sums over positions, and the gradient that these make known.

The loss of an image and its gradient in memory that does not grow with the activations: tile by tile, exactly.

A Gram matrix is a sum over positions, so tiles can add to it one after the other; but its gradient needs the whole
sum before the first tile's backward pass can begin. Hence two passes over the same tiles:

  1. without gradients: each tile adds its part to the Gram sums and to the content loss;
  2. with gradients: each tile but one is computed again, the gradient of the loss, known by now, is put in at the
     layers where a loss looks, and what arrives at the tile's pixels is added to the image's gradient.

With features F (channels x positions), G = F F^T / M and E = |G - A|^2 / (2 C)^2 (Gatys et al. 2016, equations 3
and 4, as `models.steps.losses` has them), dE/dF = (G - A) F / (C^2 M), their equation 6. It is linear in F: a tile
that owns some columns of F has all it needs for the same columns of the gradient. Tiles overlap in what they compute,
never in what they own. Of every layer, for one tile:

    +-----------------+
    | halo: computed, |   its features count in the neighbours' sums, and the neighbours put the gradient in there;
    |   +---------+   |
    |   |  owned  |   |   these count in this tile's sums, and this tile puts the gradient in.
    |   +---------+   |
    +-----------------+   At the image's border there is no halo, but the padding that the layer has there.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from models.steps.objectives import Objective, StyleTask, arithmetic, full_precision, loss_scale, style_loss
from models.steps.tiling.chain import Place, TileChain, walk
from models.steps.tiling.geometry import Tile


@dataclass
class Statistics:
    """What pass 1 sums up. Those of disjoint sets of tiles may be added to those of the whole image.

    Attributes:
        grams: sum of F F^T over positions for each style layer, shape (channels, channels).
        squares: sum of squared differences from the content target, shape ().
    """

    grams: dict[str, Tensor] = field(default_factory=dict)
    squares: Tensor | None = None

    def add_gram(self, name: str, features: Tensor) -> None:
        """Count the positions of these features, shape (1, channels, height, width)."""
        flat = features[0].flatten(1)
        gram = flat @ flat.T
        self.grams[name] = self.grams[name].add_(gram) if name in self.grams else gram

    def add(self, other: "Statistics") -> None:
        """Count what was found of other tiles."""
        for name, gram in other.grams.items():
            self.grams[name] = self.grams[name] + gram if name in self.grams else gram
        if other.squares is not None:
            self.squares = other.squares if self.squares is None else self.squares + other.squares

    def add_difference(self, difference: Tensor) -> None:
        """Count a difference of features from the content target, of any shape."""
        squares = difference.square().sum()
        self.squares = squares if self.squares is None else self.squares + squares


@dataclass
class Slopes:
    """The gradient of the loss with respect to features, as what it is made from; filled in when it is known.

    Attributes:
        style: the matrix D of dE/dF = D F for each style layer, shape (channels, channels).
        content: factor of the difference from the content target.
    """

    style: dict[str, Tensor] = field(default_factory=dict)
    content: float = 0.0


@dataclass(frozen=True)
class Share:
    """The tiles of a picture that are computed here, of those that its losses are summed over.

    Attributes:
        pixels: of the whole picture.
        sizes: height and width of each layer where a loss looks, of the whole picture.
        tiles: those that are computed here: all of them, unless there are other ranks.
    """

    pixels: int
    sizes: Mapping[str, tuple[int, int]]
    tiles: Sequence[Tile]


class TilePasses:
    """The two passes over some of an image's tiles, with what they compare with.

    Args:
        task: its pictures are what the tiles need of them.
        content, style: share of the image and of the style picture.
        combine: from the sums over the tiles here, those over all tiles of the picture.
    """

    def __init__(
        self,
        task: StyleTask,
        chain: TileChain,
        content: Share,
        style: Share,
        combine: Callable[[Statistics], Statistics],
    ) -> None:
        self._network = network = task.network
        self._precision = task.precision
        self._chain = chain
        self._combine = combine
        self.tiles = content.tiles
        self._pixels, self._sizes = content.pixels, content.sizes
        self._content_numbers = chain.channels[network.content_layer] * math.prod(self._sizes[network.content_layer])
        # Told after each tile how many are done, and how many an iteration has.
        self._report: Callable[[int, int], None] = _report_to_nobody
        self._done = 0
        with torch.no_grad(), arithmetic(task.precision, task.content.device.type):
            self._content_target = self._content_features(task.content)
            self._gram_targets = self._gram_matrices(task.style, style)

    def on_progress(self, report: Callable[[int, int], None]) -> None:
        """Call `report(done, all)` after each tile."""
        self._report = report

    def evaluate(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Loss at the image, shape (), and what these tiles add to its gradient, shape of the image."""
        self._done = 0
        others, last = self.tiles[:-1], self.tiles[-1:]
        slopes = Slopes()
        scale = loss_scale(self._precision, self._pixels)
        with torch.no_grad(), arithmetic(self._precision, image.device.type):
            found = self.statistics(image, others)
            # The last tile of pass 1 keeps its graph and is the first of pass 2: one tile less to compute again.
            kept = [(tile, *self._forward(image, tile, slopes, found)) for tile in self._told(walk(last))]
            loss = self.settle(self._combine(found), slopes, scale)
            gradient = torch.zeros_like(image)
            for tile, pixels, end in kept:
                self._backward(tile, pixels, end, gradient)
            kept.clear()
            self._tell(len(last))
            self.add_gradient(image, others, slopes, gradient)
        if scale != 1.0:
            gradient /= scale
        return loss, gradient

    def statistics(self, image: Tensor, tiles: Sequence[Tile]) -> Statistics:
        """Pass 1 over some of the tiles."""
        found = Statistics()

        def visit(name: str, features: Tensor, place: Place) -> Tensor:
            self._count(found, name, features, place)
            return features

        for tile in self._told(walk(tiles)):
            self._chain.run(self._chain.pixels(image, tile), tile, visit)
        return found

    def settle(self, found: Statistics, slopes: Slopes, scale: float = 1.0) -> Tensor:
        """From the sums over all tiles: the loss, shape (), and `scale` times its gradient into `slopes`."""
        network = self._network
        assert found.squares is not None, "some tile owns each position of the content layer"
        # Half the mean of squares, as in `content_loss`.
        content = network.content_weight / self._content_numbers
        slopes.content = content * scale
        loss = found.squares * (content / 2)
        for name, weight in network.style_layers.items():
            share = network.style_weight * weight
            positions = math.prod(self._sizes[name])
            gram, target = found.grams[name] / positions, self._gram_targets[name]
            loss = loss + share * style_loss(gram, target)
            slopes.style[name] = (gram - target) * (share * scale / (gram.shape[0] ** 2 * positions))
        return loss

    def add_gradient(self, image: Tensor, tiles: Sequence[Tile], slopes: Slopes, gradient: Tensor) -> None:
        """Pass 2 over some of the tiles: add their part to `gradient`, which has the image's shape."""
        for tile in self._told(walk(tiles)):
            self._backward(tile, *self._forward(image, tile, slopes), gradient)

    def _forward(
        self, image: Tensor, tile: Tile, slopes: Slopes, found: Statistics | None = None
    ) -> tuple[Tensor, Tensor]:
        """A tile's pixels and the end of its graph; the slopes are looked at on the way back only."""

        def visit(name: str, features: Tensor, place: Place) -> Tensor:
            if found is not None:
                self._count(found, name, features.detach(), place)
            through: Tensor = _KnownGradient.apply(features, place, partial(self._known, slopes, name, place))
            return through

        pixels = self._chain.pixels(image, tile).detach().requires_grad_(True)
        with torch.enable_grad():
            return pixels, self._chain.run(pixels, tile, visit)

    def _backward(self, tile: Tile, pixels: Tensor, end: Tensor, gradient: Tensor) -> None:
        # Nothing comes from behind the last layer: all gradient is put in where a loss looks.
        end.backward(torch.zeros_like(end))
        assert pixels.grad is not None
        self._chain.pixels(gradient, tile).add_(pixels.grad)

    def _count(self, found: Statistics, name: str, features: Tensor, place: Place) -> None:
        # Losses in full precision whatever the convolutions run in.
        with torch.autocast(features.device.type, enabled=False):
            owned = _owned(features, place)
            if name in self._network.style_layers:
                found.add_gram(name, owned)
            if name == self._network.content_layer:
                found.add_difference(owned - place.of_level(self._content_target))

    def _known(self, slopes: Slopes, name: str, place: Place, owned: Tensor) -> Tensor:
        """Gradient of the loss with respect to the features that a tile owns, shape of these."""
        parts = []
        if name in slopes.style:
            parts.append((slopes.style[name] @ owned[0].flatten(1)).view_as(owned))
        if name == self._network.content_layer:
            parts.append((owned - place.of_level(self._content_target)).mul_(slopes.content))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def _content_features(self, content: Tensor) -> Tensor:
        """Features of the content picture that these tiles own: shape (1, channels, height, width), empty if none."""
        layer = self._network.content_layer
        size = self._chain.extent(layer, self.tiles)
        whole: list[Tensor] = []

        def visit(name: str, features: Tensor, place: Place) -> Tensor:
            if name == layer:
                owned = _owned(features, place)
                if not whole:
                    whole.append(owned.new_empty(1, owned.shape[1], *size))
                place.of_level(whole[0]).copy_(owned)
            return features

        for tile in walk(self.tiles):
            self._chain.run(self._chain.pixels(content, tile), tile, visit)
        return whole[0] if whole else content.new_empty(0)

    def _gram_matrices(self, style: Tensor, share: Share) -> dict[str, Tensor]:
        """Gram matrices of the style picture, shape (channels, channels)."""
        found = Statistics()

        def visit(name: str, features: Tensor, place: Place) -> Tensor:
            if name in self._network.style_layers:
                with torch.autocast(features.device.type, enabled=False):
                    found.add_gram(name, _owned(features, place))
            return features

        for tile in walk(share.tiles):
            self._chain.run(self._chain.pixels(style, tile), tile, visit)
        grams = self._combine(found).grams
        return {name: gram / math.prod(share.sizes[name]) for name, gram in grams.items()}

    def _told(self, tiles: Iterable[Tile]) -> Iterable[Tile]:
        for tile in tiles:
            yield tile
            self._tell(1)

    def _tell(self, tiles: int) -> None:
        self._done += tiles
        self._report(self._done, 2 * len(self.tiles))


class _KnownGradient(torch.autograd.Function):
    """Features pass; on the way back the gradient that is known for what the tile owns of them is added."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, place: Place, known: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(features)
        ctx.place, ctx.known = place, known
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (features,) = ctx.saved_tensors
        with torch.autocast(features.device.type, enabled=False):
            # Autograd may still use what it hands out: added to a copy.
            total = gradient.clone()
            ctx.place.of_piece(total).add_(ctx.known(_owned(features, ctx.place)))
        return total, None, None


def _report_to_nobody(done: int, every: int) -> None:
    del done, every


def _owned(features: Tensor, place: Place) -> Tensor:
    return full_precision(place.of_piece(features))


# For where nothing is known of the memory: with its halo, such a tile of VGG-19 takes 1 GB in float32.
DEFAULT_TILE_PX = 512


class TiledObjective(TilePasses, Objective):
    """The numbers of `PlainObjective`, in two passes over tiles.

    Raises:
        InputError: the network has a layer that cannot be tiled, or the tile is too small for it.
    """

    def __init__(self, task: StyleTask) -> None:
        chain = TileChain(task.network, task.network.taps)
        self.tile_px = tile_side(task.tile_px, chain)
        content, style = (_whole(chain, picture, self.tile_px) for picture in (task.content, task.style))
        super().__init__(task, chain, content, style, combine=_as_they_are)

    def __call__(self, image: Tensor) -> Tensor:
        image.grad = None
        loss, image.grad = self.evaluate(image)
        return loss


def tile_side(asked_px: int, chain: TileChain) -> int:
    """Side of the largest tile, in pixels; 0 leaves it to this."""
    return asked_px or max(DEFAULT_TILE_PX, chain.smallest_side())


def _whole(chain: TileChain, picture: Tensor, tile_px: int) -> Share:
    height, width = picture.shape[-2:]
    return Share(height * width, chain.sizes(height, width), chain.tiles(height, width, tile_px))


def _as_they_are(found: Statistics) -> Statistics:
    return found
