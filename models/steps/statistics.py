"""What the passes over tiles find and need: sums over positions, and the gradient that these make known."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Statistics:
    """What pass 1 sums up. Those of disjoint sets of tiles may be added to those of the whole image.

    Attributes:
        grams: sum of F F^T over positions for each style layer, shape (channels, channels).
        squares: sum of squared differences from the content target, shape ().
    """

    grams: dict[str, Tensor] = field(default_factory=dict)
    squares: Tensor | None = None

    def add_gram(self, name: str, features: Tensor) -> None:
        """Count the positions of these features, shape (1, channels, height, width)."""
        flat = features[0].flatten(1)
        gram = flat @ flat.T
        self.grams[name] = self.grams[name].add_(gram) if name in self.grams else gram

    def add(self, other: "Statistics") -> None:
        """Count what was found of other tiles."""
        for name, gram in other.grams.items():
            self.grams[name] = self.grams[name] + gram if name in self.grams else gram
        if other.squares is not None:
            self.squares = other.squares if self.squares is None else self.squares + other.squares

    def add_difference(self, difference: Tensor) -> None:
        """Count a difference of features from the content target, of any shape."""
        squares = difference.square().sum()
        self.squares = squares if self.squares is None else self.squares + squares


@dataclass
class Slopes:
    """The gradient of the loss with respect to features, as what it is made from; filled in when it is known.

    Attributes:
        style: the matrix D of dE/dF = D F for each style layer, shape (channels, channels).
        content: factor of the difference from the content target.
    """

    style: dict[str, Tensor] = field(default_factory=dict)
    content: float = 0.0
