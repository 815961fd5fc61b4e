"""Communication between the ranks of a group: all-reduce of sums, broadcasts, and exchange of halos.

Every rank must make the same calls in the same order, even if it has nothing to send.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

from models.steps.tiling.geometry import Span
from models.steps.tiling.partition import Partition, all_reduce_bytes


class Communicator:
    """Collectives of one rank over torch.distributed's default process group, counting what they send.

    Args:
        disabled: send nothing; a process group is not needed.

    Attributes:
        rank: index of this rank, from 0.
        ranks: number of ranks.
        sent_bytes: total sent by this rank; an all-reduce counts as in a ring, see `all_reduce_bytes`.
    """

    def __init__(self, rank: int, ranks: int, disabled: bool = False) -> None:
        self.rank, self.ranks = rank, ranks
        self.sent_bytes = 0
        self._disabled = disabled

    @classmethod
    def of_default_group(cls) -> Self:
        """A communicator over the default group, which the caller has initialised."""
        return cls(dist.get_rank(), dist.get_world_size())

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Within the context nothing is sent: sums are those of this rank alone."""
        before, self._disabled = self._disabled, True
        try:
            yield
        finally:
            self._disabled = before

    @property
    def is_active(self) -> bool:
        """Whether anything is sent."""
        return self.ranks > 1 and not self._disabled

    def all_reduce_many(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks, in one message. The tensors share type and device."""
        parts = list(tensors)
        message = torch.cat([part.flatten() for part in parts])
        self.all_reduce(message)
        for part, total in zip(parts, message.split([part.numel() for part in parts]), strict=True):
            part.copy_(total.view_as(part))

    def all_reduce(self, message: Tensor, operation: Any = dist.ReduceOp.SUM) -> None:
        """Replace a tensor by its sum, or another reduction, over all ranks."""
        if self.is_active:
            dist.all_reduce(message, operation)
            self.sent_bytes += all_reduce_bytes(message.nbytes, self.ranks)

    def broadcast(self, tensor: Tensor, source: int) -> None:
        """Overwrite a contiguous tensor with that of rank `source`, which sends it to each of the others."""
        if self.is_active:
            dist.broadcast(tensor, source)
            self.sent_bytes += (self.ranks - 1) * tensor.nbytes if self.rank == source else 0

    def all_to_all(self, sent: Sequence[Tensor], received_numel: Sequence[int]) -> tuple[Tensor, ...]:
        """Send one tensor to each rank and receive one from each, flat and with `received_numel` elements."""
        outgoing = torch.cat([part.flatten() for part in sent])
        incoming = outgoing.new_empty(sum(received_numel))
        dist.all_to_all_single(incoming, outgoing, list(received_numel), [part.numel() for part in sent])
        self.sent_bytes += outgoing.nbytes
        return incoming.split(list(received_numel))


class HaloExchange:
    """Exchanges the halos of local images, shape (1, channels, height, width), which contain owned pixels and halo.

    All ranks must call `update_halo` and `add_halo_gradients` together, even those without a halo. Neither does
    anything while communication is suspended.
    """

    def __init__(self, partition: Partition, communicator: Communicator) -> None:
        self._communicator = communicator
        self._axis = partition.axis
        part = partition.parts[communicator.rank]
        self._local, self._owned = part.local, part.owned
        self._send_spans = [partition.halo_overlap(communicator.rank, other) for other in range(communicator.ranks)]
        self._receive_spans = [partition.halo_overlap(other, communicator.rank) for other in range(communicator.ranks)]

    def crop(self, picture: Tensor) -> Tensor:
        """A copy of this rank's local image, so that the whole picture can be freed."""
        return picture.narrow(self._axis, *_start_and_length(self._local)).clone()

    def owned(self, local: Tensor) -> Tensor:
        """The owned part of a local image as a view."""
        [owned] = self._views(local, [self._owned])
        return owned

    def update_halo(self, local: Tensor) -> None:
        """Replace the halo's values by those of the ranks that own them."""
        if self._communicator.is_active:
            sent, received = self._views(local, self._send_spans), self._views(local, self._receive_spans)
            for view, values in zip(received, self._all_to_all(sent, received), strict=True):
                view.copy_(values.view(view.shape))

    def add_halo_gradients(self, gradient: Tensor) -> None:
        """Send the halo's gradients to the owners of its pixels; add those received to the owned pixels."""
        if self._communicator.is_active:
            sent, received = self._views(gradient, self._receive_spans), self._views(gradient, self._send_spans)
            for view, values in zip(received, self._all_to_all(sent, received), strict=True):
                view.add_(values.view(view.shape))

    def _all_to_all(self, sent: list[Tensor], received: list[Tensor]) -> tuple[Tensor, ...]:
        return self._communicator.all_to_all(sent, [view.numel() for view in received])

    def _views(self, local: Tensor, spans: list[Span]) -> list[Tensor]:
        origin = self._local.start
        return [local.narrow(self._axis, *_start_and_length(span.relative_to(origin))) for span in spans]


def _start_and_length(span: Span) -> tuple[int, int]:
    # The start of an empty span may lie outside of the tensor.
    return (span.start, span.length) if span.length else (0, 0)
