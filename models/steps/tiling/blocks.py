"""A network as a chain of blocks that can be computed tile by tile: the layers up to and including a pooling layer."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from models.errors import InputError
from models.network import StyleNetwork
from models.steps.tiling.rectangles import AveragePool, Convolution, MaxPool
from models.steps.tiling.spans import Box, Span, Windows, clip


@dataclass(frozen=True)
class Rectifier:
    """max(x, 0)."""

    windows: Windows


Layer = Convolution | Rectifier | MaxPool | AveragePool


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
            box = clip(self.layers[place].windows.reads(boxes[0]), self.sizes[place])
            boxes.insert(0, box.hull(owned[place - 1]) if place - 1 in owned else box)
        return boxes

    def boxes_fed(self, given: Box) -> list[Box]:
        """For the input and each layer, what the part `given` of the input acts on; may be empty."""
        boxes = [given]
        for layer, size in zip(self.layers, self.sizes[1:], strict=True):
            boxes.append(layer.windows.feeds(boxes[-1], size))
        return boxes


def blocks_of(network: StyleNetwork, height: int, width: int) -> tuple[Block, ...]:
    """The network's chain for an image of that size, with each ReLU in front of a max pool moved behind it:
    max(relu(x)) = relu(max(x)), and there are fewer of them.

    Raises:
        InputError: a layer that is no convolution, ReLU or pooling layer, or one of these in an unusual form.
    """
    size, channels = (height, width), 3
    blocks: list[Block] = []
    names: list[str] = []
    layers: list[Layer] = []
    sizes, depths = [size], [channels]
    chain = _reordered(network)
    for place, (name, module) in enumerate(chain):
        layer = _layer(name, module, size)
        size = layer.windows.size(size)
        channels = module.out_channels if isinstance(module, nn.Conv2d) else channels
        layers.append(layer)
        names.append(name)
        sizes.append(size)
        depths.append(channels)
        if isinstance(layer, MaxPool | AveragePool) or place + 1 == len(chain):
            taps = frozenset(place for place, one in enumerate(names) if one in network.taps)
            blocks.append(Block(len(blocks), tuple(layers), tuple(names), tuple(sizes), tuple(depths), taps))
            names, layers, sizes, depths = [], [], [size], [channels]
    return tuple(blocks)


def _reordered(network: StyleNetwork) -> list[tuple[str, nn.Module]]:
    chain = list(network.layers.named_children())
    for place in range(len(chain) - 1):
        (name, module), (pool_name, pool) = chain[place : place + 2]
        if isinstance(module, nn.ReLU) and isinstance(pool, nn.MaxPool2d) and name not in network.taps:
            chain[place : place + 2] = [("", pool), (pool_name, module)]
    return chain


def _layer(name: str, module: nn.Module, size: tuple[int, int]) -> Layer:
    match module:
        case nn.Conv2d(padding_mode="zeros"):
            reach = [
                spacing * (kernel - 1) + 1 for spacing, kernel in zip(module.dilation, module.kernel_size, strict=True)
            ]
            return Convolution(module, Windows.of(tuple(reach), module.stride, _padding(name, module)))
        case nn.ReLU():
            return Rectifier(Windows.of(1, 1, 0))
        case nn.MaxPool2d(dilation=1 | (1, 1), return_indices=False):
            return MaxPool(Windows.of(module.kernel_size, module.stride, module.padding, module.ceil_mode))
        case nn.AvgPool2d():
            windows = Windows.of(module.kernel_size, module.stride, module.padding, module.ceil_mode)
            return AveragePool(windows, size, module.count_include_pad, module.divisor_override)
    raise InputError(
        f"layer {name!r} ({module}) cannot be computed tile by tile: that takes zero-padded convolutions, ReLU, and"
        " max or average pooling without dilation; use --strategy=plain or checkpointed"
    )


def _padding(name: str, module: nn.Conv2d) -> tuple[int, ...]:
    if module.padding == "valid":
        return (0, 0)
    if isinstance(module.padding, str):
        if any(kernel % 2 == 0 for kernel in module.kernel_size):
            raise InputError(f"layer {name!r} pads an even kernel with 'same', more behind than before; give numbers")
        return tuple(
            spacing * (kernel // 2) for spacing, kernel in zip(module.dilation, module.kernel_size, strict=True)
        )
    return module.padding


def _parts(length: int, count: int, unit: int) -> list[Span]:
    """`length` positions in up to `count` nearly equal spans whose edges are multiples of `unit`."""
    units = -(-length // unit)
    count = min(count, units)
    edges = [min(length, units * number // count * unit) for number in range(count + 1)]
    return [Span(start, stop) for start, stop in itertools.pairwise(edges)]
