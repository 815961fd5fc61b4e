"""The description of a network that is used for style generation: its layers, losses and normalisation."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

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
