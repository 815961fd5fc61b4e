"""Diffusion transformers (Peebles & Xie 2023, "Scalable Diffusion Models with Transformers"): DiT-S/2 and DiT-XL/2.

Blocks of the variant adaLN-Zero with patches of 2 x 2 latents, timestep and class as conditions. The output has eight
channels, noise and variance. Modules have the names of the authors' checkpoints, so that `--weights=PATH` takes them.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from models.generators import Generator, sinusoids

PATCH = 2
LATENT_CHANNELS = 4
# ImageNet's, and one more that means no class, for guidance.
CLASSES = 1001
TIMESTEPS = 1000
_SINUSOIDS = 256


def dit_s2() -> "DiT":
    """DiT-S/2: 33 million parameters (table 1 of the paper)."""
    with torch.device("meta"):
        return DiT(depth=12, width=384, heads=6)


def dit_xl2() -> "DiT":
    """DiT-XL/2: 675 million parameters (table 1 of the paper)."""
    with torch.device("meta"):
        return DiT(depth=28, width=1152, heads=16)


class DiT(Generator):
    """Noisy latents, timesteps and classes to noise and variance, shape (batch, 8, height, width)."""

    latent_channels = LATENT_CHANNELS
    latent_px = 8
    factor_px = 8 * PATCH
    convolutional = False

    def __init__(self, depth: int, width: int, heads: int) -> None:
        super().__init__()
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(LATENT_CHANNELS, width, PATCH, stride=PATCH)})
        time_layers = (nn.Linear(_SINUSOIDS, width), nn.SiLU(), nn.Linear(width, width))
        self.t_embedder = nn.ModuleDict({"mlp": nn.Sequential(*time_layers)})
        self.y_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(CLASSES, width)})
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.final_layer = FinalLayer(width)

    def conditions(self, batch: int, device: torch.device) -> tuple[Tensor, ...]:
        return (
            torch.randint(TIMESTEPS, (batch,), device=device),
            torch.randint(CLASSES - 1, (batch,), device=device),
        )

    def forward(self, latents: Tensor, timesteps: Tensor, classes: Tensor) -> Tensor:
        patches = self.x_embedder["proj"](latents)
        height, width = patches.shape[2:]
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = tokens + positions(height, width, tokens)
        # Cosines come first in the authors' code.
        waves = sinusoids(timesteps, _SINUSOIDS, _SINUSOIDS // 2).roll(_SINUSOIDS // 2, dims=1)
        condition = self.t_embedder["mlp"](waves.to(latents.dtype)) + self.y_embedder["embedding_table"](classes)
        condition = nn.functional.silu(condition)
        for block in self.blocks:
            tokens = self._run(block, tokens, condition)
        return unpatched(self._run(self.final_layer, tokens, condition), height, width)


class Block(nn.Module):
    """Attention and MLP, each with a shift, a scale and a gate that depend on the condition (figure 3, adaLN-Zero)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = _normalisation(width)
        self.attn = Attention(width, heads)
        self.norm2 = _normalisation(width)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.adaLN_modulation = _modulation(width, 6)

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        modulation = self.adaLN_modulation(condition)[:, None].chunk(6, dim=2)
        shift_attention, scale_attention, gate_attention, shift_mlp, scale_mlp, gate_mlp = modulation
        attended = self.attn(self.norm1(tokens) * (1 + scale_attention) + shift_attention)
        tokens = tokens + gate_attention * attended
        hidden = self.mlp["fc1"](self.norm2(tokens) * (1 + scale_mlp) + shift_mlp)
        return tokens + gate_mlp * self.mlp["fc2"](nn.functional.gelu(hidden, approximate="tanh"))


class Attention(nn.Module):
    """Self-attention of all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        # (batch, tokens, 3 x width) to three of shape (batch, heads, tokens, width / heads).
        query, key, value = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class FinalLayer(nn.Module):
    """Tokens to patches of noise and variance, as numbers of one patch in a row."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_final = _normalisation(width)
        self.linear = nn.Linear(width, PATCH * PATCH * 2 * LATENT_CHANNELS)
        self.adaLN_modulation = _modulation(width, 2)

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition)[:, None].chunk(2, dim=2)
        return self.linear(self.norm_final(tokens) * (1 + scale) + shift)


def positions(height: int, width: int, tokens: Tensor) -> Tensor:
    """Sinusoidal embedding of a grid's positions: of the column in the first half of the channels, of the row in the
    second; shape (height x width, channels).
    """
    half = tokens.shape[2] // 2
    exact = torch.float64 if tokens.dtype == torch.float64 else torch.float32
    columns, rows = (
        sinusoids(torch.arange(side, device=tokens.device, dtype=exact), half, half // 2) for side in (width, height)
    )
    grid = (columns[None].expand(height, width, half), rows[:, None].expand(height, width, half))
    return torch.cat(grid, dim=2).flatten(0, 1).to(tokens.dtype)


def unpatched(patches: Tensor, height: int, width: int) -> Tensor:
    """Patches, shape (batch, height x width, PATCH x PATCH x channels), as an image of latents."""
    grid = patches.unflatten(2, (PATCH, PATCH, -1)).unflatten(1, (height, width))
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def _normalisation(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


def _modulation(width: int, parts: int) -> nn.Sequential:
    # The SiLU before this layer is the same for all blocks, and computed once; its place keeps the checkpoint's names.
    return nn.Sequential(nn.Identity(), nn.Linear(width, parts * width))
