"""The order of numbers in memory: channels last is what convolution kernels for CPUs and tensor cores work in."""

import torch
from torch import nn

from models.network import StyleNetwork


def lay_out_channels_last(network: StyleNetwork) -> None:
    """Reorder the frozen weights, layer by layer, so that no second copy of all of them is ever alive."""
    for layer in network.layers.modules():
        if isinstance(layer, nn.Conv2d):
            # Not by Module.to: that swaps tensors, which fake ones refuse.
            weight = layer.weight.detach().contiguous(memory_format=torch.channels_last)
            layer.weight = nn.Parameter(weight, requires_grad=False)
