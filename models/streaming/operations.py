"""What a chain is made of: the operations that can be computed strip by strip, as plain data.

A chain maps latents of shape (1, channels, height, width) to an image. Its points are numbered: point 0 is the latents,
point i the output of operation i - 1. Work is counted in multiply-adds of convolutions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

ActivationName = Literal["silu", "relu"]
# Nearest x2, then 3x3, is a convolution of 2x2 positions for each of the four positions of an output's 2x2 block.
UPSAMPLING_TAPS = 16


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation.

    Attributes:
        place: where it is in its network, as the path of a module.
    """

    place: str


@dataclass(frozen=True, eq=False)
class Convolution(Operation):
    """A convolution of 1x1 or 3x3 with stride 1; zeros around the image for 3x3.

    Attributes:
        weight: shape (out channels, in channels, side, side).
        bias: shape (out channels,), or None.
    """

    weight: Tensor
    bias: Tensor | None

    @property
    def side(self) -> int:
        return self.weight.shape[2]


@dataclass(frozen=True, eq=False)
class UpsamplingConvolution(Convolution):
    """Nearest x2, then a convolution of 3x3."""


@dataclass(frozen=True, eq=False)
class Nearest(Operation):
    """Every position four times, as a block of 2x2."""


@dataclass(frozen=True, eq=False)
class Activation(Operation):
    """An activation that follows no normalisation."""

    name: ActivationName


@dataclass(frozen=True, eq=False)
class Normalisation(Operation):
    """Group normalisation over the whole image (Wu & He 2018), and the activation behind it, if any."""

    groups: int
    epsilon: float
    weight: Tensor
    bias: Tensor
    activation: ActivationName | None = None


@dataclass(frozen=True, eq=False)
class Residual(Operation):
    """body(x) + shortcut(x); without a shortcut body(x) + x."""

    body: tuple[Operation, ...]
    shortcut: Convolution | None


@dataclass(frozen=True, eq=False)
class Attention(Operation):
    """x + out(attention(query(n), key(n), value(n))) with one head over all positions; n is x, normalised."""

    norm: Normalisation | None
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear


@dataclass(frozen=True, eq=False)
class Chain:
    """Operations one after the other.

    Attributes:
        channels: at each point.
        scales: at each point, how many times as wide and high as the latents.
        work: multiply-adds of each operation per position of the latents, computed once.
    """

    operations: tuple[Operation, ...]
    channels: tuple[int, ...]
    scales: tuple[int, ...]
    work: tuple[int, ...]


def chain_of(operations: Sequence[Operation], in_channels: int) -> Chain:
    """A chain with the channels and scales at its points."""
    channels, scales, work = [in_channels], [1], []
    for operation in operations:
        work.append(work_of(operation) * scales[-1] ** 2)
        channels.append(channels_behind(operation, channels[-1]))
        scales.append(scales[-1] * scale_of(operation))
    return Chain(tuple(operations), tuple(channels), tuple(scales), tuple(work))


def channels_behind(operation: Operation, channels: int) -> int:
    """Channels of an operation's output."""
    if isinstance(operation, Convolution):
        return operation.weight.shape[0]
    if isinstance(operation, Residual):
        for inner in operation.body:
            channels = channels_behind(inner, channels)
    return channels


def scale_of(operation: Operation) -> int:
    """How many times as wide and high the output is."""
    return 2 if isinstance(operation, UpsamplingConvolution | Nearest) else 1


def work_of(operation: Operation) -> int:
    """Multiply-adds of an operation's convolutions per position of its input."""
    if isinstance(operation, UpsamplingConvolution):
        return UPSAMPLING_TAPS * operation.weight.shape[0] * operation.weight.shape[1]
    if isinstance(operation, Convolution):
        return operation.weight.numel()
    if isinstance(operation, Residual):
        shortcut = 0 if operation.shortcut is None else operation.shortcut.weight.numel()
        return shortcut + sum(work_of(inner) for inner in operation.body)
    return 0


def norms_of(operations: Sequence[Operation]) -> Iterator[Normalisation]:
    """All normalisations but those of attention, in the order in which they are computed."""
    for operation in operations:
        if isinstance(operation, Normalisation):
            yield operation
        elif isinstance(operation, Residual):
            yield from norms_of(operation.body)


def all_norms_of(chain: Chain) -> list[Normalisation]:
    """All normalisations, those of attention last."""
    of_attention = [one.norm for one in chain.operations if isinstance(one, Attention) and one.norm is not None]
    return [*norms_of(chain.operations), *of_attention]


def first_norm(operation: Operation | None) -> Normalisation | None:
    """The normalisation that an operation applies to its input itself; None if there is none."""
    if isinstance(operation, Normalisation):
        return operation
    if isinstance(operation, Attention):
        return operation.norm
    return first_norm(operation.body[0]) if isinstance(operation, Residual) else None


def row_before(operations: Sequence[Operation], row: int) -> int:
    """The first row of the input that streams need to return row `row` of the output and all later ones; may be
    negative.
    """
    for operation in reversed(operations):
        row //= scale_of(operation)  # an upsampled row is computed together with the other one of its pair
        if isinstance(operation, Residual):
            row = row_before(operation.body, row)
        elif isinstance(operation, Convolution):
            row -= operation.side // 2
    return row


def image_bytes(chain: Chain, height: int, width: int, dtype: torch.dtype) -> int:
    """Bytes of the output for latents of that size."""
    return chain.channels[-1] * chain.scales[-1] ** 2 * height * width * dtype.itemsize
