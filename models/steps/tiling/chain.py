"""Runs a network on single tiles of an image; each layer computes the same values as on the whole image.

Tiles are independent: a pass may compute them in any order, or only some of them. A prediction of memory computes only
the tile that takes the most; see `tile_selection` and `fixtures.worker.estimate`.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import InputError
from models.network import Normalisation, StyleNetwork
from models.steps.tiling import geometry
from models.steps.tiling.geometry import Box, Tile
from models.steps.tiling.layers import Layer, Pointwise, pad, tileable_layers
from models.steps.tiling.partition import Partition, partition_image

TileSelector = Callable[[Sequence[Tile]], Iterable[Tile]]

_SELECT_TILES: ContextVar[TileSelector] = ContextVar("select_tiles", default=iter)


def selected_tiles(tiles: Sequence[Tile]) -> Iterable[Tile]:
    """The tiles to compute: all, or those chosen by `tile_selection`."""
    return _SELECT_TILES.get()(tiles)


@contextlib.contextmanager
def tile_selection(select: TileSelector) -> Iterator[None]:
    """Within the context, every pass computes the tiles that `select` returns. Results lack the other tiles."""
    before = _SELECT_TILES.set(select)
    try:
        yield
    finally:
        _SELECT_TILES.reset(before)


@dataclass(frozen=True)
class OwnedRegion:
    """The positions of a level that a tile owns.

    Attributes:
        in_level: as positions of the level.
        in_piece: as positions of the piece, the part of the level that the tile computes.
    """

    in_level: Box
    in_piece: Box

    def view_piece(self, piece: Tensor) -> Tensor:
        """The owned part of the tile's piece as a view, shape (1, channels, height, width)."""
        return piece[self.in_piece.slices]

    def view_level(self, level: Tensor) -> Tensor:
        """The owned part of the whole level as a view, shape (1, channels, height, width)."""
        return level[self.in_level.slices]


# Called at each loss layer with the layer's name and features; the next layer gets the features that it returns.
LossLayerHook = Callable[[str, Tensor, OwnedRegion], Tensor]


