"""The loss of an image and its gradient, computed the plain way: whole image, autograd, nothing clever."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.network import StyleNetwork
from models.steps.losses import content_loss, full_precision, gram_matrix, style_loss
from models.steps.precision import arithmetic, loss_scale


class Objective(Protocol):
    """What an optimiser minimises. Every strategy is one, and all compute the same numbers."""

    def __call__(self, image: Tensor) -> Tensor:
        """Loss at `image`, detached, shape (); afterwards `image.grad` holds the gradient, shape of the image."""
        ...


@dataclass(frozen=True)
class StyleTask:
    """All that defines the loss, and the price. Images have shape (1, 3, height, width), in [0, 1].

    Attributes:
        tile_px: side of the tiles of strategies that have any; 0 leaves it to them.
    """

    network: StyleNetwork
    content: Tensor
    style: Tensor
    precision: str = "float32"
    tile_px: int = 0


class PlainObjective:
    """The formulation of the paper, differentiated by autograd."""

    def __init__(self, task: StyleTask) -> None:
        self._network = network = task.network
        self._precision = task.precision
        self._mean, self._std = (
            task.content.new_tensor(values).view(1, 3, 1, 1) for values in (network.mean, network.std)
        )
        with torch.no_grad(), arithmetic(task.precision, task.content.device.type):
            self._content_target = full_precision(self._features(task.content)[network.content_layer])
            style = self._features(task.style)
            with torch.autocast(task.content.device.type, enabled=False):
                self._gram_targets = {name: gram_matrix(full_precision(style[name])) for name in network.style_layers}

    def __call__(self, image: Tensor) -> Tensor:
        image.grad = None
        with arithmetic(self._precision, image.device.type):
            loss = self.loss(image)
            scale = loss_scale(self._precision, image[0, 0].numel())
            (loss * scale).backward()
        if scale != 1.0 and image.grad is not None:
            image.grad /= scale
        return loss.detach()

    def loss(self, image: Tensor) -> Tensor:
        """Loss at `image` with its autograd graph, shape (); the caller chooses the arithmetic."""
        features = self._features(image)
        terms = [self._loss_at(name, features[name]) for name in features]
        return torch.stack(terms).sum()

    def _loss_at(self, name: str, features: Tensor) -> Tensor:
        """What the losses that look at layer `name` make of its features, shape ()."""
        network = self._network
        # In full precision whatever the convolutions run in.
        with torch.autocast(features.device.type, enabled=False):
            exact = full_precision(features)
            loss = exact.new_zeros(())
            if name == network.content_layer:
                loss = loss + network.content_weight * content_loss(exact, self._content_target)
            if name in network.style_layers:
                weight = network.style_weight * network.style_layers[name]
                loss = loss + weight * style_loss(self._gram(exact), self._gram_targets[name])
        return loss

    def _gram(self, features: Tensor) -> Tensor:
        return gram_matrix(features)

    def _normalised(self, image: Tensor) -> Tensor:
        return (image - self._mean) / self._std

    def _features(self, image: Tensor) -> dict[str, Tensor]:
        taps, features = {}, self._normalised(image)
        for name, layer in self._network.layers.named_children():
            features = layer(features)
            if name in self._network.taps:
                taps[name] = features
        return taps
