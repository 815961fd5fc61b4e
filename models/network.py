"""The description of a network that is used for style generation: its layers, losses and normalisation."""

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from models.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class StyleNetwork:
    """A chain of named layers, and the layers at which losses are computed.

    Attributes:
        layers: the network as a chain; its children's names are the layer names (`relu4_2`, `cccp6`).
        content_layer: layer of the content loss.
        style_layers: weight of the style loss at each layer.
        content_weight, style_weight: alpha and beta of Gatys et al. 2016, equation 7.
        mean, std: of each channel, for the normalisation of RGB input in [0, 1].
        imagenet: downloads ImageNet weights as a state dict; None if there are none to download.

    Raises:
        InputError: a loss layer does not exist, or the next layer overwrites it in place.
    """

    layers: nn.Sequential
    content_layer: str
    style_layers: Mapping[str, float]
    content_weight: float = 1.0
    style_weight: float = 1.0
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    imagenet: Callable[[], Mapping[str, Tensor]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        names = [name for name, _ in self.layers.named_children()]
        for name in self.loss_layers:
            if name not in names:
                raise InputError(
                    f"there is no layer {name!r}, at which a loss is computed; there are: {', '.join(names)}"
                )
            next_index = names.index(name) + 1
            if next_index < len(names) and getattr(self.layers[next_index], "inplace", False):
                raise InputError(
                    f"a loss is computed at layer {name!r}, but {names[next_index]!r} overwrites it in place;"
                    f" set inplace=False, or compute the loss at {names[next_index]!r}"
                )

    @property
    def loss_layers(self) -> frozenset[str]:
        """Names of all layers at which a loss is computed."""
        return frozenset({self.content_layer, *self.style_layers})

    @property
    def stored_as(self) -> torch.dtype | None:
        """Type of the weights; None for layers without any."""
        return next((tensor.dtype for tensor in self._state() if tensor.is_floating_point()), None)

    def in_type(self, dtype: torch.dtype) -> "StyleNetwork":
        """This network if its weights have the type, else a copy, frozen, with its weights in it."""
        if self.stored_as in (None, dtype):
            return self
        # A deep copy takes what it finds here instead of a copy of its own.
        others: dict[int, Any] = {}
        for tensor in self._state():
            other = tensor.detach().to(dtype) if tensor.is_floating_point() else tensor.detach().clone()
            is_weight = isinstance(tensor, nn.Parameter)
            others[id(tensor)] = nn.Parameter(other, requires_grad=False) if is_weight else other
        return dataclasses.replace(self, layers=copy.deepcopy(self.layers, others))

    def _state(self) -> Iterable[Tensor]:
        return itertools.chain(self.layers.parameters(), self.layers.buffers())


class Normalisation:
    """The input of a network's first layer, for pixels in [0, 1] of shape (1, 3, height, width).

    Computed in the pixels' type. The result has the type in which the network's weights are stored, and so have the
    features of all layers.

    Args:
        like: a tensor with the device and type of the pixels.
    """

    def __init__(self, network: StyleNetwork, like: Tensor) -> None:
        self._mean, self._std = (like.new_tensor(values).view(1, 3, 1, 1) for values in (network.mean, network.std))
        self._stored_as = network.stored_as or like.dtype

    def __call__(self, pixels: Tensor) -> Tensor:
        return ((pixels - self._mean) / self._std).to(self._stored_as)

    def backward(self, gradient: Tensor) -> Tensor:
        """The gradient with respect to the pixels, in their type, from the one with respect to the result."""
        return gradient / self._std


def until_last(layers: Iterable[tuple[str, nn.Module]], loss_layers: Iterable[str]) -> nn.Sequential:
    """The chain of named layers up to the last of `loss_layers`; no loss needs the layers behind it."""
    chain = list(layers)
    names = set(loss_layers)
    last = max(index for index, (name, _) in enumerate(chain) if name in names)
    cut = nn.Sequential()
    for name, layer in chain[: last + 1]:
        cut.add_module(name, layer)
    return cut


def smallest_side(network: StyleNetwork, most_px: int = 4096) -> int:
    """Side in pixels of the smallest square image that the network accepts; tried on the meta device by bisection.

    Raises:
        InputError: the network does not accept an image of side `most_px`.
    """
    layers = network.layers.to("meta")

    def fits(side: int) -> bool:
        try:
            features = layers(torch.empty(1, 3, side, side, device="meta"))
        except (RuntimeError, ValueError):  # torch reports "output size is too small" in several ways
            return False
        return bool(features.numel())

    low, high = 0, most_px
    if not fits(high):
        raise InputError(f"the network does not accept an image of {most_px} px; check its layers")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