class TileChain:
    """The layers of a network up to its last loss layer.

    Args:
        strategy: named in error messages.

    Attributes:
        loss_levels: names of the loss layers, by level.
        channels: number of channels of each loss layer, by name.

    Raises:
        InputError: a layer that cannot be tiled.
    """

    def __init__(self, network: StyleNetwork, strategy: str = "tiled") -> None:
        names = [name for name, _ in network.layers.named_children()]
        self.loss_levels = {names.index(name) + 1: name for name in network.loss_layers}
        chain = tileable_layers(network, self.loss_levels.values(), strategy)
        self._layers = [layer for _, layer, _ in chain]
        self._padding_levels = _padding_levels(self._layers)
        self._rows = [layer.windows.rows for layer in self._layers]
        self._columns = [layer.windows.columns for layer in self._layers]
        self._network = network
        self._normalisations: dict[tuple[torch.device, torch.dtype], Normalisation] = {}
        self.channels = {name: channels for name, _, channels in chain if name in self.loss_levels.values()}

    def smallest_side(self) -> int:
        """Side in pixels of the smallest tile."""
        return max(geometry.alignment(self._rows), geometry.alignment(self._columns))

    def halo_px(self) -> int:
        """Largest width of an inner tile's halo, in pixels."""
        return max(*geometry.halo(self._rows, self.loss_levels), *geometry.halo(self._columns, self.loss_levels))

    def sizes(self, height: int, width: int) -> dict[str, tuple[int, int]]:
        """Height and width of each loss layer's output, for an image of this size."""
        rows, columns = geometry.sizes(self._rows, height), geometry.sizes(self._columns, width)
        return {name: (rows[level], columns[level]) for level, name in self.loss_levels.items()}

    def tiles(self, height: int, width: int, side_px: int) -> tuple[Tile, ...]:
        """The image cut into tiles of at most `side_px`.

        Raises:
            InputError: the side is smaller than `smallest_side`.
        """
        self._check_side(side_px)
        return geometry.tiles(
            geometry.strips(self._rows, height, side_px, self.loss_levels),
            geometry.strips(self._columns, width, side_px, self.loss_levels),
            self.loss_levels,
        )

    def partition(self, height: int, width: int, side_px: int, ranks: int) -> Partition:
        """The image cut into one part per rank, and each part into tiles of at most `side_px`.

        Raises:
            InputError: the side is smaller than `smallest_side`.
        """
        self._check_side(side_px)
        macs = [layer.macs for layer in self._layers]
        return partition_image(self._rows, self._columns, (height, width), side_px, ranks, self.loss_levels, macs)

    def macs(self, tiles: Iterable[Tile]) -> int:
        """Multiply-accumulate operations of a forward pass over these tiles, including halos."""
        total = 0
        for tile in tiles:
            outputs = zip(tile.rows.computed[1:], tile.columns.computed[1:], self._layers, strict=False)
            total += sum(rows.length * columns.length * layer.macs for rows, columns, layer in outputs)
        return total

    def _check_side(self, side_px: int) -> None:
        least = self.smallest_side()
        if side_px < least:
            raise InputError(
                f"a tile of {side_px} px is too small; the smallest that this model allows is --tile={least}"
            )

    def owned_size(self, name: str, tiles: Sequence[Tile]) -> tuple[int, int]:
        """Height and width of the positions of a loss layer that these tiles own."""
        [level] = [level for level, layer_name in self.loss_levels.items() if layer_name == name]
        owned = [tile.owned(level) for tile in tiles]
        return max((box.rows.stop for box in owned), default=0), max((box.columns.stop for box in owned), default=0)

    def pixels(self, image: Tensor, tile: Tile) -> Tensor:
        """The pixels that a tile reads, including its halo, as a view."""
        return image[Box(tile.rows.computed[0], tile.columns.computed[0]).slices]

    def run(self, pixels: Tensor, tile: Tile, hook: LossLayerHook) -> Tensor:
        """Run the layers on a tile's pixels.

        A layer's padding is applied before the ReLUs in front of it, which map zeros to zeros. Autograd then stores one
        tensor as output of the ReLU and input of the convolution, not one with padding and one without.

        Returns: the tile's piece of the last level, shape (1, channels, height, width).
        """
        piece = self._normalise(pixels)
        top, left = tile.rows.computed[0].start, tile.columns.computed[0].start
        for level in range(tile.depth + 1):
            owned = tile.owned(level)
            if level in self.loss_levels and not owned.empty:
                in_piece = Box(owned.rows.relative_to(top), owned.columns.relative_to(left))
                piece = hook(self.loss_levels[level], piece, OwnedRegion(owned, in_piece))
            if level == tile.depth:
                break
            if level in self._padding_levels:
                index = self._padding_levels[level]
                (above, below), (before, after) = tile.rows.padding[index], tile.columns.padding[index]
                piece = pad(piece, (before, after, above, below), self._layers[index].padding_value)
                top, left = top - above, left - before
            layer = self._layers[level]
            if not isinstance(layer, Pointwise):
                read = Box(tile.rows.reads[level].relative_to(top), tile.columns.reads[level].relative_to(left))
                piece = piece[read.slices]
                top, left = tile.rows.computed[level + 1].start, tile.columns.computed[level + 1].start
            piece = layer.run(piece, (*tile.columns.padding[level], *tile.rows.padding[level]))
        return piece

    def _normalise(self, pixels: Tensor) -> Tensor:
        # Its constants are kept: a copy of a list to an accelerator waits for all that is queued there.
        key = pixels.device, pixels.dtype
        if key not in self._normalisations:
            self._normalisations[key] = Normalisation(self._network, pixels)
        return self._normalisations[key](pixels)


def _padding_levels(layers: Sequence[Layer]) -> dict[int, int]:
    """For each level at which padding is applied, the index of the layer that reads it."""
    levels = {}
    for index, layer in enumerate(layers):
        level = index
        while layer.padding_value == 0.0 and level > 0 and isinstance(layers[level - 1], Pointwise):
            level -= 1
        if not isinstance(layer, Pointwise):
            levels[level] = index
    return levels
