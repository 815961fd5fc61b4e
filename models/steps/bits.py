"""One bit per element: what the backward pass of ReLU and max pooling needs of a feature map.

Eight neighbouring channels share a byte, so that any rectangle of positions can be written and read by itself. The
packing is the multiplication of an int64 that holds eight bytes of 0 or 1 (Warren 2013, "Hacker's Delight", section
7-4): it works with plain tensor operators, on every device, and on fake tensors.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

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
    words = bits.contiguous().view(torch.int64)
    return (words * _GATHER).bitwise_right_shift_(56).to(torch.uint8)


def unpack(packed: Tensor, channels: int) -> Tensor:
    """What `pack` was given, for that number of channels."""
    words = (packed.to(torch.int64) * _SPREAD).bitwise_and_(_SELECT)
    return words.view(torch.uint8)[..., :channels] != 0
