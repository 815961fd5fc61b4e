"""The maps on the way from a stored map through a chain and back with a gradient, and what each is computed from.

Forward maps are activations behind every operation, backward maps gradients before every operation, both also inside
residuals. Map 0 is the stored map from which activations are computed, and one more, `incoming`, the known gradient.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from models.streaming.operations import (
    Activation,
    Chain,
    Normalisation,
    Operation,
    Residual,
    channels_behind,
    scale_of,
    work_of,
)


@dataclass(frozen=True, eq=False)
class Node:
    """One map.

    Attributes:
        operation: that it is the output of, or the gradient before; None for a map that is given.
        back: whether it is a gradient.
        inputs: the maps it is computed from, in the order in which they arrive. Of a residual: its body's, and the one
            beside it; of the gradient before a normalisation or activation: the gradient behind, and the activation.
        work: multiply-adds of convolutions per position of the latents.
    """

    operation: Operation | None
    back: bool
    inputs: tuple[int, ...]
    channels: int
    scale: int
    work: int


@dataclass(frozen=True)
class Turn:
    """A normalisation on the way back, whose two sums over the image must be known before the gradient goes on.

    Attributes:
        gradient: the map of the gradient behind the normalisation.
        activation: the map that is normalised.
    """

    norm: Normalisation
    gradient: int
    activation: int


@dataclass(eq=False)
class Graph:
    """From the map at point `source` up to `stop`, and back with a gradient from there to `start`.

    Attributes:
        nodes: each behind its inputs.
        incoming: the known gradient, at `stop`.
        outgoing: the gradient at `start`.
        turns: in the order in which the gradient meets them.
        gradients: the gradients at points, in that order.
    """

    nodes: list[Node] = field(default_factory=list)
    incoming: int = 0
    outgoing: int = 0
    turns: list[Turn] = field(default_factory=list)
    gradients: list[int] = field(default_factory=list)
    _inputs: dict[Operation, int] = field(default_factory=dict)

    def needed(self, stored: int, targets: Iterable[int]) -> int:
        """The maps to be computed for some targets, as a set of bits; with given ones that are not there any more.

        Args:
            stored: the maps that are there, as a set of bits.
        """
        needed, waiting = 0, [target for target in targets if not stored >> target & 1]
        while waiting:
            node = waiting.pop()
            if not needed >> node & 1:
                needed |= 1 << node
                waiting += [one for one in self.nodes[node].inputs if not (stored | needed) >> one & 1]
        return needed

    def work(self, maps: int) -> int:
        """Multiply-adds per position of the latents that some maps take, given as a set of bits."""
        return sum(self.nodes[node].work for node in bits(maps))

    def add(self, node: Node) -> int:
        """The number of a new node."""
        self.nodes.append(node)
        return len(self.nodes) - 1

    def forward(self, operation: Operation, source: int) -> int:
        """The map behind an operation."""
        self._inputs[operation] = source
        before, inputs = self.nodes[source], [source]
        area, work = before.scale**2, work_of(operation)
        if isinstance(operation, Residual):
            inner = source
            for one in operation.body:
                inner = self.forward(one, inner)
            inputs, work = [inner, source], _shortcut_work(operation)
        channels = channels_behind(operation, before.channels)
        return self.add(
            Node(operation, False, tuple(inputs), channels, before.scale * scale_of(operation), work * area)
        )

    def backward(self, operation: Operation, gradient: int) -> int:
        """The gradient before an operation."""
        before, inputs = self.nodes[self._inputs[operation]], [gradient]
        work = work_of(operation)
        if isinstance(operation, Residual):
            inner = gradient
            for one in reversed(operation.body):
                inner = self.backward(one, inner)
            inputs, work = [inner, gradient], _shortcut_work(operation)
        elif isinstance(operation, Normalisation | Activation):
            inputs.append(self._inputs[operation])
            if isinstance(operation, Normalisation):
                self.turns.append(Turn(operation, gradient, self._inputs[operation]))
        return self.add(Node(operation, True, tuple(inputs), before.channels, before.scale, work * before.scale**2))


@lru_cache(maxsize=1024)
def graph_of(chain: Chain, source: int, start: int, stop: int) -> Graph:
    """The graph between points of a chain."""
    graph = Graph()
    point = graph.add(Node(None, False, (), chain.channels[source], chain.scales[source], 0))
    for operation in chain.operations[source:stop]:
        point = graph.forward(operation, point)
    graph.incoming = gradient = graph.add(Node(None, True, (), chain.channels[stop], chain.scales[stop], 0))
    for operation in reversed(chain.operations[start:stop]):
        gradient = graph.backward(operation, gradient)
        graph.gradients.append(gradient)
    graph.outgoing = gradient
    return graph


def bits(numbers: int) -> list[int]:
    """The numbers in a set of bits, in order."""
    return [number for number in range(numbers.bit_length()) if numbers >> number & 1]


def _shortcut_work(residual: Residual) -> int:
    return 0 if residual.shortcut is None else residual.shortcut.weight.numel()
