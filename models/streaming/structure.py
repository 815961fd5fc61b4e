"""From the operations that a network was seen to compute to a chain: sums become residuals, neighbours are merged.

A sum closes a residual that opened where its two terms' ways from the latents part. One of the two ways has to be
nothing, or a convolution of 1x1. A convolution behind nearest upsampling, and an activation behind a normalisation, are
merged with it.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from models.errors import InputError
from models.streaming.operations import (
    Activation,
    Attention,
    Convolution,
    Nearest,
    Normalisation,
    Operation,
    Residual,
    UpsamplingConvolution,
    scale_of,
)


@dataclass(frozen=True, eq=False)
class Node:
    """A value that a network computed.

    Attributes:
        place: the module that computed it.
        operation: what it was computed with; None for the latents and for sums.
        terms: of a sum.
        before: the input of the operation; of a sum the value where the ways to its terms part; None for the latents.
    """

    place: str
    operation: Operation | None = None
    terms: tuple["Node", ...] = ()
    before: "Node | None" = None


def sum_of(place: str, left: Node, right: Node) -> Node:
    """The sum of two values."""
    way = set(map(id, _way_back(left)))
    # The latents are on every way.
    return Node(place, None, (left, right), next(node for node in _way_back(right) if id(node) in way))


def _way_back(node: Node | None) -> Iterator[Node]:
    """The values on the way from a value back to the latents; residuals are passed at once."""
    while node is not None:
        yield node
        node = node.before


def sequence(start: Node, end: Node) -> list[Operation]:
    """The operations from one value to another that depends on it.

    Raises:
        InputError: they are no chain; the sentence names the place.
    """
    operations: list[Operation] = []
    for node in _way_back(end):
        if node is start:
            break
        operations.append(_residual(node) if node.operation is None else node.operation)
    return _merged(operations[::-1])


def _residual(total: Node) -> Residual:
    assert total.before is not None, "the latents are no sum"
    ways = [tuple(sequence(total.before, term)) for term in total.terms]
    for body, shortcut in (ways, ways[::-1]):
        inner = next((one for one in body if isinstance(one, Attention) or scale_of(one) != 1), None)
        if body and inner is None and not shortcut:
            return Residual(total.place, body, None)
        if body and inner is None and len(shortcut) == 1 and _is_pointwise(shortcut[0]):
            (convolution,) = shortcut
            assert isinstance(convolution, Convolution)
            return Residual(total.place, body, convolution)
    raise InputError(
        f"the sum in {total.place} cannot be computed by strips of rows: one of its terms has to be the input of"
        " the other's layers, or a convolution of 1x1 of it, without attention or a change of size between; use"
        " a network of such residuals"
    )


def _is_pointwise(operation: Operation) -> bool:
    return isinstance(operation, Convolution) and operation.side == 1


def _merged(operations: Sequence[Operation]) -> list[Operation]:
    merged: list[Operation] = []
    for operation in operations:
        before = merged[-1] if merged else None
        if isinstance(before, Nearest) and isinstance(operation, Convolution) and operation.side == 3:
            merged[-1] = UpsamplingConvolution(operation.place, operation.weight, operation.bias)
        elif isinstance(before, Normalisation) and before.activation is None and isinstance(operation, Activation):
            merged[-1] = dataclasses.replace(before, activation=operation.name)
        else:
            merged.append(operation)
    return merged
