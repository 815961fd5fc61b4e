"""What today's image generators have in common: the interface to the steps, weights, and the sizes that they accept.

A generator is a denoiser, which a sampler evaluates once or more per step, or a decoder, which turns latents into
pixels. Factories define the network on the meta device: no weight is allocated before `materialise`.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.errors import InputError
from models.weights import assign, check_shapes, random_tensors, read_state

_OLDER_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


class Generator(nn.Module):
    """A denoiser, `network(latents, *conditions)` to a prediction, or a decoder, `network(latents)` to pixels.

    Latents have the shape (batch, latent_channels, height, width), each standing for latent_px x latent_px pixels.

    Attributes:
        latent_channels: of the input.
        latent_px: 8 for the latents of Stable Diffusion's autoencoder; 1 for a model that works on pixels.
        factor_px: width and height of an image must be multiples of it.
        largest_px: the most that width and height may be; None without a limit.
        convolutional: whether most of its work is convolutions, which the memory layout matters to.
        checkpointed: whether each block's activations are computed again in the backward pass, instead of stored.
        flow_matching: whether a denoiser predicts the velocity of rectified flow (Liu et al. 2022), not the noise.
    """

    latent_channels: int
    latent_px: int
    factor_px: int
    largest_px: int | None = None
    convolutional: bool = True
    checkpointed: bool = False
    flow_matching: bool = False

    @property
    def stored(self) -> nn.Module:
        """The module whose state dict a file of weights has."""
        return self

    def conditions(self, batch: int, device: torch.device) -> tuple[Tensor, ...]:
        """Random further inputs of a denoiser, e.g. timesteps; none for a decoder."""
        del batch, device
        return ()

    def _run(self, block: nn.Module, *inputs: Any) -> Tensor:
        """The output of a block, which is checkpointed if the network is and there will be a backward pass."""
        if self.checkpointed and torch.is_grad_enabled():
            # Blocks use no random numbers, so the generator's state need not be saved.
            return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
        return block(*inputs)


def materialise(
    network: Generator, device: torch.device, weights: str = "random", dtype: torch.dtype = torch.float32, seed: int = 0
) -> None:
    """Give a network on the meta device its weights.

    Args:
        weights: `random` for seeded random ones, or the path of a state dict with the network's keys.

    Raises:
        InputError: the file cannot be read, or has a tensor of another shape.
    """
    random = weights == "random"
    tensors = random_tensors(network.stored, seed) if random else _state_from(weights, network).items()
    assign(network.stored, tensors, device, dtype)


def check_weights(network: Generator, weights: str) -> None:
    """Check that a network on the meta device can have these weights.

    Raises:
        InputError: the file cannot be read, or has a tensor of another shape.
    """
    if weights != "random":
        _state_from(weights, network)


def _state_from(weights: str, network: Generator) -> Mapping[str, Tensor]:
    if weights == "imagenet":
        raise InputError("a generator has no ImageNet weights; use --weights=random or --weights=PATH")
    state = {_present_name(key): value for key, value in read_state(Path(weights)).items()}
    check_shapes(network.stored, state, weights)
    return {key: state[key] for key in network.stored.state_dict()}


def _present_name(key: str) -> str:
    """The key of a tensor, which autoencoders that diffusers saved before 0.17 have under another name."""
    for older, present in _OLDER_NAMES.items():
        key = key.replace(older, present)
    return key


def sinusoids(positions: Tensor, width: int, span: int) -> Tensor:
    """Sines, then cosines, of positions at `width` / 2 frequencies from 1 down to nearly 1/10000.

    Args:
        positions: shape (n,).
        span: the frequencies are 10000^(-i / span) for i = 0, 1, ...

    Returns: shape (n, width), in float32, or in float64 for positions in float64.
    """
    exact = positions if positions.dtype == torch.float64 else positions.float()
    indices = torch.arange(width // 2, device=exact.device, dtype=exact.dtype)
    angles = exact[:, None] * torch.exp(indices * (-math.log(10000.0) / span))
    return torch.cat((angles.sin(), angles.cos()), dim=1)
