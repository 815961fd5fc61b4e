"""What a finished picture is made with, where an iteration that is timed does what most programs do.

Random weights make pictures as well, within limits (He et al. 2016, "A Powerful Generative Model Using Random Weights
for the Deep Image Representation"; Ustyuzhaninov et al. 2017, "What does it take to generate natural textures?"):
colours, dabs and outlines in the manner of the style, not its objects. All that is chosen here was chosen by looking at
pictures of 192 to 384 px made with random weights of VGG-19.
"""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from models.network import StyleNetwork, until_last
from models.steps.losses import gram_matrix

# With random weights, features of the last layers are much the same for every picture, and their gradient is speckle:
# only the first of the style layers are looked at, the last of these for the content too.
_RANDOM_STYLE_LAYERS = 4
# Alpha / beta for them; between a fifth and twice as much it hardly shows.
_RANDOM_CONTENT_WEIGHT = 0.01
# Of the pixels' range, and how many pixels of the coarsest size one grain of it covers.
_NOISE, _GRAIN_PX = 0.04, 4
# A gradient is seen at so many sizes, each half of the one before.
_GRADIENT_SIZES = 5
# Adam's first step, of the pixels' range, and the share of it that is left at the end of a size: large steps leave
# noise behind.
_FIRST_RATE, _LAST_RATE_SHARE = 0.05, 0.1
# Colours that vary less are taken for grey: stretched to the style's, they would be noise.
_LEAST_VARIANCE = 1e-4


def looked_at(network: StyleNetwork, weights: str) -> StyleNetwork:
    """The network with layers chosen for its weights, cut behind the last that a loss looks at."""
    if weights != "random":
        return network
    chosen = dict(list(network.style_layers.items())[:_RANDOM_STYLE_LAYERS])
    layers = until_last(map(_averaging, network.layers.named_children()), chosen)
    return dataclasses.replace(
        network,
        layers=layers,
        content_layer=list(chosen)[-1],
        content_weight=_RANDOM_CONTENT_WEIGHT,
        style_layers=chosen,
        style_weight=1.0,
    )


def _averaging(named: tuple[str, nn.Module]) -> tuple[str, nn.Module]:
    """Average pooling instead of max pooling, as the paper prefers it: a maximum of random features paints a grid."""
    name, layer = named
    if isinstance(layer, nn.MaxPool2d):
        layer = nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode)
    return name, layer


def balanced(network: StyleNetwork, content: Tensor, style: Tensor) -> StyleNetwork:
    """The network with its losses weighted so that each is relative: features that are all zero cost a layer's share.

    Layers whose Gram matrices are large would drown the others, more so with random weights, for which He et al. 2016
    scale them too. What the network says of content against style (alpha / beta) holds of the relative losses.

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
    content_weight = network.content_weight / network.style_weight / variance
    return dataclasses.replace(network, style_layers=style_layers, style_weight=1.0, content_weight=content_weight)


def _features(network: StyleNetwork, image: Tensor) -> Mapping[str, Tensor]:
    mean, std = (image.new_tensor(values).view(1, 3, 1, 1) for values in (network.mean, network.std))
    taps, features = {}, (image - mean) / std
    with torch.no_grad():
        for name, layer in network.layers.named_children():
            features = layer(features)
            if name in network.taps:
                taps[name] = features.clone()  # the next layer may work in place
    return taps


def first_image(content: Tensor, style: Tensor, seed: int) -> Tensor:
    """What the coarsest size starts from: the content in the colours of the style, in [0, 1].

    Mean and covariance of its colours become the style's by a linear map, which Gatys et al. 2017, section 5.2, use the
    other way round: to match the first layer's Gram matrix does the same in many iterations. Coarse noise on it is what
    dabs grow from where the content is smooth: there its gradient is smooth as well.
    """
    height, width = content.shape[2:]
    grains = (1, 3, max(1, height // _GRAIN_PX), max(1, width // _GRAIN_PX))
    noise = _NOISE * torch.randn(grains, generator=torch.Generator().manual_seed(seed))
    grained = content + interpolate(noise, size=(height, width), mode="bicubic").to(content)
    (mean, spread), (wanted_mean, wanted_spread) = _colours(grained), _colours(style)
    mapped = torch.einsum("ij,njhw->nihw", (wanted_spread @ spread.inverse()).to(content), grained - mean.to(content))
    return (mapped + wanted_mean.to(content)).clamp_(0, 1)


def _colours(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the colours, shape (1, 3, 1, 1), and the root of their covariance, shape (3, 3), in float64 on cpu."""
    flat = image.detach().flatten(2).squeeze(0).cpu().double()
    variances, axes = torch.linalg.eigh(flat.cov())
    root = axes @ torch.diag(variances.clamp(min=_LEAST_VARIANCE).sqrt()) @ axes.T
    return flat.mean(1).view(1, 3, 1, 1), root


def smoothed(gradient: Tensor, sizes: int = _GRADIENT_SIZES) -> Tensor:
    """The gradient and what it is at each halving of its size, added up; same shape.

    A step along it changes structure before single pixels: the gradient of an untrained network is mostly speckle, and
    Adam, which scales each pixel's step by itself, would paint that. Preconditioned so, it still leads downhill: Olah
    et al. 2017, "Feature Visualization", section "Preconditioning and Parameterization".
    """
    if sizes == 1 or min(gradient.shape[2:]) < 2:
        return gradient
    coarse = smoothed(avg_pool2d(gradient, 2, ceil_mode=True), sizes - 1)
    return gradient + interpolate(coarse, size=gradient.shape[2:], mode="bilinear")


def rate(done_share: float) -> float:
    """Adam's learning rate when that share of a size's iterations is done."""
    return _FIRST_RATE * (1 - (1 - _LAST_RATE_SHARE) * done_share)
