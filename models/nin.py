"""Network in Network for ImageNet (Lin et al. 2013), with the geometry of the Caffe model zoo's `nin_imagenet`.

Four blocks of one spatial and two 1x1 ("cccp", cascaded cross channel parametric pooling) convolutions. The zoo's
ReLUs work in place, so a layer's name means its rectified output there and here: `cccp6` is what follows `cccp6_conv`.
"""

import torch
from torch import nn

from models.network import StyleNetwork, until_last

# (name, output channels, kernel, stride, padding) of each block's convolutions, from the zoo's train_val.prototxt.
BLOCKS = (
    (("conv1", 96, 11, 4, 0), ("cccp1", 96, 1, 1, 0), ("cccp2", 96, 1, 1, 0)),
    (("conv2", 256, 5, 1, 2), ("cccp3", 256, 1, 1, 0), ("cccp4", 256, 1, 1, 0)),
    (("conv3", 384, 3, 1, 1), ("cccp5", 384, 1, 1, 0), ("cccp6", 384, 1, 1, 0)),
    (("conv4", 1024, 3, 1, 1), ("cccp7", 1024, 1, 1, 0), ("cccp8", 1000, 1, 1, 0)),
)

# No paper specifies layers for NIN. The five style layers are the four spatial convolutions and the last layer, as in
# programs that follow Johnson's neural-style. The content layer ends block 3, at 1/16 of the image's size; VGG's
# relu4_2 has 1/8.
CONTENT_LAYER = "cccp6"
STYLE_LAYERS = dict.fromkeys(("conv1", "conv2", "conv3", "conv4", "cccp8"), 0.2)


def nin() -> StyleNetwork:
    """Network in Network; layers `conv1_conv`, `conv1`, `cccp1_conv`, ... to `cccp8`. No weights to download."""
    # Without the dropout of block 3, which is for training.
    return StyleNetwork(
        layers=until_last(_blocks(), {CONTENT_LAYER, *STYLE_LAYERS}),
        content_layer=CONTENT_LAYER,
        style_layers=STYLE_LAYERS,
        content_weight=1.0,
        style_weight=1e3,
    )


def nin_classifier() -> nn.Sequential:
    """The whole network, on the meta device: images of shape (batch, 3, h, w) to logits of shape (batch, 1000).

    With dropout before block 4; each logit is the mean of one of the last 1000 maps (section 3.2 of the paper).
    """
    chain = nn.Sequential()
    for name, layer in _blocks():
        chain.add_module(name, layer)
        if name == "pool3":
            chain.add_module("drop", nn.Dropout(0.5))
    chain.add_module("pool4", nn.AdaptiveAvgPool2d(1))
    chain.add_module("flat", nn.Flatten())
    return chain


def _blocks() -> list[tuple[str, nn.Module]]:
    """Names and layers: convolutions, ReLUs and the pooling between blocks, on the meta device."""
    layers: list[tuple[str, nn.Module]] = []
    channels = 3
    with torch.device("meta"):
        for number, block in enumerate(BLOCKS, start=1):
            for name, width, kernel, stride, padding in block:
                layers.append((f"{name}_conv", nn.Conv2d(channels, width, kernel, stride, padding)))
                layers.append((name, nn.ReLU(inplace=True)))
                channels = width
            if number < len(BLOCKS):
                # Caffe rounds the size of a pooled map up.
                layers.append((f"pool{number}", nn.MaxPool2d(3, stride=2, ceil_mode=True)))
    return layers
