"""The U-Net of denoising diffusion on pixels (Ho et al. 2020, "Denoising Diffusion Probabilistic Models", appendix B).

`unet` is the model for images of 256 x 256: six sizes from 256 down to 8, two residual blocks each, attention at 16 x
16 and at the bottom only. ADM (Dhariwal & Nichol 2021) has this shape with more channels and attention at more sizes.
It predicts the noise of pixels, so that its image needs no decoder. `unet_s` has a quarter of its channels.
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from models.generators import Generator, sinusoids
from models.residual import EPSILON, Downsampling, MiddleBlock, ResidualBlock, SpatialAttention, Upsampling

BLOCKS = 2
IMAGE_CHANNELS = 3
TIMESTEPS = 1000
# The fifth size: 16 x 16 of an image of 256 x 256.
ATTENTION_LEVEL = 4


def unet() -> "UNet":
    """DDPM for 256 x 256: 114 million parameters (appendix B of the paper)."""
    with torch.device("meta"):
        return UNet((128, 128, 256, 256, 512, 512), groups=32)


def unet_s() -> "UNet":
    """A quarter of the channels of `unet`, for a cpu: 7 million parameters."""
    with torch.device("meta"):
        return UNet((32, 32, 64, 64, 128, 128), groups=8)


class UNet(Generator):
    """Noisy pixels and timesteps to the noise, shape (batch, 3, height, width).

    Args:
        channels: at each size, from the largest.
        groups: of each group normalisation.
    """

    latent_channels = IMAGE_CHANNELS
    latent_px = 1

    def __init__(self, channels: Sequence[int], groups: int) -> None:
        super().__init__()
        self.factor_px = 2 ** (len(channels) - 1)
        self._sinusoids = channels[0]
        width = 4 * channels[0]
        self.conv_in = nn.Conv2d(IMAGE_CHANNELS, channels[0], 3, padding=1)
        self.time_embedding = nn.ModuleDict(
            {"linear_1": nn.Linear(channels[0], width), "linear_2": nn.Linear(width, width)}
        )
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skipped = [channels[0]]  # channels of what the way up takes from the way down
        last = len(channels) - 1
        features = channels[0]
        for level, out in enumerate(channels):
            inputs = [features, *[out] * (BLOCKS - 1)]
            self.down_blocks.append(Level(inputs, out, groups, width, level == ATTENTION_LEVEL))
            self.down_blocks[-1].downsamplers = nn.ModuleList([Downsampling(out)] if level < last else [])
            skipped += [out] * (BLOCKS + (level < last))
            features = out
        self.mid_block = MiddleBlock(features, groups, width)
        for level, out in reversed(list(enumerate(channels))):
            inputs = [(features if index == 0 else out) + skipped.pop() for index in range(BLOCKS + 1)]
            self.up_blocks.append(Level(inputs, out, groups, width, level == ATTENTION_LEVEL))
            self.up_blocks[-1].upsamplers = nn.ModuleList([Upsampling(out)] if level > 0 else [])
            features = out
        self.conv_norm_out = nn.GroupNorm(groups, features, EPSILON)
        self.conv_out = nn.Conv2d(features, IMAGE_CHANNELS, 3, padding=1)

    def conditions(self, batch: int, device: torch.device) -> tuple[Tensor, ...]:
        return (torch.randint(TIMESTEPS, (batch,), device=device),)

    def forward(self, pixels: Tensor, timesteps: Tensor) -> Tensor:
        waves = sinusoids(timesteps, self._sinusoids, self._sinusoids // 2 - 1).to(pixels.dtype)
        condition = self.time_embedding["linear_2"](silu(self.time_embedding["linear_1"](waves)))
        features = self.conv_in(pixels)
        skipped = [features]
        for level in cast(Iterable[Level], self.down_blocks):
            for index in range(BLOCKS):
                features = self._run(level, index, features, condition)
                skipped.append(features)
            for resize in level.downsamplers:
                features = resize(features)
                skipped.append(features)
        features = self._run(self.mid_block, features, condition)
        for level in cast(Iterable[Level], self.up_blocks):
            for index in range(BLOCKS + 1):
                features = self._run(level, index, torch.cat((features, skipped.pop()), dim=1), condition)
            for resize in level.upsamplers:
                features = resize(features)
        return self.conv_out(silu(self.conv_norm_out(features)))


class Level(nn.Module):
    """The residual blocks of one size, on the way down or up, called one by one.

    Args:
        inputs: channels of each block's input.
        condition: width of the condition.
        attends: whether attention follows each block.

    Attributes:
        downsamplers, upsamplers: the change to the next size, in lists of one or none.
    """

    downsamplers: nn.ModuleList
    upsamplers: nn.ModuleList

    def __init__(self, inputs: Sequence[int], out: int, groups: int, condition: int, attends: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResidualBlock(channels, out, groups, condition) for channels in inputs)
        self.attentions = nn.ModuleList(SpatialAttention(out, groups) for _ in inputs) if attends else None

    def forward(self, index: int, features: Tensor, condition: Tensor) -> Tensor:
        features = self.resnets[index](features, condition)
        return features if self.attentions is None else self.attentions[index](features)
