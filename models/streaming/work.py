"""What a chain computes, in multiply-adds of convolutions per position of its latents, and how large its maps are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from models.streaming.operations import (
    UPSAMPLING_TAPS,
    Activation,
    Attention,
    Chain,
    Normalisation,
    Operation,
    Residual,
    UpsamplingConvolution,
    first_norm,
    norms_of,
    work_of,
)

# Products of an attention: two forward; backward seven, two of them to compute the weights' normaliser again.
PRODUCTS, PRODUCTS_BACK = 2, 7
# Multiply-adds per position, pair of channels: nearest x2 makes four positions, each of which has nine taps.
_PLAIN_UPSAMPLING_TAPS = 36


def no_progress(share: float) -> None:
    """Takes no notice of the share that is done."""
    del share


@dataclass(frozen=True)
class Mark:
    """A normalisation or activation, whose input the gradient needs, and the work on its two sides.

    Attributes:
        before: from the start of the operations to its input.
        behind: from its output to the end, which its gradient passes through.
    """

    operation: Operation
    before: int
    behind: int


@dataclass(frozen=True)
class Extent:
    """A chain for latents of one size, or for a slab of them, in numbers.

    Attributes:
        height, width: of the latents, or of the slab.
        image_height: of the latents of which these are a slab; 0 if they are no slab.
    """

    chain: Chain
    height: int
    width: int
    image_height: int = 0

    def rows(self, point: int) -> int:
        """Height of the map at a point."""
        return self.chain.scales[point] * self.height

    def row(self, point: int) -> int:
        """Numbers of one row of the map at a point."""
        return self.chain.channels[point] * self.chain.scales[point] * self.width

    def size(self, point: int) -> int:
        """Numbers of the map at a point."""
        return self.rows(point) * self.row(point)

    def image_size(self, point: int) -> int:
        """Numbers of the map at a point in all slabs."""
        return self.chain.scales[point] * (self.image_height or self.height) * self.row(point)

    @property
    def positions(self) -> int:
        return self.height * self.width

    def attention_product(self, index: int) -> int:
        """Multiply-adds of one product of queries and keys, or of weights and values, of the operation at an index."""
        return self.positions * self.chain.scales[index] ** 2 * self.image_size(index)

    def attention_products(self) -> int:
        """The same over all attentions."""
        operations = enumerate(self.chain.operations)
        return sum(self.attention_product(index) for index, one in operations if isinstance(one, Attention))

    def projections(self) -> int:
        """Multiply-adds of one linear layer of each attention."""
        return sum(
            self.positions * self.chain.scales[index] ** 2 * self.chain.channels[index] ** 2
            for index, operation in enumerate(self.chain.operations)
            if isinstance(operation, Attention)
        )

    def plain(self) -> int:
        """Multiply-adds of the convolutions of the network as it is."""
        more = sum(
            self.chain.work[index] * (_PLAIN_UPSAMPLING_TAPS - UPSAMPLING_TAPS) // UPSAMPLING_TAPS
            for index, operation in enumerate(self.chain.operations)
            if isinstance(operation, UpsamplingConvolution)
        )
        return (sum(self.chain.work) + more) * self.positions


def marks(chain: Chain, start: int, stop: int) -> list[Mark]:
    """The normalisations and activations between two points, in order."""
    result: list[Mark] = []
    total, done = sum(chain.work[start:stop]), 0
    for index in range(start, stop):
        operation, area = chain.operations[index], chain.scales[index] ** 2
        behind = total - done - chain.work[index]
        result += _marks_within(operation, area, done, behind)
        done += chain.work[index]
    return result


@lru_cache(maxsize=4096)
def writing_work(chain: Chain, start: int, stop: int) -> int:
    """Work of computing the map at one point from that at another: a pass for each normalisation, and one to write.

    The statistics of a normalisation that is applied to the first map are known.
    """
    return sum(mark.before for mark in norm_marks(chain, start, stop)) + sum(chain.work[start:stop])


def passes(chain: Chain, start: int, stop: int) -> int:
    """Number of passes of `writing_work`."""
    norms = [mark.operation for mark in norm_marks(chain, start, stop)]
    return 1 + len(norms) - (first_norm(chain.operations[start]) in norms)


@lru_cache(maxsize=4096)
def gradient_work(chain: Chain, source: int, start: int, stop: int) -> int:
    """Work of taking the gradient from point `stop` to `start`, with activations computed from the map at `source`.

    A pass for each normalisation's two sums, and one to write.
    """
    recorded = marks(chain, start, stop)
    forward = sum(chain.work[source:start]) + recorded[-1].before if recorded else 0
    norms = [mark for mark in recorded if isinstance(mark.operation, Normalisation)]
    return sum(forward + mark.behind for mark in norms) + forward + sum(chain.work[start:stop])


def norm_marks(chain: Chain, start: int, stop: int) -> list[Mark]:
    """The normalisations among `marks`."""
    return [mark for mark in marks(chain, start, stop) if isinstance(mark.operation, Normalisation)]


def portions(chain: Chain) -> list[tuple[int, int]]:
    """The ranges of points between attentions, which need the whole map."""
    edges = [index for index, operation in enumerate(chain.operations) if isinstance(operation, Attention)]
    starts, stops = [0, *(edge + 1 for edge in edges)], [*edges, len(chain.operations)]
    return list(zip(starts, stops, strict=True))


def pieces_of(body: Sequence[Operation]) -> list[tuple[Operation, ...]]:
    """The body of a residual, cut before every normalisation but the first operation."""
    cuts = [index for index, operation in enumerate(body) if index and next(norms_of([operation]), None)]
    return [tuple(body[start:stop]) for start, stop in zip([0, *cuts], [*cuts, len(body)], strict=True)]


def _marks_within(operation: Operation, area: int, before: int, behind: int) -> Iterator[Mark]:
    if isinstance(operation, Normalisation | Activation):
        yield Mark(operation, before, behind)
    elif isinstance(operation, Residual):
        works = [work_of(inner) * area for inner in operation.body]
        for index, inner in enumerate(operation.body):
            yield from _marks_within(inner, area, before + sum(works[:index]), behind + sum(works[index + 1 :]))
