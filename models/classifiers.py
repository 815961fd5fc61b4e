"""Networks that sort an image into one of 1000 classes: torchvision's definitions, and the textbook's small one.

A classifier is a module that takes normalised images of shape (batch, 3, height, width) and returns logits of shape
(batch, 1000); GoogLeNet in training mode returns those of its auxiliary heads as well. Factories define their network
on the meta device: no weight is allocated before `materialise`.
"""

import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models

from models.errors import InputError
from models.weights import random_state

CLASSES = 1000
# Any network here takes an image of this side; a search for the smallest one ends there.
_LARGE_SIDE_PX = 1024


def alexnet() -> nn.Module:
    """AlexNet in the one-tower form of Krizhevsky 2014, as torchvision has it."""
    with torch.device("meta"):
        return torchvision_models.alexnet(weights=None, num_classes=CLASSES)


def googlenet() -> nn.Module:
    """GoogLeNet (Szegedy et al. 2015) with its two auxiliary heads, which only a training pass runs."""
    with torch.device("meta"):
        return torchvision_models.googlenet(weights=None, num_classes=CLASSES, aux_logits=True, init_weights=False)


def resnet50() -> nn.Module:
    """ResNet-50 (He et al. 2016), with the stride in the 3x3 convolution as torchvision has it."""
    with torch.device("meta"):
        return torchvision_models.resnet50(weights=None, num_classes=CLASSES)


def vgg16() -> nn.Module:
    """VGG-16 (Simonyan & Zisserman 2015) without batch normalisation, whole."""
    with torch.device("meta"):
        return torchvision_models.vgg16(weights=None, num_classes=CLASSES, init_weights=False)


def basic_cnn() -> nn.Sequential:
    """Two blocks of convolution, ReLU and pooling, and a classifier of one hidden layer, as textbooks begin with.

    Maps are averaged to 7 x 7 before the classifier, as in torchvision's VGG, so that any resolution fits it.
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


def materialise(network: nn.Module, device: torch.device, seed: int = 0) -> nn.Module:
    """The network with seeded random weights on `device`. Rates do not depend on the weights."""
    state = {key: value.to(device) for key, value in random_state(network, seed).items()}
    network.load_state_dict(state, assign=True)
    return network


def takes(network: nn.Module, mode: str, batch: int, width_px: int, height_px: int) -> bool:
    """Whether a network on the meta device can be run with such a batch in this mode."""
    network.train(mode == "training")
    try:
        with torch.no_grad():
            logits = network(torch.empty(batch, 3, height_px, width_px, device="meta"))
    except (RuntimeError, ValueError):  # "output size is too small", "more than 1 value per channel"
        return False
    return bool(main_logits(logits).numel())


def smallest_side(network: nn.Module, mode: str, batch: int) -> int:
    """Side in pixels of the smallest square images that a network on the meta device takes.

    Raises:
        InputError: not even large ones work.
    """
    low, high = 0, _LARGE_SIDE_PX
    if not takes(network, mode, batch, high, high):
        raise InputError(f"the network takes no batch of {batch} in mode {mode!r}; check its layers")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if takes(network, mode, batch, middle, middle) else (middle, high)
    return high


def main_logits(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The logits that count, shape (batch, 1000), of an output that may bring auxiliary ones."""
    return output if isinstance(output, Tensor) else output[0]
