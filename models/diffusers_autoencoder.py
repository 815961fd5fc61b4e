"""diffusers' AutoencoderKL with the weights of a decoder of ours: its tiling, and its encoder.

Needs the extra `diffusers`. Only its classes are used: no file is read, and no server is asked. A checkpoint's own
configuration decides at which size diffusers' tiling begins: `sample_size` is 512 in those of Stable Diffusion 1 and 2.
"""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.errors import Unsupported
from models.tilers import Edges, Tiler
from models.weights import check_shapes, random_tensors

os.environ.setdefault("HF_HUB_OFFLINE", "1")
try:
    from diffusers import AutoencoderKL
except ImportError as error:
    raise Unsupported(
        f"diffusers' autoencoder needs the extra 'diffusers' ({error}); install it with pip install -e '.[diffusers]'"
    ) from error

SAMPLE_SIZE_PX = 512
# What makes a decoder one of this architecture; its name may have a prefix.
_LAST_NORM = "decoder.conv_norm_out"
_ENCODER_PARTS = ("encoder.", "quant_conv.")


class DiffusersTiling(Tiler):
    """`AutoencoderKL.enable_tiling()` at its defaults.

    Images of more than `SAMPLE_SIZE_PX` are decoded in tiles of that side, each by itself. Tiles overlap by a quarter,
    over which they are blended linearly.

    Raises:
        Unsupported: the decoder is of another architecture.
    """

    def __init__(self, decoder: nn.Module) -> None:
        self._autoencoder = _autoencoder_like(decoder)
        prefix = _prefix(decoder)
        state = {
            key.removeprefix(prefix): value for key, value in decoder.state_dict().items() if key.startswith(prefix)
        }
        self._autoencoder.encoder = self._autoencoder.quant_conv = None
        self._autoencoder.load_state_dict(state, assign=True)  # shares the weights: there is one copy in memory
        self._autoencoder.eval().requires_grad_(False)
        self._autoencoder.enable_tiling()

    def __call__(self, latents: Tensor) -> Tensor:
        image: Tensor = self._autoencoder.decode(latents, return_dict=False)[0]
        return image

    def edges(self, height_px: int, width_px: int) -> Edges:
        """Where a tile begins, and where the one before it ends, which is where blending ends."""
        if max(height_px, width_px) <= SAMPLE_SIZE_PX:
            return Edges()
        return Edges(self._within(height_px), self._within(width_px))

    def _within(self, length_px: int) -> tuple[int, ...]:
        step_px = round(SAMPLE_SIZE_PX * (1 - self._autoencoder.tile_overlap_factor))
        starts = range(step_px, length_px, step_px)
        stops = (start - step_px + SAMPLE_SIZE_PX for start in starts)
        return tuple(sorted({*starts, *(stop for stop in stops if stop < length_px)}))


def encoded(picture: Tensor, decoder: nn.Module, weights: Mapping[str, Tensor] | None, seed: int) -> Tensor:
    """The latents of a picture, by the encoder that belongs to a decoder.

    Args:
        picture: in [0, 1], shape (1, 3, height, width).
        weights: with the encoder's keys; None for seeded random ones, whose latents are then scaled to mean 0 and
            standard deviation 1 for each channel, because a random encoder's have no scale of their own.

    Returns: the mean of the encoder's distribution, in the decoder's device and type.

    Raises:
        InputError: the weights have no encoder, or one of another shape.
        Unsupported: the decoder is of another architecture.
    """
    autoencoder = _autoencoder_like(decoder)
    autoencoder.decoder = autoencoder.post_quant_conv = None
    stored_as = next(decoder.parameters())
    if weights is None:
        state = dict(random_tensors(autoencoder, seed))
    else:
        check_shapes(autoencoder, weights, "--weights")
        state = {key: weights[key] for key in autoencoder.state_dict()}
    autoencoder.load_state_dict({key: value.to(stored_as) for key, value in state.items()}, assign=True)
    autoencoder.eval().requires_grad_(False)
    latents: Tensor = autoencoder.encode(picture.to(stored_as) * 2 - 1).latent_dist.mode()
    if weights is None:
        spread, mean = torch.std_mean(latents.float(), dim=(2, 3), keepdim=True)
        latents = ((latents - mean) / spread).to(stored_as)
    return latents


def has_encoder(weights: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has an encoder, not only a decoder."""
    return any(key.startswith(_ENCODER_PARTS) for key in weights)


def _autoencoder_like(decoder: nn.Module) -> Any:
    """The autoencoder of diffusers with the channels and groups of a decoder, on the meta device."""
    modules, prefix = dict(decoder.named_modules()), _prefix(decoder)
    last_norm = modules[prefix + _LAST_NORM]
    assert isinstance(last_norm, nn.GroupNorm)
    levels = range(len(list(modules[f"{prefix}decoder.up_blocks"].children())))
    channels = [modules[f"{prefix}decoder.up_blocks.{level}.resnets.0.conv2"].out_channels for level in levels]
    blocks = len(list(modules[f"{prefix}decoder.up_blocks.0.resnets"].children()))
    with torch.device("meta"):
        return AutoencoderKL(
            block_out_channels=tuple(int(str(count)) for count in reversed(channels)),
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            layers_per_block=blocks - 1,  # its decoder has one block more at each size
            norm_num_groups=last_norm.num_groups,
            latent_channels=4,
            sample_size=SAMPLE_SIZE_PX,
        )


def _prefix(decoder: nn.Module) -> str:
    """What precedes diffusers' names in the decoder's own."""
    for name, module in decoder.named_modules():
        if name.endswith(_LAST_NORM) and isinstance(module, nn.GroupNorm):
            return name.removesuffix(_LAST_NORM)
    raise Unsupported("diffusers' autoencoder has decoders of the KL autoencoder only, as kl_decoder and kl_decoder_s")
