"""How many bytes the ranks of one decode send, from its plan. No tensors are computed.

V = sum over exchanges of r w c e + (n - 1) 2 p c e for each attention + R(16 n g) for each normalisation, with
    r, w, c: rows of a map that other ranks read, its width and channels; e: bytes of a number;
    n: ranks; p: positions of the slab; g: groups, whose mean and squares are sent in float64;
    R(m) = 2 (n - 1) / n m, the bytes that a rank sends in an all-reduce of m bytes.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from models.steps.tiling.partition import all_reduce_bytes
from models.streaming.operations import Attention, Chain, Residual, all_norms_of, channels_behind
from models.streaming.plans import Attended, ForwardPlan, Paired, Split, Step
from models.streaming.slabs import Slab, even_slabs, read_rows, rows_around
from models.streaming.work import pieces_of


class Exchange(NamedTuple):
    """Rows around each slab that its rank gets.

    Attributes:
        scale, channels: of the map.
        rows: on each side.
    """

    scale: int
    channels: int
    rows: int


def exchanges(chain: Chain, step: Step) -> Iterator[Exchange]:
    """Those of a step of a plan."""
    scale, channels = chain.scales[step.start], chain.channels[step.start]
    if isinstance(step, Attended):
        return
    if isinstance(step, Paired):
        residual = chain.operations[step.start]
        assert isinstance(residual, Residual)
        for piece in pieces_of(residual.body):
            yield Exchange(scale, channels, rows_around(piece))
            channels = channels_behind(Residual("", piece, None), channels)
    elif isinstance(step, Split):
        yield Exchange(scale, channels, rows_around(chain.operations[step.start : step.points[-1]]))
        for point, following in zip(step.points, [*step.points[1:], step.stop], strict=True):
            rows = rows_around(chain.operations[point:following])
            yield Exchange(chain.scales[point], chain.channels[point], rows)
    else:
        yield Exchange(scale, channels, rows_around(chain.operations[step.start : step.stop]))


def sent_bytes(chain: Chain, plan: ForwardPlan, height: int, width: int, ranks: int, number_bytes: int) -> list[int]:
    """Bytes that each rank sends in one decode.

    Args:
        height, width: of the latents of all ranks.
        number_bytes: of the latents' numbers.

    Raises:
        InputError: there are fewer rows than ranks.
    """
    slabs = even_slabs(height, ranks)
    if ranks == 1:
        return [0]
    sums = sum(all_reduce_bytes(16 * ranks * norm.groups, ranks) for norm in all_norms_of(chain))
    of_all = [exchange for step in plan.steps for exchange in exchanges(chain, step)]
    matrices = [
        2 * chain.channels[index] * chain.scales[index] ** 2 * width
        for index, operation in enumerate(chain.operations)
        if isinstance(operation, Attention)
    ]
    sent = []
    for rank, slab in enumerate(slabs):
        numbers = (ranks - 1) * (slab.stop - slab.start) * sum(matrices)
        numbers += sum(_sent_numbers(exchange, rank, width, slabs) for exchange in of_all)
        sent.append(sums + number_bytes * numbers)
    return sent


def _sent_numbers(exchange: Exchange, rank: int, width: int, slabs: Sequence[Slab]) -> int:
    rows = [slab.rows(exchange.scale, exchange.rows) for slab in slabs]
    ranges = [read_rows(reader, rows[rank]) for other, reader in enumerate(rows) if other != rank]
    return sum(stop - start for start, stop in ranges) * exchange.scale * width * exchange.channels
