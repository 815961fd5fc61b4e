"""A network as a chain of blocks that are computed tile by tile: the layers up to and including a pooling layer."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import relu

from models.errors import InputError
from models.network import StyleNetwork
from models.steps.tiling.geometry import Box, Span, even_parts
from models.steps.tiling.layers import AveragePool, Convolution, Layer, MaxPool, Rectifier, Unchanged, layers_of


@dataclass(frozen=True)
class Block:
    """A part of the chain.

    Attributes:
        number: which block of the chain.
        layers: what is computed, in order.
        names: name of what each layer puts out; empty where it has none in the network.
        sizes: height and width of the block's input, then of each layer's output.
        channels: of the same.
        taps: places of layers that a loss looks at.
    """

    number: int
    layers: tuple[Layer, ...]
    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    channels: tuple[int, ...]
    taps: frozenset[int]

    @property
    def last(self) -> int:
        """Place of the last layer."""
        return len(self.layers) - 1

    def positions(self, place: int) -> int:
        """How many positions a channel of layer `place` has."""
        return math.prod(self.sizes[place + 1])

    @property
    def recomputed(self) -> int:
        """How many first layers the backward pass computes again rather than keep what it needs of them.

        A ReLU that the block begins with, and one convolution with its ReLU if a loss looks at it: each of these
        features would cost 4 bytes, and the convolution has the fewest input channels of its block.
        """
        leading = int(isinstance(self.layers[0], Rectifier))
        return max((place + 1 for place in self.taps if place < leading + 2), default=leading)

    def keeps_whole(self, place: int) -> bool:
        """Whether the output of layer `place` is kept as it is, for the losses."""
        return place in self.taps and place >= self.recomputed

    def keeps_signs(self, place: int) -> bool:
        """Whether one bit per element of layer `place` is kept."""
        rectified = isinstance(self.layers[place], Rectifier)
        return rectified and place >= self.recomputed and place not in self.taps

    def tiles(self, place: int, tile_px: int, before: "Block | None" = None) -> Iterator[Box]:
        """The output of layer `place` (-1: the input), cut up so that no layer has over 64 * tile_px^2 numbers a tile.

        64 is the width of VGG's first block: there, a tile has a side of `tile_px`. Halos come on top.

        Args:
            before: the block that is computed again for each tile of this one, if there is one.
        """
        counts = [1, 1]
        channels_of_layers, sizes = self.channels[1:], self.sizes[1:]
        if before is not None:
            channels_of_layers, sizes = channels_of_layers + before.channels[1:], sizes + before.sizes[1:]
        for channels, size in zip(channels_of_layers, sizes, strict=True):
            side = max(1, int(tile_px * (64 / channels) ** 0.5))
            counts = [max(count, -(-length // side)) for count, length in zip(counts, size, strict=True)]
        # Edges between windows of a pool rather than within one: nothing has to be cropped then.
        units = self.strides if place < 0 else (1, 1)
        rows, columns = map(_parts, self.sizes[place + 1], counts, units)
        return (Box(row, column) for row in rows for column in columns)

    @property
    def strides(self) -> tuple[int, int]:
        """Distance of two neighbouring outputs of the block, in positions of its input."""
        windows = [layer.windows for layer in self.layers]
        return math.prod(one.rows.stride for one in windows), math.prod(one.columns.stride for one in windows)

    def owned(self, place: int, tile: Box) -> Box:
        """The part of layer `place` that belongs to a tile of the block's output: every feature to exactly one."""
        spans = []
        for span, size, whole in zip(tile, self.sizes[place + 1], self.sizes[-1], strict=True):
            spans.append(Span(span.start * size // whole, span.stop * size // whole))
        return Box(*spans)

    def boxes_read(self, last: int, wanted: Box, owned: dict[int, Box]) -> list[Box]:
        """For the input and each layer up to `last`, what must be computed to have `wanted` of the last.

        Args:
            owned: for some layers, what must be computed of them in any case.
        """
        boxes = [wanted]
        for place in range(last, -1, -1):
            box = self.layers[place].windows.inputs(boxes[0]).within(self.sizes[place])
            boxes.insert(0, box.joined(owned[place - 1]) if place - 1 in owned else box)
        return boxes

    def boxes_fed(self, given: Box) -> list[Box]:
        """For the input and each layer, what the part `given` of the input acts on; may be empty."""
        boxes = [given]
        for layer, size in zip(self.layers, self.sizes[1:], strict=True):
            boxes.append(layer.windows.feeds(boxes[-1], size))
        return boxes


def blocks_of(network: StyleNetwork, height: int, width: int) -> tuple[Block, ...]:
    """The network up to the last layer that a loss looks at, for an image of that size.

    Each ReLU in front of a max pool is moved behind it: max(relu(x)) = relu(max(x)), and there are fewer of them.

    Raises:
        InputError: a layer that cannot be computed tile by tile, or that shrinks the image to nothing.
    """
    size, channels = (height, width), 3
    blocks: list[Block] = []
    names: list[str] = []
    layers: list[Layer] = []
    sizes, depths = [size], [channels]
    chain = _reordered(layers_of(network, network.taps, "streamed"), network.taps)
    for place, (name, layer, channels) in enumerate(chain):
        if isinstance(layer, MaxPool) and layer.planes > 8:
            raise InputError(f"strategy 'streamed' cannot run layer {name!r}: its window has more than 256 positions")
        size = layer.windows.outputs(size)
        if not min(size):
            raise InputError(f"the network shrinks {width}x{height} px to nothing; give a larger image")
        layers.append(layer)
        names.append(name)
        sizes.append(size)
        depths.append(channels)
        if isinstance(layer, MaxPool | AveragePool) or place + 1 == len(chain):
            taps = frozenset(place for place, one in enumerate(names) if one in network.taps)
            blocks.append(Block(len(blocks), tuple(layers), tuple(names), tuple(sizes), tuple(depths), taps))
            names, layers, sizes, depths = [], [], [size], [channels]
    return tuple(blocks)


def _reordered(chain: Sequence[tuple[str, Layer, int]], taps: frozenset[str]) -> list[tuple[str, Layer, int]]:
    reordered = list(chain)
    for place in range(len(reordered) - 1):
        (name, layer, channels), (pool_name, pool, _) = reordered[place : place + 2]
        if isinstance(layer, Rectifier) and isinstance(pool, MaxPool) and name not in taps:
            reordered[place : place + 2] = [("", pool, channels), (pool_name, layer, channels)]
    return reordered


def _parts(length: int, count: int, unit: int) -> list[Span]:
    """`length` positions in up to `count` nearly equal spans whose edges are multiples of `unit`."""
    cuts = even_parts(length, min(count, -(-length // unit)), unit)
    return [Span(start, min(stop, length)) for start, stop in itertools.pairwise(cuts)]


def layer_by_layer(block: Block, features: Tensor, boxes: list[Box]) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """Run the block's first layers, and yield the place, the output and, of a max pool, the choices of each.

    Args:
        features: the block's input at the first of `boxes`, shape (1, channels, height, width).
        boxes: what is computed of the input and of each layer's output, see `Block.boxes_read`.
    """
    choice: Tensor | None
    for place, (held, wanted) in enumerate(itertools.pairwise(boxes)):
        layer, choice = block.layers[place], None
        match layer:
            case Rectifier():
                features = part_of(features, held, wanted)
                # In place where nobody else has what is overwritten.
                fresh = place > 0 and place - 1 not in block.taps and not isinstance(block.layers[place - 1], Unchanged)
                features = relu(features, inplace=fresh)
            case Unchanged():
                features = part_of(features, held, wanted)
            case MaxPool():
                features, choice = layer.forward(features, held, wanted)
            case Convolution():
                features = layer.forward(features, held, wanted)
            case AveragePool():
                features = layer.forward(features, held, wanted, block.sizes[place])
        yield place, features, choice


def cut_out(whole: Tensor, box: Box) -> Tensor:
    """The part of a whole map at `box`, channels last in memory."""
    return whole[box.slices].contiguous(memory_format=torch.channels_last)


def part_of(features: Tensor, held: Box, wanted: Box) -> Tensor:
    """The part at `wanted` of `features`, which are those at `held`."""
    return features if held == wanted else cut_out(features, wanted.seen_from(held))
