"""Small networks in float64 for the tests of streams, and what they compute as a whole."""

import torch
from torch import nn
from torch.nn.functional import interpolate, relu

from models.generators import materialise
from models.kl_decoder import KLDecoder
from models.residual import SpatialAttention

CPU = torch.device("cpu")


def small_decoder(dtype=torch.float64, channels=(16, 16, 8, 4), groups=2):
    """The structure of `kl_decoder` with few channels, and normalisations that scale and shift."""
    with torch.device("meta"):
        network = KLDecoder(channels, groups)
    materialise(network, CPU)
    return with_random_norms(network).to(dtype)


def with_random_norms(network):
    torch.manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.GroupNorm):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    return network.eval().requires_grad_(False)


def latents_of(height, width, dtype=torch.float64, channels=4):
    """Noise on a gradient of brightness, so that parts of the image differ."""
    torch.manual_seed(2)
    slope = torch.outer(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width))
    return (torch.randn(1, channels, height, width) + 2 * slope).to(dtype)


def plain(network, latents):
    """The image, the gradient of a loss at it, and that at the latents."""
    leaf = latents.clone().requires_grad_()
    image = network(leaf)
    torch.manual_seed(3)
    upstream = torch.randn_like(image)
    image.backward(upstream)
    return image.detach(), upstream, leaf.grad


def distance(ours, exact):
    """Relative to the largest number."""
    return float((ours.double() - exact.double()).abs().max() / exact.double().abs().max())


class OwnNetwork(nn.Module):
    """A user's network: ReLU and normalisation apart, a sum around wider layers, bare upsampling, two attentions."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.attention = SpatialAttention(6, 3)
        self.wide = nn.Sequential(nn.Conv2d(6, 9, 3, padding=1), nn.ReLU(), nn.GroupNorm(3, 9), nn.Conv2d(9, 8, 1))
        self.shortcut = nn.Conv2d(6, 8, 1, bias=False)
        self.second_attention = SpatialAttention(8, 2)
        self.norm = nn.GroupNorm(4, 8)
        self.up = nn.Upsample(scale_factor=2)
        self.last = nn.Sequential(nn.Conv2d(8, 4, 1), nn.SiLU(), nn.Conv2d(4, 3, 3, padding=1))

    def forward(self, latents):
        features = self.attention(self.first(latents))
        features = self.shortcut(features) + self.wide(features)
        features = relu(self.norm(self.second_attention(features)))
        features = self.up(features)
        features = features + relu(features)
        return self.last(interpolate(features, scale_factor=2, mode="nearest"))


def own_network():
    torch.manual_seed(4)
    return with_random_norms(OwnNetwork().double())
