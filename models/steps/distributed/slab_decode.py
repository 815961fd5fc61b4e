"""One decode over many ranks: exact, by row streams, with a slab of rows on each rank.

The ranks have the same weights, and each its rows of the latents and of the image. In a decode they communicate

  - before a pass over a map: the rows around each slab that its convolutions need, from the ranks that have them;
  - after each pass that measures a normalisation: an all-reduce of every rank's means and squares of the groups;
  - in each attention: keys and values of each rank are sent to all others;
  - at the end: an all-reduce of the image's sum, so that all ranks take decisions from the same number.

All ranks have the same plan, and so make the same calls in the same order.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from models.steps.decoding import StreamedForward
from models.steps.distributed.collectives import Communicator
from models.streaming.slabs import Ranks, Slab, even_slabs, read_rows
from models.streaming.statistics import NormStatistics
from models.workload import Communication, Workload


class ConnectedRanks(Ranks):
    """The ranks of a communicator, with slabs of about equal height.

    While communication is suspended, the neighbours' rows are zeros, statistics are the slab's own, and the other
    slabs' keys and values what happens to be in memory.

    Args:
        height: of the latents of all ranks.

    Raises:
        InputError: there are fewer rows than ranks.
    """

    def __init__(self, communicator: Communicator, height: int) -> None:
        self._communicator = communicator
        self._slabs = even_slabs(height, communicator.ranks)
        self.own = self._slabs[communicator.rank]

    def slab(self, rows: int) -> Slab:
        assert rows == self.own.stop - self.own.start, "these are not the rows of this rank's slab"
        return self.own

    def exchange(self, first: Tensor, last: Tensor, scale: int, rows: int) -> tuple[Tensor, Tensor]:
        rank, slabs = self._communicator.rank, [slab.rows(scale, rows) for slab in self._slabs]
        own = slabs[rank]
        if not self._communicator.is_active:
            return _zeros(first, own.own_start - own.start), _zeros(first, own.stop - own.own_stop)
        sent, heights = [], []
        for other, slab in enumerate(slabs):
            # Those above read this slab's first rows, those below its last.
            view, origin = (first, own.own_start) if other < rank else (last, own.own_stop - last.shape[2])
            start, stop = read_rows(slab, own) if other != rank else (origin, origin)
            sent.append(view[:, :, start - origin : stop - origin].permute(0, 2, 3, 1))
            start, stop = read_rows(own, slab) if other != rank else (0, 0)
            heights.append(stop - start)
        _, channels, _, width = first.shape
        received = self._communicator.all_to_all(sent, [height * width * channels for height in heights])
        parts = [
            part.view(1, height, width, channels).permute(0, 3, 1, 2)
            for part, height in zip(received, heights, strict=True)
        ]
        return _joined(parts[:rank], first), _joined(parts[rank + 1 :], last)

    def merge(self, statistics: NormStatistics) -> None:
        if not self._communicator.is_active:
            return
        count, sums = statistics.sums()
        # A sum of each number and zeros: every rank gets the same numbers, and merges them in the same order.
        of_all = sums.new_zeros(self._communicator.ranks, *sums.shape)
        of_all[self._communicator.rank] = sums
        self._communicator.all_reduce(of_all)
        per_row = count // (self.own.stop - self.own.start)
        statistics.replace([per_row * (slab.stop - slab.start) for slab in self._slabs], of_all)

    def gather(self, tokens: Tensor, scale: int) -> None:
        per_row = tokens.shape[1] // (scale * self.own.height)
        for source, slab in enumerate(self._slabs):
            for matrix in tokens:
                part = matrix[scale * slab.start * per_row : scale * slab.stop * per_row]
                self._communicator.broadcast(part, source)

    def least(self, number: int | None) -> int | None:
        value = torch.tensor(torch.inf if number is None else number, dtype=torch.float64)
        self._communicator.all_reduce(value, dist.ReduceOp.MIN)
        return None if value.isinf() else int(value)


class SlabDecode(StreamedForward):
    """The images of one batch of latents, of which this rank computes its rows.

    Args:
        communicator: by default one over torch.distributed's default process group, which the caller has initialised.

    Raises:
        InputError: there are fewer rows of latents than ranks.
    """

    def __init__(self, workload: Workload, communicator: Communicator | None = None) -> None:
        self._communicator = communicator or Communicator.of_default_group()
        self._sum: Tensor | None = None
        self._sent_bytes = 0
        super().__init__(workload)
        self._numbers = workload.batch * workload.width * workload.height * self._streams.channels

    def __call__(self) -> None:
        before = self._communicator.sent_bytes
        super().__call__()
        self._sent_bytes = self._communicator.sent_bytes - before

    def communication(self) -> Communication:
        """What this rank sent in the latest decode, 0 before the first."""
        return Communication(self._sent_bytes, self._decode_alone)

    def loss(self) -> float | None:
        """Mean of the images of all ranks."""
        return None if self._sum is None else float(self._sum) / self._numbers

    def _iterate(self) -> None:
        super()._iterate()
        assert self._output is not None
        self._sum = self._output.float().sum()
        self._communicator.all_reduce(self._sum)

    def _decode_alone(self) -> None:
        """The computation of one decode, without communication."""
        with self._communicator.suspended():
            super().__call__()

    def _ranks_of_image(self) -> Ranks:
        ranks = ConnectedRanks(self._communicator, self._latents.shape[2])
        # All ranks have drawn the same latents.
        self._latents = self._latents[:, :, ranks.own.start : ranks.own.stop].contiguous()
        return ranks


def _joined(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    """The parts one below the other, in their layout, which `cat` changes if one has no rows."""
    some = [part for part in parts if part.shape[2]]
    return torch.cat(some, 2) if some else like[:, :, :0]


def _zeros(like: Tensor, rows: int) -> Tensor:
    return like.new_zeros(1, rows, like.shape[3], like.shape[1]).permute(0, 3, 1, 2)
