"""Image classifiers with 1000 classes: torchvision's networks, and a small textbook network.

A classifier is a module that maps normalised images of shape (batch, 3, height, width) to logits of shape
(batch, 1000); GoogLeNet in training mode also returns the logits of its auxiliary heads. Factories define the network
on the meta device: no weight is allocated before `materialise`.
"""

import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models

from models.errors import InputError
from models.weights import assign, random_tensors

CLASSES = 1000
# Every network accepts an image of this side: the upper end of the search for the smallest side.
_LARGE_SIDE_PX = 1024


def alexnet() -> nn.Module:
    """AlexNet in the one-tower form of Krizhevsky 2014, as in torchvision."""
    with torch.device("meta"):
        return torchvision_models.alexnet(weights=None, num_classes=CLASSES)


def googlenet() -> nn.Module:
    """GoogLeNet (Szegedy et al. 2015) with its two auxiliary heads, which run in training mode only."""
    with torch.device("meta"):
        return torchvision_models.googlenet(weights=None, num_classes=CLASSES, aux_logits=True, init_weights=False)


def resnet50() -> nn.Module:
    """ResNet-50 (He et al. 2016), with the stride in the 3x3 convolution, as in torchvision."""
    with torch.device("meta"):
        return torchvision_models.resnet50(weights=None, num_classes=CLASSES)


def vgg16() -> nn.Module:
    """The whole VGG-16 (Simonyan & Zisserman 2015), without batch normalisation."""
    with torch.device("meta"):
        return torchvision_models.vgg16(weights=None, num_classes=CLASSES, init_weights=False)


def basic_cnn() -> nn.Sequential:
    """A textbook's first network: two blocks of convolution, ReLU and pooling, and one hidden layer.

    Maps are averaged to 7 x 7 before the linear layers, as in torchvision's VGG, so that it accepts any resolution.
    """
    with torch.device("meta"):
        return nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d(7),
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, 128),
            nn.ReLU(inplace=True),
            nn.Linear(128, CLASSES),
        )


def materialise(network: nn.Module, device: torch.device, seed: int = 0, dtype: torch.dtype | None = None) -> nn.Module:
    """The network with seeded random weights on `device`. Speed does not depend on the weights."""
    assign(network, random_tensors(network, seed), device, dtype)
    return network


def accepts(network: nn.Module, mode: str, batch: int, width_px: int, height_px: int) -> bool:
    """Whether a network on the meta device accepts a batch of this size in this mode."""
    network.train(mode == "training")
    try:
        with torch.no_grad():
            logits = network(torch.empty(batch, 3, height_px, width_px, device="meta"))
    except (RuntimeError, ValueError):  # "output size is too small", "more than 1 value per channel"
        return False
    return bool(main_logits(logits).numel())


def smallest_side(network: nn.Module, mode: str, batch: int) -> int:
    """Side in pixels of the smallest square images that a network on the meta device accepts.

    Raises:
        InputError: the network does not accept large images either.
    """
    low, high = 0, _LARGE_SIDE_PX
    if not accepts(network, mode, batch, high, high):
        raise InputError(f"the network accepts no batch of {batch} in mode {mode!r}; check its layers")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if accepts(network, mode, batch, middle, middle) else (middle, high)
    return high


def main_logits(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The logits, shape (batch, 1000), of an output that may also contain auxiliary logits."""
    return output if isinstance(output, Tensor) else output[0]
