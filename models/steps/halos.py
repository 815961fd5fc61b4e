"""The halos of bands: where a rank's window overlaps with what other ranks own."""

from torch import Tensor

from models.steps.bands import Bands
from models.steps.exchange import Exchange
from models.steps.geometry import Span


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
