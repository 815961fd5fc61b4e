"""The decoder of the KL autoencoder of latent diffusion (Rombach et al. 2022), as Stable Diffusion has it.

Latents of four channels to pixels, eight times as wide and high: a middle with attention, then four sizes with three
residual blocks each. Every layer is normalised by groups over the whole image, and attention is over the whole image
too: that is why decoding in tiles is not exact. Modules have the names of diffusers' checkpoints of the autoencoder.
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from models.generators import Generator
from models.residual import EPSILON, MiddleBlock, ResidualBlock, Upsampling

BLOCKS = 3
LATENT_CHANNELS = 4
IMAGE_CHANNELS = 3


def kl_decoder() -> "KLDecoder":
    """The decoder of Stable Diffusion 1 and 2: 49.5 million parameters."""
    with torch.device("meta"):
        return KLDecoder((512, 512, 256, 128), groups=32)


def kl_decoder_s() -> "KLDecoder":
    """A quarter of the channels of `kl_decoder`, for a cpu: 3.1 million parameters."""
    with torch.device("meta"):
        return KLDecoder((128, 128, 64, 32), groups=8)


class KLDecoder(Generator):
    """Latents to pixels in [-1, 1], shape (batch, 3, 8 x height, 8 x width).

    Args:
        channels: at each size, from the smallest.
        groups: of each group normalisation.
    """

    latent_channels = LATENT_CHANNELS

    def __init__(self, channels: Sequence[int], groups: int) -> None:
        super().__init__()
        self.latent_px = self.factor_px = 2 ** (len(channels) - 1)
        self.post_quant_conv = nn.Conv2d(LATENT_CHANNELS, LATENT_CHANNELS, 1)
        self.decoder = Layers(channels, groups)

    def forward(self, latents: Tensor) -> Tensor:
        decoder = self.decoder
        features = decoder.conv_in(self.post_quant_conv(latents))
        features = self._run(decoder.mid_block, features)
        for level in cast(Iterable[Level], decoder.up_blocks):
            for stage in level.stages():
                features = self._run(stage, features)
        return decoder.conv_out(silu(decoder.conv_norm_out(features)))


class Layers(nn.Module):
    """The layers behind the first; their arguments are those of the decoder."""

    def __init__(self, channels: Sequence[int], groups: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(LATENT_CHANNELS, channels[0], 3, padding=1)
        self.mid_block = MiddleBlock(channels[0], groups)
        self.up_blocks = nn.ModuleList(
            Level(before, out, groups, last=index == len(channels) - 1)
            for index, (before, out) in enumerate(zip((channels[0], *channels), channels, strict=False))
        )
        self.conv_norm_out = nn.GroupNorm(groups, channels[-1], EPSILON)
        self.conv_out = nn.Conv2d(channels[-1], IMAGE_CHANNELS, 3, padding=1)


class Level(nn.Module):
    """Residual blocks of one size, then twice the size unless it is the last."""

    def __init__(self, before: int, out: int, groups: int, last: bool) -> None:
        super().__init__()
        inputs = [before, *[out] * (BLOCKS - 1)]
        self.resnets = nn.ModuleList(ResidualBlock(channels, out, groups) for channels in inputs)
        self.upsamplers = None if last else nn.ModuleList([Upsampling(out)])

    def stages(self) -> Sequence[nn.Module]:
        """The modules in their order."""
        return [*self.resnets, *(() if self.upsamplers is None else self.upsamplers)]
