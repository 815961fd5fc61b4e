"""What the ranks of a group send each other: sums over all of them, and halos from one to another.

Every rank must make the same calls in the same order, whatever it has to send.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch.overrides import TorchFunctionMode

from models.steps.tiling.geometry import Span
from models.steps.tiling.partition import Bands, all_reduce_bytes


class Exchange:
    """The ranks as one of them sees them, over torch.distributed's default process group.

    Args:
        silent: send nothing, ever: there need be no group.

    Attributes:
        rank: which one this is, of so many `ranks`.
        sent_bytes: what this rank has sent; of a sum over all, what it sends in a ring.
    """

    def __init__(self, rank: int, ranks: int, silent: bool = False) -> None:
        self.rank, self.ranks = rank, ranks
        self.sent_bytes = 0
        self._silent = silent

    @classmethod
    def of_default_group(cls) -> Self:
        """Over the group that the caller has initialised."""
        return cls(dist.get_rank(), dist.get_world_size())

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        """Nothing is sent inside: sums stay those of this rank."""
        before, self._silent = self._silent, True
        try:
            yield
        finally:
            self._silent = before

    @property
    def speaks(self) -> bool:
        """Whether anything is sent at all."""
        return self.ranks > 1 and not self._silent

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Let each tensor be its sum over all ranks; they have one type and device. One message."""
        parts = list(tensors)
        message = torch.cat([part.flatten() for part in parts])
        self.reduce(message)
        for part, total in zip(parts, message.split([part.numel() for part in parts]), strict=True):
            part.copy_(total.view_as(part))

    def reduce(self, message: Tensor, how: Any = dist.ReduceOp.SUM) -> None:
        """Let a tensor be the sum, or what `how` says, over all ranks."""
        if self.speaks:
            dist.all_reduce(message, how)
            self.sent_bytes += all_reduce_bytes(message.nbytes, self.ranks)

    def swap(self, sent: Sequence[Tensor], wanted: Sequence[int]) -> tuple[Tensor, ...]:
        """Send a tensor to each rank, and receive one of so many elements from each, flat."""
        outgoing = torch.cat([part.flatten() for part in sent])
        incoming = outgoing.new_empty(sum(wanted))
        dist.all_to_all_single(incoming, outgoing, list(wanted), [part.numel() for part in sent])
        self.sent_bytes += outgoing.nbytes
        return incoming.split(list(wanted))


class ReductionsOverRanks(TorchFunctionMode):
    """Inside, a vector is what all ranks have of it together: what is summed over it is summed over the ranks.

    For an optimiser whose only sums and maxima over elements are whole ones, as L-BFGS with its dot products: each
    rank keeps its own part of the history, and all take the same decisions, because all are told the same numbers.
    """

    def __init__(self, exchange: Exchange) -> None:
        super().__init__()
        self._exchange = exchange

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        whole = func is Tensor.dot or (len(args) == 1 and not kwargs)
        if func in (Tensor.dot, Tensor.sum) and whole:
            found = func(*args)
            self._exchange.reduce(found)
        elif func is Tensor.max and whole:
            values = args[0]
            # A rank may have no elements; of those that have any, the largest counts.
            found = func(values) if values.numel() else values.new_tensor(-torch.inf)
            self._exchange.reduce(found, dist.ReduceOp.MAX)
        else:
            found = func(*args, **kwargs)
        return found


class Halos:
    """Exchanges what windows have in common. A window has shape (1, channels, height, width).

    Both directions are one call of all ranks, whether or not they have a halo; nothing is done in silence.
    """

    def __init__(self, bands: Bands, exchange: Exchange) -> None:
        self._exchange = exchange
        self._axis = bands.axis
        band = bands.of_ranks[exchange.rank]
        self._window, self._own = band.window, band.own
        self._lent = [bands.lent(exchange.rank, other) for other in range(exchange.ranks)]
        self._borrowed = [bands.lent(other, exchange.rank) for other in range(exchange.ranks)]

    def cut(self, picture: Tensor) -> Tensor:
        """A copy of the window, out of a whole picture: the rest of it can be freed."""
        return picture.narrow(self._axis, *_start_and_length(self._window)).clone()

    def own(self, window: Tensor) -> Tensor:
        """A view of what this rank owns of its window."""
        [own] = self._parts(window, [self._own])
        return own

    def fill(self, window: Tensor) -> None:
        """Take the halo's values from the ranks that own them."""
        if self._exchange.speaks:
            borrowed = self._parts(window, self._borrowed)
            for part, values in zip(borrowed, self._swap(self._parts(window, self._lent), borrowed), strict=True):
                part.copy_(values.view(part.shape))

    def collect(self, gradient: Tensor) -> None:
        """Add what other ranks have found for the pixels that this one owns; the halo's part goes to its owners."""
        if self._exchange.speaks:
            lent = self._parts(gradient, self._lent)
            for part, values in zip(lent, self._swap(self._parts(gradient, self._borrowed), lent), strict=True):
                part.add_(values.view(part.shape))

    def _swap(self, sent: list[Tensor], wanted: list[Tensor]) -> tuple[Tensor, ...]:
        return self._exchange.swap(sent, [part.numel() for part in wanted])

    def _parts(self, window: Tensor, spans: list[Span]) -> list[Tensor]:
        origin = self._window.start
        return [window.narrow(self._axis, *_start_and_length(span.seen_from(origin))) for span in spans]


def _start_and_length(span: Span) -> tuple[int, int]:
    # An empty span may lie anywhere, also outside of the tensor.
    return (span.start, span.length) if span.length else (0, 0)
