"""From the operations that a network was seen to compute to a chain: sums become residuals, neighbours are merged.

A sum closes a residual that opened where its two terms' ways from the latents part. One of the two ways has to be
nothing, or a convolution of 1x1. A convolution behind nearest upsampling, and an activation behind a normalisation, are
merged with it.
"""

import dataclasses
from collections.abc import Sequence
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
        operation: None for the latents and for sums.
        inputs: none for the latents, two for a sum.
    """

    place: str
    operation: Operation | None = None
    inputs: tuple["Node", ...] = ()


def sequence(start: Node, end: Node) -> list[Operation]:
    """The operations from one value to another that depends on it.

    Raises:
        InputError: they are no chain; the sentence names the place.
    """
    operations: list[Operation] = []
    node = end
    while node is not start:
        if node.operation is not None:
            operations.append(node.operation)
            (node,) = node.inputs
        else:
            fork = _fork(node)
            operations.append(_residual(node, fork))
            node = fork
    return _merged(operations[::-1])


def _fork(total: Node) -> Node:
    """Where the ways to the two terms of a sum part."""
    left, right = (_way_back(term) for term in total.inputs)
    # The latents are on every way.
    return next(node for node in left if any(node is other for other in right))


def _way_back(node: Node) -> list[Node]:
    """The values on the way from a value back to the latents; residuals are passed at once."""
    way = [node]
    while way[-1].inputs:
        node = way[-1]
        way.append(node.inputs[0] if node.operation is not None else _fork(node))
    return way


def _residual(total: Node, fork: Node) -> Residual:
    ways = [tuple(sequence(fork, term)) for term in total.inputs]
    for body, shortcut in (ways, ways[::-1]):
        inner = next((one for one in body if isinstance(one, Attention) or scale_of(one) != 1), None)
        if body and inner is None and not shortcut:
            return Residual(total.place, body, None)
        if body and inner is None and len(shortcut) == 1 and _is_pointwise(shortcut[0]):
            (convolution,) = shortcut
            assert isinstance(convolution, Convolution)
            return Residual(total.place, body, convolution)
    raise InputError(
        f"the sum in {total.place} cannot be computed by strips of rows: one of its two terms has to be the input of the"
        " other's layers, or a convolution of 1x1 of it, without attention or a change of size between; use a network of"
        " such residuals"
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
