"""The layers that convolutional generators share: residual blocks, attention over positions, and changes of size.

Modules have the names of diffusers' checkpoints, so that `--weights=PATH` takes them. Features have the shape (batch,
channels, height, width).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, scaled_dot_product_attention, silu

# Ho et al. 2020 and Rombach et al. 2022 use TensorFlow's default, not torch's.
EPSILON = 1e-6


class ResidualBlock(nn.Module):
    """Twice normalisation, SiLU and convolution, beside a shortcut; a condition is added between the convolutions.

    Args:
        condition: width of the condition; 0 for none.
    """

    def __init__(self, channels: int, out_channels: int, groups: int, condition: int = 0) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, EPSILON)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(condition, out_channels) if condition else None
        self.norm2 = nn.GroupNorm(groups, out_channels, EPSILON)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else None

    def forward(self, features: Tensor, condition: Tensor | None = None) -> Tensor:
        hidden = self.conv1(silu(self.norm1(features)))
        if self.time_emb_proj is not None:
            assert condition is not None
            hidden = hidden + self.time_emb_proj(silu(condition))[:, :, None, None]
        hidden = self.conv2(silu(self.norm2(hidden)))
        return hidden + (features if self.conv_shortcut is None else self.conv_shortcut(features))


class SpatialAttention(nn.Module):
    """Self-attention of all positions with one head, beside a shortcut."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, EPSILON)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(self, features: Tensor) -> Tensor:
        # With a head's dimension: torch's fused kernels take four dimensions.
        tokens = self.group_norm(features).flatten(2).transpose(1, 2)[:, None]
        attended = scaled_dot_product_attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        return features + self.to_out(attended)[:, 0].transpose(1, 2).unflatten(2, features.shape[2:])


class Downsampling(nn.Module):
    """Half the width and height, by a convolution that is padded on the right and below, as TensorFlow pads."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(pad(features, (0, 1, 0, 1)))


class Upsampling(nn.Module):
    """Twice the width and height: every position four times, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(interpolate(features, scale_factor=2.0, mode="nearest"))


class MiddleBlock(nn.Module):
    """The blocks at the smallest size: residual, attention, residual."""

    def __init__(self, channels: int, groups: int, condition: int = 0) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([SpatialAttention(channels, groups)])
        self.resnets = nn.ModuleList(ResidualBlock(channels, channels, groups, condition) for _ in range(2))

    def forward(self, features: Tensor, condition: Tensor | None = None) -> Tensor:
        first, second = self.resnets
        (attention,) = self.attentions
        return second(attention(first(features, condition)), condition)


def lay_out_channels_last(network: nn.Module) -> None:
    """Store the weights of convolutions channels last in memory, one by one, without a second copy of all weights."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            # Not by Module.to, which swaps tensors: fake tensors do not support that.
            weight = layer.weight.detach().contiguous(memory_format=torch.channels_last)
            layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
