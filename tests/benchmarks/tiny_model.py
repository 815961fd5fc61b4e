"""A user's plugin that adds networks to the suite; some of them fail."""

import os
import time

import torch
from torch import nn

from models.network import StyleNetwork


def tiny() -> StyleNetwork:
    layers = nn.Sequential()
    with torch.device("meta"):
        layers.add_module("conv1", nn.Conv2d(3, 4, 3, padding=1))
        layers.add_module("relu1", nn.ReLU())
    return StyleNetwork(layers, "relu1", {"relu1": 1.0})


class Dies(nn.Conv2d):
    def forward(self, image):
        # Only with real images: not when sizes are determined or memory is predicted.
        if type(image) is torch.Tensor and image.device.type == "cpu":
            os.abort()
        return super().forward(image)


class Hangs(nn.Conv2d):
    def forward(self, image):
        if type(image) is torch.Tensor and image.device.type == "cpu":
            time.sleep(1000)
        return super().forward(image)


class Overflows(nn.Conv2d):
    def forward(self, image):
        return super().forward(image) * 1e30 * 1e30


def broken(kind):
    layers = nn.Sequential()
    with torch.device("meta"):
        layers.add_module("conv1", kind(3, 4, 3, padding=1))
    return StyleNetwork(layers, "conv1", {"conv1": 1.0})


def dies() -> StyleNetwork:
    return broken(Dies)


def hangs() -> StyleNetwork:
    return broken(Hangs)


def overflows() -> StyleNetwork:
    return broken(Overflows)


def raises() -> StyleNetwork:
    raise KeyError("no such weights")


def pytest_goghmark_models(add):
    add("raises", raises)
    add("tiny", tiny)
    add("dies", "tiny_model:dies")
    add("hangs", hangs)
    add("overflows", overflows)
