"""Published generators by the names that people know, as diffusers' classes with configurations that are written here.

Denoisers: Stable Diffusion 1.5 (Rombach et al. 2022), SDXL (Podell et al. 2023), Stable Diffusion 3 medium (Esser et
al. 2024) and FLUX.1 (Black Forest Labs 2024, the guidance-distilled `dev`). Decoder: that of the autoencoder of Stable
Diffusion 1, 2 and XL, which are alike but for their weights. Only the classes come from diffusers: no file is read and
no server is asked. Weights are random; `--weights=PATH` takes the `.safetensors` file of a checkpoint in diffusers'
format. Text embeddings are noise of the shape that the text encoders give.

Importing this module takes seconds, because it imports diffusers: only workers that run one of its networks do.
"""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from models.errors import InputError
from models.generators import Generator

os.environ.setdefault("HF_HUB_OFFLINE", "1")
try:
    from diffusers import AutoencoderKL, FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
except ImportError as error:
    raise InputError(
        f"the models sd15, sdxl, sd3_medium, flux1 and sd_vae need the extra 'diffusers' ({error}); install it with"
        " pip install -e '.[diffusers]'"
    ) from error

TIMESTEPS = 1000
# Tokens of the text encoders: CLIP; CLIP and T5 after one another in Stable Diffusion 3; T5 in FLUX.1.
_CLIP_TOKENS, _SD3_TOKENS, _FLUX_TOKENS = 77, 333, 512
# As the examples of FLUX.1 [dev] have it; it is one more embedded number.
_FLUX_GUIDANCE = 3.5

_SD15 = {
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "layers_per_block": 2,
    "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}  # fmt: skip
_SDXL = {
    "sample_size": 128, "in_channels": 4, "out_channels": 4, "layers_per_block": 2,
    "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
}  # fmt: skip
_SD3_MEDIUM = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 24,
    "attention_head_dim": 64, "num_attention_heads": 24, "joint_attention_dim": 4096, "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048, "pos_embed_max_size": 192,
}  # fmt: skip
_FLUX1 = {
    "patch_size": 1, "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
    "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True,
}  # fmt: skip
_SD_VAE = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32,
    "sample_size": 512, "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip


def sd15() -> "TextUNet":
    """The U-Net of Stable Diffusion 1.5: 859.5 million parameters."""
    return TextUNet(_SD15)


def sdxl() -> "TextUNet":
    """The U-Net of SDXL base 1.0: 2.567 billion parameters."""
    return TextUNet(_SDXL)


def sd3_medium() -> "SD3Transformer":
    """The transformer of Stable Diffusion 3 medium: 2.028 billion parameters."""
    return SD3Transformer(_SD3_MEDIUM)


def flux1() -> "FluxTransformer":
    """The transformer of FLUX.1 [dev]: 11.9 billion parameters."""
    return FluxTransformer(_FLUX1)


def sd_vae() -> "VAEDecoder":
    """The decoder of the autoencoder of Stable Diffusion 1, 2 and XL: 49.5 million parameters."""
    return VAEDecoder(_SD_VAE)


class Published(Generator):
    """A network of diffusers, on the meta device.

    Args:
        build: diffusers' class.
        config: arguments of its constructor.
    """

    def __init__(self, build: type[nn.Module], config: Mapping[str, Any]) -> None:
        super().__init__()
        with torch.device("meta"):
            self._theirs: Any = build(**config)

    @property
    def stored(self) -> nn.Module:
        stored: nn.Module = self._theirs
        return stored

    @property
    def checkpointed(self) -> bool:
        """As of `Generator`; the blocks are diffusers' own choice."""
        return bool(self._theirs.is_gradient_checkpointing)

    @checkpointed.setter
    def checkpointed(self, wanted: bool) -> None:
        if wanted:
            self._theirs.enable_gradient_checkpointing()
        else:
            self._theirs.disable_gradient_checkpointing()


