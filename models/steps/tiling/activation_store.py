"""What `streamed` keeps of an image between its two passes: whole maps where it must, one bit per element elsewhere.

The backward pass of ReLU needs one bit per element of its output, that of max pooling a few. Eight neighbouring
channels share a byte, so that any rectangle of positions can be written and read by itself. The packing is the
multiplication of an int64 that holds eight bytes of 0 or 1 (Warren 2013, "Hacker's Delight", section 7-4): it works
with plain tensor operators, on every device, and on fake tensors.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from models.steps.tiling.blocks import Block
from models.steps.tiling.geometry import Box
from models.steps.tiling.layers import MaxPool

# Moves bit 0 of byte j to bit 56 + j; no two bits meet, so that nothing carries.
_GATHER = 0x0102040810204080
_SPREAD = 0x0101010101010101
# Byte j keeps bit j; written as a negative number, because int64 is signed.
_SELECT = 0x8040201008040201 - 2**64


def packed_channels(channels: int) -> int:
    """Bytes that hold one bit of each channel."""
    return (channels + 7) // 8


def pack(bits: Tensor) -> Tensor:
    """Booleans of shape (height, width, channels) as uint8 of shape (height, width, packed_channels)."""
    if bits.shape[-1] % 8:
        bits = pad(bits, (0, -bits.shape[-1] % 8))
    # By way of (bytes, 8): a contiguous tensor has any strides along dimensions of size 1, which words cannot have.
    words = bits.contiguous().view(-1, 8).view(torch.int64).view(*bits.shape[:2], bits.shape[2] // 8)
    return (words * _GATHER).bitwise_right_shift_(56).to(torch.uint8)


def unpack(packed: Tensor, channels: int) -> Tensor:
    """What `pack` was given, for that number of channels."""
    words = (packed.to(torch.int64) * _SPREAD).bitwise_and_(_SELECT)
    return words.view(torch.uint8)[..., :channels] != 0


class Memory:
    """Filled tile by tile by pass 1, read tile by tile by pass 2.

    Args:
        for_backward: whether there will be a pass 2; statistics alone need less.

    Attributes:
        grams: Gram matrix of each style layer, shape (channels, channels).
        content: features of the content layer, without a pass 2; else None.
        content_sum: with a pass 2, the squared differences of these and their target, summed up.
    """

    def __init__(self, for_backward: bool) -> None:
        self.for_backward = for_backward
        self.grams: dict[str, Tensor] = {}
        self.content: Tensor | None = None
        self.content_sum: Tensor | float = 0.0
        self._whole: dict[tuple[int, int], Tensor] = {}
        self._packed: dict[tuple[int, int], Tensor] = {}

    def keep(self, block: Block, place: int, box: Box, features: Tensor, choice: Tensor | None) -> None:
        """Keep what pass 2 needs of a layer's output at `box`, and the next block in any case."""
        key = block.number, place
        if place == block.last or (self.for_backward and block.keeps_whole(place)):
            if key not in self._whole:
                self._whole[key] = whole_map(block, place, features)
            self._whole[key][box.slices] = features
        elif self.for_backward and block.keeps_signs(place):
            self._store(block, place, box, [features > 0])
        if self.for_backward and choice is not None:
            layer = block.layers[place]
            assert isinstance(layer, MaxPool)
            self._store(block, place, box, [choice.bitwise_and(1 << plane) > 0 for plane in range(layer.planes)])

    def whole(self, block: Block, place: int) -> Tensor:
        """The output of a layer that is kept whole."""
        return self._whole[block.number, place]

    def has_output(self, block: Block) -> bool:
        """Whether what a block puts out is here."""
        return (block.number, block.last) in self._whole

    def forget(self, block: Block) -> None:
        """Let go of all that is kept of a block."""
        for kept in (self._whole, self._packed):
            for key in [key for key in kept if key[0] == block.number]:
                del kept[key]

    def forget_output(self, block: Block) -> None:
        """Let go of what a block puts out, unless a loss looks at it."""
        if not (self.for_backward and block.keeps_whole(block.last)):
            self._whole.pop((block.number, block.last), None)

    def signs(self, block: Block, place: int, box: Box) -> Tensor:
        """Where a ReLU's input was positive, as booleans of shape (1, channels, height, width)."""
        return self._load(block, place, box)[0]

    def choice(self, block: Block, place: int, box: Box) -> Tensor:
        """Which place of its window each output of a max pool took, as uint8 of shape (1, channels, height, width)."""
        planes = self._load(block, place, box)
        choice = planes[0].to(torch.uint8)
        for plane, bits in enumerate(planes[1:], start=1):
            choice += bits.to(torch.uint8) << plane
        return choice

    def _store(self, block: Block, place: int, box: Box, planes: list[Tensor]) -> None:
        key = block.number, place
        packed = torch.cat([pack(bits[0].permute(1, 2, 0)) for bits in planes], dim=2)
        if key not in self._packed:
            self._packed[key] = packed.new_zeros(*block.sizes[place + 1], packed.shape[2])
        self._packed[key][box.slices[2:]] = packed

    def _load(self, block: Block, place: int, box: Box) -> list[Tensor]:
        channels = block.channels[place + 1]
        packed = self._packed[block.number, place][box.slices[2:]]
        planes = packed.split(packed_channels(channels), dim=2)
        return [unpack(plane, channels).permute(2, 0, 1).unsqueeze(0) for plane in planes]


def whole_map(block: Block, place: int, like: Tensor) -> Tensor:
    """Room for the whole output of a layer (-1: the block's input), of the kind of `like`."""
    shape = (1, block.channels[place + 1], *block.sizes[place + 1])
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
