"""A network as a chain of blocks that are computed tile by tile; each block ends with a pooling layer."""

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
from models.steps.tiling.layers import AveragePool, Convolution, Identity, Layer, MaxPool, Relu, tileable_layers


@dataclass(frozen=True)
class Block:
    """Consecutive layers of the chain. Layers are counted from 0; index -1 stands for the block's input.

    Attributes:
        number: index of the block in the chain.
        layers: the layers in order.
        names: name of each layer's output; empty if the network has no such output.
        sizes: height and width of the block's input, then of each layer's output.
        channels: number of channels of the same.
        loss_indices: indices of the loss layers.
    """

    number: int
    layers: tuple[Layer, ...]
    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    channels: tuple[int, ...]
    loss_indices: frozenset[int]

    @property
    def last_index(self) -> int:
        """Index of the last layer."""
        return len(self.layers) - 1

    def positions(self, index: int) -> int:
        """Number of positions of one channel of a layer's output."""
        return math.prod(self.sizes[index + 1])

    @property
    def recomputed_count(self) -> int:
        """How many of the first layers the backward pass computes again instead of storing what it needs of them.

        A leading ReLU, and one convolution with its ReLU if it is a loss layer. Storing would cost 4 bytes for each
        feature, and this convolution has the fewest input channels of its block.
        """
        leading = int(isinstance(self.layers[0], Relu))
        return max((index + 1 for index in self.loss_indices if index < leading + 2), default=leading)

    def stores_output(self, index: int) -> bool:
        """Whether the output of a layer is stored unchanged, for the losses."""
        return index in self.loss_indices and index >= self.recomputed_count

    def stores_signs(self, index: int) -> bool:
        """Whether the signs of a layer's output are stored, one bit per element."""
        is_relu = isinstance(self.layers[index], Relu)
        return is_relu and index >= self.recomputed_count and index not in self.loss_indices

    def tiles(self, index: int, tile_px: int, previous: "Block | None" = None) -> Iterator[Box]:
        """The output of a layer (-1: the input) cut into tiles, each with at most 64 * tile_px^2 numbers per layer.

        VGG's first block has 64 channels, so its tiles have a side of `tile_px`. Halos are not included.

        Args:
            previous: the block that is computed again for each tile of this one, if there is one.
        """
        counts = [1, 1]
        channels_of_layers, sizes = self.channels[1:], self.sizes[1:]
        if previous is not None:
            channels_of_layers, sizes = channels_of_layers + previous.channels[1:], sizes + previous.sizes[1:]
        for channels, size in zip(channels_of_layers, sizes, strict=True):
            side = max(1, int(tile_px * (64 / channels) ** 0.5))
            counts = [max(count, -(-length // side)) for count, length in zip(counts, size, strict=True)]
        # Tiles of the input start at a window of the pooling layer: nothing has to be cropped.
        units = self.strides if index < 0 else (1, 1)
        rows, columns = map(_parts, self.sizes[index + 1], counts, units)
        return (Box(row, column) for row in rows for column in columns)

    @property
    def strides(self) -> tuple[int, int]:
        """Distance between adjacent outputs of the block, in positions of its input: (rows, columns)."""
        windows = [layer.windows for layer in self.layers]
        return math.prod(one.rows.stride for one in windows), math.prod(one.columns.stride for one in windows)

    def owned(self, index: int, tile: Box) -> Box:
        """The part of a layer's output that a tile of the block's output owns; each feature has exactly one owner."""
        spans = []
        for span, size, whole in zip(tile, self.sizes[index + 1], self.sizes[-1], strict=True):
            spans.append(Span(span.start * size // whole, span.stop * size // whole))
        return Box(*spans)

    def required_boxes(self, last_index: int, output_box: Box, owned: dict[int, Box]) -> list[Box]:
        """The boxes of the input and of each layer up to `last_index` that `output_box` of that layer depends on.

        Args:
            owned: boxes of some layers that are computed in any case, by index.
        """
        boxes = [output_box]
        for index in range(last_index, -1, -1):
            box = self.layers[index].windows.inputs(boxes[0]).clipped(self.sizes[index])
            boxes.insert(0, box.hull(owned[index - 1]) if index - 1 in owned else box)
        return boxes

    def dependent_boxes(self, input_box: Box) -> list[Box]:
        """The boxes of the input and of each layer that depend on `input_box` of the input; may be empty."""
        boxes = [input_box]
        for layer, size in zip(self.layers, self.sizes[1:], strict=True):
            boxes.append(layer.windows.dependents(boxes[-1], size))
        return boxes


def blocks_of(network: StyleNetwork, height: int, width: int) -> tuple[Block, ...]:
    """The network up to its last loss layer, for an image of this size in pixels.

    Each ReLU before a max pool is moved behind it, where there are fewer elements: max(relu(x)) = relu(max(x)).

    Raises:
        InputError: a layer cannot be computed tile by tile, or its output is empty.
    """
    size, channels = (height, width), 3
    blocks: list[Block] = []
    names: list[str] = []
    layers: list[Layer] = []
    sizes, channel_counts = [size], [channels]
    chain = _move_relus_behind_pools(tileable_layers(network, network.loss_layers, "streamed"), network.loss_layers)
    for index, (name, layer, channels) in enumerate(chain):
        if isinstance(layer, MaxPool) and layer.argmax_bits > 8:
            raise InputError(f"strategy 'streamed' cannot run layer {name!r}: its window has more than 256 positions")
        size = layer.windows.outputs(size)
        if not min(size):
            raise InputError(f"the network shrinks {width}x{height} px to nothing; give a larger image")
        layers.append(layer)
        names.append(name)
        sizes.append(size)
        channel_counts.append(channels)
        if isinstance(layer, MaxPool | AveragePool) or index + 1 == len(chain):
            indices = frozenset(index for index, name in enumerate(names) if name in network.loss_layers)
            blocks.append(Block(len(blocks), tuple(layers), tuple(names), tuple(sizes), tuple(channel_counts), indices))
            names, layers, sizes, channel_counts = [], [], [size], [channels]
    return tuple(blocks)


def _move_relus_behind_pools(
    chain: Sequence[tuple[str, Layer, int]], loss_layers: frozenset[str]
) -> list[tuple[str, Layer, int]]:
    reordered = list(chain)
    for index in range(len(reordered) - 1):
        (name, layer, channels), (pool_name, pool, _) = reordered[index : index + 2]
        if isinstance(layer, Relu) and isinstance(pool, MaxPool) and name not in loss_layers:
            reordered[index : index + 2] = [("", pool, channels), (pool_name, layer, channels)]
    return reordered


def _parts(length: int, count: int, unit: int) -> list[Span]:
    """`length` positions cut into at most `count` nearly equal spans that start at multiples of `unit`."""
    cuts = even_parts(length, min(count, -(-length // unit)), unit)
    return [Span(start, min(stop, length)) for start, stop in itertools.pairwise(cuts)]


def run_layers(block: Block, features: Tensor, boxes: list[Box]) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """Run the block's first layers; yields each layer's index, output, and argmax if it is a max pool.

    Args:
        features: the block's input at the first of `boxes`, shape (1, channels, height, width).
        boxes: the boxes of the input and of each layer's output to compute; see `Block.required_boxes`.
    """
    argmax: Tensor | None
    for index, (input_box, output_box) in enumerate(itertools.pairwise(boxes)):
        layer, argmax = block.layers[index], None
        match layer:
            case Relu():
                features = crop_within(features, input_box, output_box)
                # In place unless the input is also used elsewhere.
                previous_is_loss = index - 1 in block.loss_indices
                inplace = index > 0 and not previous_is_loss and not isinstance(block.layers[index - 1], Identity)
                features = relu(features, inplace=inplace)
            case Identity():
                features = crop_within(features, input_box, output_box)
            case MaxPool():
                features, argmax = layer.forward(features, input_box, output_box)
            case Convolution():
                features = layer.forward(features, input_box, output_box)
            case AveragePool():
                features = layer.forward(features, input_box, output_box, block.sizes[index])
        yield index, features, argmax


def crop(whole: Tensor, box: Box) -> Tensor:
    """The part of a whole map at `box`, channels last in memory."""
    return whole[box.slices].contiguous(memory_format=torch.channels_last)


def crop_within(features: Tensor, features_box: Box, box: Box) -> Tensor:
    """The part at `box` of features that lie at `features_box` of their map."""
    return features if features_box == box else crop(features, box.relative_to(features_box))