class TextUNet(Published):
    """A U-Net with cross-attention to text: latents, timesteps, text, for SDXL pooled text and sizes, to the noise.

    Text has the shape (batch, 77, width); pooled text of SDXL (batch, 1280); its sizes (batch, 6) are the original size
    of a picture, the corner where it was cropped, and the size to be made.
    """

    latent_channels = 4
    latent_px = factor_px = 8

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(UNet2DConditionModel, config)
        self._text_width: int = config["cross_attention_dim"]
        # What the embedding of pooled text and sizes takes, less six embedded sizes; 0 without such an embedding.
        sizes_width = 6 * config.get("addition_time_embed_dim", 0)
        self._pooled_width: int = config.get("projection_class_embeddings_input_dim", 0) - sizes_width

    def conditions(self, batch: int, device: torch.device) -> tuple[Tensor, ...]:
        timesteps = torch.randint(TIMESTEPS, (batch,), device=device)
        text = torch.randn(batch, _CLIP_TOKENS, self._text_width, device=device)
        if not self._pooled_width:
            return timesteps, text
        sizes = torch.tensor([1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0], device=device).repeat(batch, 1)
        return timesteps, text, torch.randn(batch, self._pooled_width, device=device), sizes

    def forward(self, latents: Tensor, timesteps: Tensor, text: Tensor, *added: Tensor) -> Tensor:
        further = dict(zip(("text_embeds", "time_ids"), added, strict=True)) if added else None
        output: Tensor = self._theirs(latents, timesteps, text, added_cond_kwargs=further, return_dict=False)[0]
        return output


class TextTransformer(Published):
    """A transformer over patches and text: latents, timesteps, text (batch, tokens, width) and pooled text (batch,
    width) to the velocity of rectified flow.
    """

    latent_channels = 16
    latent_px = 8
    factor_px = 16
    convolutional = False
    flow_matching = True

    def __init__(self, build: type[nn.Module], config: Mapping[str, Any], tokens: int) -> None:
        super().__init__(build, config)
        self._text = tokens, config["joint_attention_dim"]
        self._pooled_width = config["pooled_projection_dim"]

    def conditions(self, batch: int, device: torch.device) -> tuple[Tensor, ...]:
        timesteps = torch.randint(TIMESTEPS, (batch,), device=device)
        text = torch.randn(batch, *self._text, device=device)
        return timesteps, text, torch.randn(batch, self._pooled_width, device=device)


class SD3Transformer(TextTransformer):
    """That of Stable Diffusion 3, with 333 tokens of text."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(SD3Transformer2DModel, config, _SD3_TOKENS)
        self.largest_px = self.factor_px * config["pos_embed_max_size"]

    def forward(self, latents: Tensor, timesteps: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
        output: Tensor = self._theirs(latents, text, pooled, timesteps, return_dict=False)[0]
        return output


class FluxTransformer(TextTransformer):
    """That of FLUX.1, with 512 tokens of text. Its patches are cut out here, as diffusers' pipeline does."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(FluxTransformer2DModel, config, _FLUX_TOKENS)

    def forward(self, latents: Tensor, timesteps: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
        patches = pixel_unshuffle(latents, 2)  # (batch, 64, height / 2, width / 2)
        rows, columns = patches.shape[2:]
        places = latents.new_zeros(rows, columns, 3)
        places[..., 1] += torch.arange(rows, device=latents.device)[:, None]
        places[..., 2] += torch.arange(columns, device=latents.device)
        output = self._theirs(
            patches.flatten(2).transpose(1, 2),
            text,
            pooled,
            timesteps.to(latents.dtype) / TIMESTEPS,  # diffusers multiplies by 1000
            places.flatten(0, 1),
            latents.new_zeros(text.shape[1], 3),
            latents.new_full((latents.shape[0],), _FLUX_GUIDANCE),
            return_dict=False,
        )[0]
        return pixel_shuffle(output.transpose(1, 2).unflatten(2, (rows, columns)), 2)


class VAEDecoder(Published):
    """Latents to pixels in [-1, 1], shape (batch, 3, 8 x height, 8 x width)."""

    latent_channels = 4
    latent_px = factor_px = 8

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(AutoencoderKL, config)
        self._theirs.encoder = self._theirs.quant_conv = None

    def forward(self, latents: Tensor) -> Tensor:
        pixels: Tensor = self._theirs.decode(latents, return_dict=False)[0]
        return pixels
