"""What a finished picture is made with, where an iteration that is timed does what most programs do.

Random weights make pictures as well, within limits (He et al. 2016, "A Powerful Generative Model Using Random Weights
for the Deep Image Representation"; Ustyuzhaninov et al. 2017, "What does it take to generate natural textures?"):
brush strokes and colours of the style, not its objects. What is chosen here was chosen by looking at pictures of
128 px; the reasons stand at the choices.
"""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from models.network import StyleNetwork, until_last
from models.steps.losses import gram_matrix

# With random weights, features of deep layers are much the same for every picture, and their gradient is speckle:
# only the first of the style layers are looked at, the last of these for the content too.
_RANDOM_STYLE_LAYERS = 3
# What a content that is wholly missed costs, where a style that is wholly missed costs 1.
_CONTENT_SHARE = 0.05
_COARSER_FACTOR = 2.0
# A gradient is seen at so many sizes, each half of the one before.
_GRADIENT_SIZES = 5
# Adam's first step, of the pixels' range, and the share of it that is left at the end of a size: large steps leave
# noise behind.
_FIRST_RATE, _LAST_RATE_SHARE = 0.04, 0.1


def looked_at(network: StyleNetwork, weights: str) -> StyleNetwork:
    """The network with the layers that the losses look at chosen for its weights, cut behind the last of them."""
    if weights != "random":
        return network
    chosen = dict(list(network.style_layers.items())[:_RANDOM_STYLE_LAYERS])
    content = list(chosen)[-1]
    layers = until_last(network.layers.named_children(), chosen)
    return dataclasses.replace(network, layers=layers, content_layer=content, style_layers=chosen)


def balanced(network: StyleNetwork, content: Tensor, style: Tensor) -> StyleNetwork:
    """The network with its losses weighted so that each is relative: 1 for features that are all zero.

    Layers whose Gram matrices are large would drown the others, more so with random weights: He et al. 2016, section
    3.2, scale them for that reason.

    Args:
        content, style: of a small size, shape (1, 3, height, width).
    """
    of_style, of_content = _features(network, style), _features(network, content)
    style_layers = {}
    for name, share in network.style_layers.items():
        gram = gram_matrix(of_style[name])
        # 1e-12: a layer that is dead has nothing to say, and no weight makes it speak.
        style_layers[name] = share * (2 * gram.shape[0]) ** 2 / max(float(gram.square().sum()), 1e-12)
    variance = max(float(of_content[network.content_layer].var()), 1e-12)
    return dataclasses.replace(
        network, style_layers=style_layers, style_weight=1.0, content_weight=_CONTENT_SHARE / variance
    )


def _features(network: StyleNetwork, image: Tensor) -> Mapping[str, Tensor]:
    mean, std = (image.new_tensor(values).view(1, 3, 1, 1) for values in (network.mean, network.std))
    taps, features = {}, (image - mean) / std
    with torch.no_grad():
        for name, layer in network.layers.named_children():
            features = layer(features)
            if name in network.taps:
                taps[name] = features.clone()  # the next layer may work in place
    return taps


def smoothed(gradient: Tensor, sizes: int = _GRADIENT_SIZES) -> Tensor:
    """The gradient with its coarse parts made stronger, for each halving of its size twice as strong; same shape.

    What a step along it changes is structure first and single pixels last. The gradient of an untrained network is
    mostly speckle, and Adam, which scales each pixel's step by itself, would paint that. A gradient times a positive
    definite matrix still leads downhill: Olah et al. 2017, "Feature Visualization", on preconditioning.
    """
    if sizes == 1 or min(gradient.shape[2:]) < 2:
        return gradient
    coarse = smoothed(avg_pool2d(gradient, 2, ceil_mode=True), sizes - 1)
    return gradient + _COARSER_FACTOR * interpolate(coarse, size=gradient.shape[2:], mode="bilinear")


def rate(done_share: float) -> float:
    """Adam's learning rate when that share of a size's iterations is done."""
    return _FIRST_RATE * (1 - (1 - _LAST_RATE_SHARE) * done_share)
