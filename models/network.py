"""What a network must say of itself so that an image can be generated with it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from models.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class StyleNetwork:
    """A chain of named layers, and which of them the losses look at.

    Attributes:
        layers: the network as a chain; its children's names are the layer names (`relu4_2`, `cccp6`).
        content_layer: where the content loss compares features.
        style_layers: weight of the style loss at each layer.
        content_weight, style_weight: alpha and beta of Gatys et al. 2016, equation 7.
        mean, std: what the network expects its RGB input in [0, 1] to be normalised with.
        imagenet: downloads ImageNet weights, as a state dict; None if there are none to download.

    Raises:
        InputError: a loss names a layer that is not there, or one that the next layer overwrites in place.
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
        for tap in self.taps:
            if tap not in names:
                raise InputError(f"a loss looks at layer {tap!r}, which is not there; there are: {', '.join(names)}")
            follower = names.index(tap) + 1
            if follower < len(names) and getattr(self.layers[follower], "inplace", False):
                raise InputError(
                    f"a loss looks at layer {tap!r}, but {names[follower]!r} overwrites it in place;"
                    f" make that one inplace=False, or look at {names[follower]!r}"
                )

    @property
    def taps(self) -> frozenset[str]:
        """Names of all layers that a loss looks at."""
        return frozenset({self.content_layer, *self.style_layers})


def until_last(layers: Iterable[tuple[str, nn.Module]], taps: Iterable[str]) -> nn.Sequential:
    """The chain of named layers, cut behind the last of `taps`: what no loss needs is no work of an iteration."""
    chain = list(layers)
    wanted = set(taps)
    last = max(place for place, (name, _) in enumerate(chain) if name in wanted)
    cut = nn.Sequential()
    for name, layer in chain[: last + 1]:
        cut.add_module(name, layer)
    return cut


def smallest_side(network: StyleNetwork, most_px: int = 4096) -> int:
    """Side in pixels of the smallest square image that every layer can take, found by trying on the meta device.

    Raises:
        InputError: not even `most_px` works.
    """
    layers = network.layers.to("meta")

    def fits(side: int) -> bool:
        try:
            features = layers(torch.empty(1, 3, side, side, device="meta"))
        except (RuntimeError, ValueError):  # torch says "output size is too small" in several ways
            return False
        return bool(features.numel())

    low, high = 0, most_px
    if not fits(high):
        raise InputError(f"the network cannot take an image of {most_px} px; check its layers")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
