"""VGG-16 and VGG-19 (Simonyan & Zisserman 2015) from torchvision, up to the last loss layer."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models import (
    VGG16_Weights,
    VGG19_Weights,
    WeightsEnum,
)
from torchvision.models import (
    vgg16 as torchvision_vgg16,
)
from torchvision.models import (
    vgg19 as torchvision_vgg19,
)

from models.network import StyleNetwork, until_last

# Gatys et al. 2016, section 3 ("Results"): content at conv4_2, style at the first convolution of each block, with equal
# weights. The names here are those of the rectified outputs, which the paper refers to.
CONTENT_LAYER = "relu4_2"
STYLE_LAYERS = dict.fromkeys(("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"), 0.2)


def vgg16() -> StyleNetwork:
    """VGG-16 without batch normalisation; layers `conv1_1` to `relu5_1`."""
    return _style_network(torchvision_vgg16, VGG16_Weights.IMAGENET1K_V1)


def vgg19() -> StyleNetwork:
    """VGG-19 without batch normalisation; layers `conv1_1` to `relu5_1`."""
    return _style_network(torchvision_vgg19, VGG19_Weights.IMAGENET1K_V1)


def _style_network(definition: Callable[..., nn.Module], weights: WeightsEnum) -> StyleNetwork:
    # Defined on the meta device: the classifier's 120 million weights are never allocated.
    with torch.device("meta"):
        features = definition(weights=None, init_weights=False).features
    assert isinstance(features, nn.Sequential)
    # Departure from the paper, which prefers average pooling: with max pooling, as in torchvision, the timed network is
    # the one that is known by this name.
    return StyleNetwork(
        layers=until_last(_named(features), {CONTENT_LAYER, *STYLE_LAYERS}),
        content_layer=CONTENT_LAYER,
        style_layers=STYLE_LAYERS,
        # alpha / beta = 1e-3, the ratio that the paper uses for its main figure.
        content_weight=1.0,
        style_weight=1e3,
        imagenet=partial(_download, weights),
    )


def _named(features: nn.Sequential) -> list[tuple[str, nn.Module]]:
    """Layers with the names of the literature: block number, then index within the block."""
    named: list[tuple[str, nn.Module]] = []
    block, within = 1, 0
    for layer in features:
        match layer:
            case nn.Conv2d():
                within += 1
                named.append((f"conv{block}_{within}", layer))
            case nn.ReLU():
                named.append((f"relu{block}_{within}", layer))
            case _:
                named.append((f"pool{block}", layer))
                block, within = block + 1, 0
    return named


def _download(weights: WeightsEnum) -> Mapping[str, Tensor]:
    state: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    return state
