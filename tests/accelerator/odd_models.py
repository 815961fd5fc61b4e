"""A plugin with networks that do what torch or a kernel does on real devices only."""

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from models.network import StyleNetwork


class LooksForAccelerators(nn.Conv2d):
    def forward(self, image):
        # As the step of an optimiser on a machine with CUDA.
        if torch.accelerator.current_accelerator(check_available=True) is not None:
            torch.accelerator.current_stream()
        return super().forward(image)


class Indexes32Bits(nn.Conv2d):
    def forward(self, image):
        if isinstance(image, FakeTensor):
            raise NotImplementedError("without a prediction, the search starts at its smallest size")
        if image.device.type == "fake" and image.numel() > 3 * 128**2:
            raise RuntimeError("canUse32BitIndexMath is false")
        return super().forward(image)


class ReadsANumber(nn.Conv2d):
    def forward(self, image):
        # The host waits for the device; the meta device has no numbers.
        factor = 1.0 if image.is_meta or float(image.detach().sum()) < 1e9 else 2.0
        return super().forward(image) * factor


def network(kind):
    layers = nn.Sequential()
    with torch.device("meta"):
        layers.add_module("conv1", kind(3, 4, 3, padding=1))
        layers.add_module("relu1", nn.ReLU())
    return StyleNetwork(layers, "relu1", {"relu1": 1.0})


def looks() -> StyleNetwork:
    return network(LooksForAccelerators)


def indexes() -> StyleNetwork:
    return network(Indexes32Bits)


def reads() -> StyleNetwork:
    return network(ReadsANumber)


def pytest_goghmark_models(add):
    add("reads", reads)
    add("looks", looks)
    add("indexes", indexes)
