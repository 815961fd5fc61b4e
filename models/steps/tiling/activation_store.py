"""The activations that `streamed` stores between its two passes: few feature maps, otherwise bits.

The backward pass of a ReLU needs one bit per element of its output, that of a max pool a few bits. Eight adjacent
channels share a byte, so that a tile can be written and read by itself. Packing multiplies an int64 of eight bytes with
value 0 or 1 (Warren 2013, "Hacker's Delight", section 7-4). This needs plain tensor operators only: it runs on every
device and on fake tensors.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from models.steps.tiling.blocks import Block
from models.steps.tiling.geometry import Box
from models.steps.tiling.layers import MaxPool

# Moves bit 0 of byte j to bit 56 + j. No two bits coincide, so nothing carries.
_GATHER = 0x0102040810204080
_SPREAD = 0x0101010101010101
# Selects bit j of byte j. Written as a negative number, because int64 is signed.
_SELECT = 0x8040201008040201 - 2**64


def packed_channels(channels: int) -> int:
    """Number of bytes that hold one bit per channel."""
    return (channels + 7) // 8


def pack(bits: Tensor) -> Tensor:
    """Booleans of shape (height, width, channels) as uint8 of shape (height, width, packed_channels)."""
    if bits.shape[-1] % 8:
        bits = pad(bits, (0, -bits.shape[-1] % 8))
    # Through shape (-1, 8): strides of dimensions of size 1 are arbitrary, and could prevent a view as int64.
    words = bits.contiguous().view(-1, 8).view(torch.int64).view(*bits.shape[:2], bits.shape[2] // 8)
    return (words * _GATHER).bitwise_right_shift_(56).to(torch.uint8)


def unpack(packed: Tensor, channels: int) -> Tensor:
    """The inverse of `pack`: booleans of shape (height, width, channels)."""
    words = (packed.to(torch.int64) * _SPREAD).bitwise_and_(_SELECT)
    return words.view(torch.uint8)[..., :channels] != 0


class ActivationStore:
    """Results of pass 1: written by pass 1 and read by pass 2, tile by tile.

    Args:
        for_backward: whether pass 2 follows. The targets are computed without it, and need less.

    Attributes:
        grams: Gram matrix of each style layer, shape (channels, channels).
        content: without pass 2, the features of the content layer, shape (1, channels, height, width); else None.
        content_squared_error: with pass 2, the sum of squared differences of these features and their target.
    """

    def __init__(self, for_backward: bool) -> None:
        self.for_backward = for_backward
        self.grams: dict[str, Tensor] = {}
        self.content: Tensor | None = None
        self.content_squared_error: Tensor | float = 0.0
        self._outputs: dict[tuple[int, int], Tensor] = {}
        self._packed: dict[tuple[int, int], Tensor] = {}

    def add(self, block: Block, index: int, box: Box, features: Tensor, argmax: Tensor | None) -> None:
        """Store what pass 2 and the next block need of a layer's output at `box`.

        Args:
            argmax: of a max pool, see `MaxPool.forward`; None for other layers.
        """
        key = block.number, index
        if index == block.last_index or (self.for_backward and block.stores_output(index)):
            if key not in self._outputs:
                self._outputs[key] = empty_output(block, index, features)
            self._outputs[key][box.slices] = features
        elif self.for_backward and block.stores_signs(index):
            self._add_bits(block, index, box, [features > 0])
        if self.for_backward and argmax is not None:
            layer = block.layers[index]
            assert isinstance(layer, MaxPool)
            self._add_bits(block, index, box, [argmax.bitwise_and(1 << bit) > 0 for bit in range(layer.argmax_bits)])

    def output(self, block: Block, index: int) -> Tensor:
        """A layer's whole output, if it is stored unchanged."""
        return self._outputs[block.number, index]

    def has_output(self, block: Block) -> bool:
        """Whether the output of a block is stored."""
        return (block.number, block.last_index) in self._outputs

    def drop(self, block: Block) -> None:
        """Free everything that is stored of a block."""
        for stored in (self._outputs, self._packed):
            for key in [key for key in stored if key[0] == block.number]:
                del stored[key]

    def drop_output(self, block: Block) -> None:
        """Free the output of a block, unless pass 2 needs it for a loss."""
        if not (self.for_backward and block.stores_output(block.last_index)):
            self._outputs.pop((block.number, block.last_index), None)

    def signs(self, block: Block, index: int, box: Box) -> Tensor:
        """Whether each output of a ReLU is positive: booleans of shape (1, channels, height, width)."""
        return self._read_bits(block, index, box)[0]

    def argmax(self, block: Block, index: int, box: Box) -> Tensor:
        """Index of the maximum in each window of a max pool: uint8 of shape (1, channels, height, width)."""
        bit_planes = self._read_bits(block, index, box)
        argmax = bit_planes[0].to(torch.uint8)
        for bit, bits in enumerate(bit_planes[1:], start=1):
            argmax += bits.to(torch.uint8) << bit
        return argmax

    def _add_bits(self, block: Block, index: int, box: Box, bit_planes: list[Tensor]) -> None:
        key = block.number, index
        packed = torch.cat([pack(bits[0].permute(1, 2, 0)) for bits in bit_planes], dim=2)
        if key not in self._packed:
            self._packed[key] = packed.new_zeros(*block.sizes[index + 1], packed.shape[2])
        self._packed[key][box.slices[2:]] = packed

    def _read_bits(self, block: Block, index: int, box: Box) -> list[Tensor]:
        channels = block.channels[index + 1]
        packed = self._packed[block.number, index][box.slices[2:]]
        bit_planes = packed.split(packed_channels(channels), dim=2)
        return [unpack(bits, channels).permute(2, 0, 1).unsqueeze(0) for bits in bit_planes]


def empty_output(block: Block, index: int, like: Tensor) -> Tensor:
    """An uninitialised tensor for the whole output of a layer (-1: the block's input), of the type of `like`."""
    shape = (1, block.channels[index + 1], *block.sizes[index + 1])
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
