"""Networks whose workers have a defect of the suite, for tests of the self-check: a worker imports this file by itself."""

import torch
from torch import nn

from fixtures.worker import devices
from models.network import StyleNetwork
from models.steps import strategies
from models.steps.objectives import PlainObjective
from models.steps.strategies import CheckpointedObjective


def small() -> StyleNetwork:
    layers = nn.Sequential()
    with torch.device("meta"):
        layers.add_module("conv1", nn.Conv2d(3, 8, 3, padding=1))
        layers.add_module("relu1", nn.ReLU())
        layers.add_module("pool1", nn.MaxPool2d(2))
        layers.add_module("conv2", nn.Conv2d(8, 8, 3, padding=1))
        layers.add_module("relu2", nn.ReLU())
    return StyleNetwork(layers, "relu2", {"relu1": 1.0, "relu2": 1.0})


def no_synchronise() -> StyleNetwork:
    devices.Accelerator.synchronize = lambda self: None
    return small()


class Doubled(CheckpointedObjective):
    def __call__(self, image):
        loss = super().__call__(image)
        image.grad *= 2
        return loss


def wrong_gradient() -> StyleNetwork:
    strategies.STRATEGIES["checkpointed"] = Doubled
    return small()


class OfAnotherAllocator(PlainObjective):
    def __init__(self, task):
        try:
            super().__init__(task)
        except (RuntimeError, MemoryError) as error:
            raise RuntimeError("the arena has no room left") from error


def unknown_memory_text() -> StyleNetwork:
    strategies.STRATEGIES["plain"] = OfAnotherAllocator
    return small()
