"""A network run on single tiles of an image, each layer exactly as it is on the whole.

Tiles are independent: a pass may compute them in any order, and any share of them. A prediction of memory walks only
the one that takes the most, see `walking` and `fixtures.worker.estimate`.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor

from models.errors import InputError
from models.network import StyleNetwork
from models.steps.tiling import geometry
from models.steps.tiling.geometry import Box, Tile
from models.steps.tiling.layers import Layer, Pointwise, layers_of, pad
from models.steps.tiling.partition import Bands, bands_of

Walk = Callable[[Sequence[Tile]], Iterable[Tile]]

_WALK: ContextVar[Walk] = ContextVar("walk", default=iter)


def walk(tiles: Sequence[Tile]) -> Iterable[Tile]:
    """The tiles that are really computed: all of them, unless `walking` says otherwise."""
    return _WALK.get()(tiles)


@contextlib.contextmanager
def walking(how: Walk) -> Iterator[None]:
    """Let every pass inside go through its tiles as `how` says. What it leaves out is missing in the results."""
    before = _WALK.set(how)
    try:
        yield
    finally:
        _WALK.reset(before)


@dataclass(frozen=True)
class Place:
    """What a tile owns of a level, and where that is in the piece of the level that the tile has computed.

    Attributes:
        owned: positions of the level.
        in_piece: the same positions, counted from the first of the piece.
    """

    owned: Box
    in_piece: Box

    def of_piece(self, piece: Tensor) -> Tensor:
        """A view of what is owned, out of the tile's piece, shape (1, channels, height, width)."""
        return piece[self.in_piece.slices]

    def of_level(self, level: Tensor) -> Tensor:
        """A view of what is owned, out of the whole level, shape (1, channels, height, width)."""
        return level[self.owned.slices]


# What is done at a layer where a loss looks, with its name and features; what it returns goes on to the next layer.
Visit = Callable[[str, Tensor, Place], Tensor]


class TileChain:
    """The layers of a network up to the last at which a loss looks.

    Args:
        taps: names of the layers where a loss looks.
        strategy: what error messages call the one who asks.

    Attributes:
        taps: names of the layers where a loss looks, by their level.
        channels: of these layers, by their name.

    Raises:
        InputError: a layer that cannot be tiled.
    """

    def __init__(self, network: StyleNetwork, taps: Iterable[str], strategy: str = "tiled") -> None:
        names = [name for name, _ in network.layers.named_children()]
        self.taps = {names.index(name) + 1: name for name in taps}
        chain = layers_of(network, self.taps.values(), strategy)
        self._layers = [layer for _, layer, _ in chain]
        self._laid_at = _laid_at(self._layers)
        self._rows = [layer.windows.rows for layer in self._layers]
        self._columns = [layer.windows.columns for layer in self._layers]
        self._mean, self._std = network.mean, network.std
        self.channels = {name: channels for name, _, channels in chain if name in self.taps.values()}

    def smallest_side(self) -> int:
        """Side in pixels of the smallest tile."""
        return max(geometry.alignment(self._rows), geometry.alignment(self._columns))

    def halo_px(self) -> int:
        """The widest margin around what a tile owns that it needs of the image."""
        return max(*geometry.halo(self._rows, self.taps), *geometry.halo(self._columns, self.taps))

    def sizes(self, height: int, width: int) -> dict[str, tuple[int, int]]:
        """Height and width of each layer where a loss looks, for an image of this size."""
        rows, columns = geometry.sizes(self._rows, height), geometry.sizes(self._columns, width)
        return {name: (rows[level], columns[level]) for level, name in self.taps.items()}

    def tiles(self, height: int, width: int, side_px: int) -> tuple[Tile, ...]:
        """The image cut into tiles of at most `side_px`.

        Raises:
            InputError: the side is smaller than `smallest_side`.
        """
        self._check(side_px)
        return geometry.tiles(
            geometry.strips(self._rows, height, side_px, self.taps),
            geometry.strips(self._columns, width, side_px, self.taps),
            self.taps,
        )

    def bands(self, height: int, width: int, side_px: int, ranks: int) -> Bands:
        """The shares of so many ranks of the image, in tiles of at most `side_px`.

        Raises:
            InputError: the side is smaller than `smallest_side`.
        """
        self._check(side_px)
        products = [layer.products for layer in self._layers]
        return bands_of(self._rows, self._columns, (height, width), side_px, ranks, self.taps, products)

    def products(self, tiles: Iterable[Tile]) -> int:
        """How many multiplications the layers take for these tiles, halo included."""
        return sum(
            rows.length * columns.length * layer.products
            for tile in tiles
            for rows, columns, layer in zip(tile.rows.need[1:], tile.columns.need[1:], self._layers, strict=False)
        )

    def _check(self, side_px: int) -> None:
        least = self.smallest_side()
        if side_px < least:
            raise InputError(
                f"a tile of {side_px} px is too small; the smallest that this model allows is --tile={least}"
            )

    def extent(self, name: str, tiles: Sequence[Tile]) -> tuple[int, int]:
        """Height and width of what these tiles own of a layer where a loss looks, counted from its first position."""
        [level] = [level for level, tap in self.taps.items() if tap == name]
        owned = [tile.owned(level) for tile in tiles]
        return max((box.rows.stop for box in owned), default=0), max((box.columns.stop for box in owned), default=0)

    def pixels(self, image: Tensor, tile: Tile) -> Tensor:
        """A view of the pixels that a tile needs, halo included."""
        return image[Box(tile.rows.need[0], tile.columns.need[0]).slices]

    def run(self, pixels: Tensor, tile: Tile, visit: Visit) -> Tensor:
        """Run the layers on a tile's pixels; returns the last level's piece.

        A layer's padding is laid on before the ReLUs that it follows, which leave zeros alone: autograd then keeps
        one tensor for the output of the ReLU and the input of the convolution, not one with padding and one without.
        """
        mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (self._mean, self._std))
        piece = (pixels - mean) / std
        top, left = tile.rows.need[0].start, tile.columns.need[0].start
        for level in range(tile.depth + 1):
            owned = tile.owned(level)
            if level in self.taps and not owned.empty:
                in_piece = Box(owned.rows.seen_from(top), owned.columns.seen_from(left))
                piece = visit(self.taps[level], piece, Place(owned, in_piece))
            if level == tile.depth:
                break
            if level in self._laid_at:
                follower = self._laid_at[level]
                (above, below), (before, behind) = tile.rows.padding[follower], tile.columns.padding[follower]
                piece = pad(piece, (before, behind, above, below), self._layers[follower].padding_value)
                top, left = top - above, left - before
            layer = self._layers[level]
            if not isinstance(layer, Pointwise):
                read = Box(tile.rows.reads[level].seen_from(top), tile.columns.reads[level].seen_from(left))
                piece = piece[read.slices]
                top, left = tile.rows.need[level + 1].start, tile.columns.need[level + 1].start
            piece = layer.run(piece, (*tile.columns.padding[level], *tile.rows.padding[level]))
        return piece


def _laid_at(layers: Sequence[Layer]) -> dict[int, int]:
    """For each level at which padding is laid on, the layer (counted from 0) that it is meant for."""
    laid = {}
    for place, layer in enumerate(layers):
        level = place
        while layer.padding_value == 0.0 and level > 0 and isinstance(layers[level - 1], Pointwise):
            level -= 1
        if not isinstance(layer, Pointwise):
            laid[level] = place
    return laid
