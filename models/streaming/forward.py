"""Computes an image from latents, or a slab of it over ranks, by the steps of a plan, in one arena."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from models.streaming.arena import STRIP_POSITIONS, Arena
from models.streaming.attention import attend
from models.streaming.operations import (
    Attention,
    Chain,
    Normalisation,
    Operation,
    Residual,
    all_norms_of,
    channels_behind,
    first_norm,
    row_before,
)
from models.streaming.plans import Attended, ForwardPlan, Fused, Paired, Split, Step, pair_row
from models.streaming.rows import Measurement, Pipeline, Selection, Stream, path_to, pointwise, streams_of, unmeasured
from models.streaming.slabs import Ends, OneRank, Ranks, Rows, Surrounded, ends_of, flagged, rows_around
from models.streaming.statistics import NormStatistics
from models.streaming.work import PRODUCTS, Extent, no_progress, pieces_of

Strips = Iterable[tuple[Tensor, bool]]


def empty_statistics(chain: Chain) -> dict[Normalisation, NormStatistics]:
    """Statistics of every normalisation, of which nothing is known yet."""
    return {norm: NormStatistics(norm) for norm in all_norms_of(chain)}


class ForwardPass:
    """One evaluation of a chain for one image.

    Args:
        arena: of the size that the plan needs.
        strip_positions: about how many positions a strip has; all results are the same.
        progress: called with the share of the work that is done.
        ranks: those of whose image this one computes a slab.

    Attributes:
        statistics: of all normalisations, complete after the call.
        outputs_of_attention: copies of the maps behind each attention, by their points, if they are to be kept.
    """

    def __init__(
        self,
        chain: Chain,
        plan: ForwardPlan,
        arena: Arena,
        strip_positions: int = STRIP_POSITIONS,
        keep_outputs_of_attention: bool = False,
        progress: Callable[[float], None] = no_progress,
        ranks: Ranks | None = None,
    ) -> None:
        self._chain, self._plan, self._arena, self._strip_positions = chain, plan, arena, strip_positions
        self._keeps, self._progress, self._ranks = keep_outputs_of_attention, progress, ranks or OneRank()
        self.statistics = empty_statistics(chain)
        self.outputs_of_attention: dict[int, Tensor] = {}

    def __call__(self, latents: Tensor, image: Tensor) -> None:
        """Compute the image of latents, or its slab of a slab.

        Args:
            latents: shape (1, channels, height, width).
            image: is overwritten; shape (1, channels, scale x height, scale x width).
        """
        features, self._extent = latents, Extent(self._chain, *latents.shape[2:])
        self._slab = self._ranks.slab(latents.shape[2])
        self._done, self._total = 0.0, max(1, self._plan.work + PRODUCTS * self._extent.attention_products())
        for step in self._plan.steps:
            out = image if step.stop == len(self._chain.operations) else None
            if isinstance(step, Attended):
                features = self._attended(step, features)
            elif isinstance(step, Paired):
                features = self._paired(step, features, out)
            elif isinstance(step, Split):
                features = self._split(step, features, image)
            else:
                assert isinstance(step, Fused)
                features = self._fused(step, features, out)
            self._advance(step.work)

    def _advance(self, work: float) -> None:
        """Report multiply-adds that are done."""
        self._done += work
        self._progress(min(1.0, self._done / self._total))

    def rows_per_strip(self, features: Tensor, start: int, stop: int) -> int:
        """Rows of a map at point `start` whose strips are not too large on the way to point `stop`."""
        scale = self._chain.scales[stop] // self._chain.scales[start]
        return max(1, self._strip_positions // (features.shape[3] * scale**2))

    def _fused(self, step: Step, features: Tensor, out: Tensor | None) -> Tensor:
        if out is None:
            growth = self._chain.scales[step.stop] // self._chain.scales[step.start]
            height, width = (growth * side for side in features.shape[2:])
            out = self._arena.map(self._chain.channels[step.stop], height, width)
            overwritten_late = features.storage_offset() == 0 and out.stride(2) * growth <= features.stride(2)
            if self._arena.holds(features) and not overwritten_late:
                features = self._arena.moved_to_end(features)
        operations = self._chain.operations[step.start : step.stop]
        rows = self.rows_per_strip(features, step.start, step.stop)
        source = self._surrounded(features, step.start, operations)
        self._write(lambda: source.strips(rows), source.rows, operations, out, self._norm_at(step.stop))
        return out

    def _write(
        self,
        source: Callable[[], Strips],
        rows: Rows,
        operations: Sequence[Operation],
        out: Tensor,
        norm: Normalisation | None,
        ends: Ends | None = None,
    ) -> None:
        """Measure the operations' normalisations, then write their output, and measure it for the next one.

        Args:
            source: starts a pass over the input.
            rows: of the input.
            out: takes as many of the first rows as it has.
            ends: takes the first and last rows.
        """
        while (target := unmeasured(operations, self.statistics)) is not None:
            streams = [*self._streams(path_to(operations, target), rows), Measurement(self.statistics[target])]
            for _ in Pipeline(streams).passed(source()):
                pass
            self._finish(target)
        row = 0
        for strip in Pipeline(self._streams(operations, rows)).passed(source()):
            if ends is not None:
                ends.add(strip)
            row = self._put(strip, out, row, norm)
        self._finish(norm)

    def _streams(self, operations: Sequence[Operation], rows: Rows, skipped: int = 0) -> list[Stream]:
        """The streams of operations on these rows, of whose output the slab's own rows are left.

        Args:
            skipped: how many of the own rows are left out, from the first.
        """
        streams = streams_of(operations, self.statistics, zeros=(rows.has_top, rows.has_bottom))
        out = rows.behind(operations)
        first = out.own_start + skipped
        if (first, out.own_stop) != (out.start, out.stop):
            streams.append(Selection(first - out.start, out.own_stop - first))
        return streams

    def _surrounded(self, features: Tensor, point: int, operations: Sequence[Operation]) -> Surrounded:
        """A map with the rows of the neighbours that operations on it need."""
        rows = self._around(operations)
        above, below = self._exchanged(ends_of(features, rows), point, rows)
        return Surrounded(above, features, below, self._rows(point, rows), self._arena)

    def _around(self, operations: Sequence[Operation]) -> int:
        return rows_around(operations) if self._slab.is_part else 0

    def _exchanged(self, ends: tuple[Tensor, Tensor], point: int, rows: int) -> tuple[Tensor, Tensor]:
        """The neighbours' rows above and below a map of which these are the ends."""
        first, last = ends
        if not rows:
            return first[:, :, :0], last[:, :, :0]
        return self._ranks.exchange(first, last, self._chain.scales[point], rows)

    def _rows(self, point: int, around: int) -> Rows:
        return self._slab.rows(self._chain.scales[point], around)

    def _put(self, rows: Tensor, out: Tensor, row: int, norm: Normalisation | None) -> int:
        """Write rows from `row` on; the row behind them."""
        if norm is not None:
            self.statistics[norm].add(rows)
        room = max(0, min(rows.shape[2], out.shape[2] - row))
        if room:
            self._arena.write(rows[:, :, :room], out[:, :, row : row + room])
        return row + rows.shape[2]

    def _finish(self, norm: Normalisation | None) -> None:
        if norm is not None:
            self._ranks.merge(self.statistics[norm])
            self.statistics[norm].finish()

    def _paired(self, step: Step, features: Tensor, out: Tensor | None) -> Tensor:
        residual, norm = self._chain.operations[step.start], self._norm_at(step.stop)
        assert isinstance(residual, Residual)
        height, width = features.shape[2:]
        first, *middle, last = pieces_of(residual.body)
        # A row of the input becomes a row of the shortcut's output and, beside it, one of the inner map.
        row = max(pair_row(self._extent, step.start), features.stride(2))
        if features.stride(2) < row:
            features = self._arena.spread(features, row)
        channels = self._chain.channels[step.stop]
        shortcut = self._arena.map(channels, height, width, row)
        rows = self.rows_per_strip(features, step.start, step.start)

        inner, done = features, 0
        for piece, following in zip([first, *middle], [*middle, last], strict=True):
            before = self._surrounded(inner, step.start, piece)
            inner_channels = channels_behind(Residual("", piece, None), inner.shape[1])
            inner = self._arena.map(inner_channels, height, width, row, channels * width)
            inner_norm, done = first_norm(following[0]), 0
            for strip in Pipeline(self._streams(piece, before.rows)).passed(before.strips(rows)):
                part = slice(done, done + strip.shape[2])
                if before.own is features and residual.shortcut is not None:
                    projected = pointwise(residual.shortcut)(self._arena.read(features[:, :, part]))
                    self._arena.write(projected, shortcut[:, :, part])
                done = self._put(strip, inner, done, inner_norm)
            self._finish(inner_norm)
        out, done = shortcut if out is None else out, 0
        before = self._surrounded(inner, step.start, last)
        for strip in Pipeline(self._streams(last, before.rows)).passed(before.strips(rows)):
            total = strip.add_(self._arena.read(shortcut[:, :, done : done + strip.shape[2]]))
            done = self._put(total, out, done, norm)
        self._finish(norm)
        return out

    def _split(self, step: Split, features: Tensor, image: Tensor) -> Tensor:
        chain, point = self._chain, step.points[0]
        # A map of another height than the plan's, as in predictions and of a slab, is cut in proportion.
        kept = max(1, step.kept_rows * features.shape[2] // step.rows)
        rows = self.rows_per_strip(features, step.start, step.stop)
        scale = chain.scales[step.stop] // chain.scales[step.start]
        to_points = chain.operations[step.start : step.points[-1]]
        source = self._surrounded(self._arena.moved_to_end(features), step.start, to_points)
        own, height, width = source.rows, scale * features.shape[2], scale * features.shape[3]
        first = max(0, own.own_start - own.start + row_before(to_points, kept))
        again = Rows(own.start + first, own.stop, own.own_start, own.own_stop, own.height)
        segments = list(pairwise([*step.points, step.stop]))
        features = self._arena.map(chain.channels[point], kept, width)

        def whole(point: int, above: Tensor, below: Tensor) -> Iterator[Tensor]:
            """The kept rows of the map at a point, those that are computed again, and the neighbours'."""
            yield above
            yield from (strip for strip, _ in self._arena.strips(features, scale * rows))
            if kept < height:
                streams = self._streams(chain.operations[step.start : point], again, skipped=kept)
                yield from Pipeline(streams).passed(source.strips(rows, first))
            yield below

        def passes(point: int, around: int, ends: Ends) -> Callable[[], Strips]:
            halos = self._exchanged(ends.both, point, around)
            return lambda: flagged(whole(point, *halos), height + sum(part.shape[2] for part in halos))

        around = [self._around(chain.operations[one:following]) for one, following in segments]
        ends, operations = Ends(around[0]), chain.operations[step.start : point]
        self._write(lambda: source.strips(rows), own, operations, features, self._norm_at(point), ends)
        for (point, following), own_around, next_around in zip(segments, around, [*around[1:], 0], strict=True):
            strips_of_point, operations = passes(point, own_around, ends), chain.operations[point:following]
            ends, out = Ends(next_around), image if following == step.stop else features
            self._write(strips_of_point, self._rows(point, own_around), operations, out, self._norm_at(following), ends)
        return image

    def _attended(self, step: Step, features: Tensor) -> Tensor:
        operation, norm = self._chain.operations[step.start], self._norm_at(step.stop)
        assert isinstance(operation, Attention)
        features = self._arena.without_gaps(features)
        width, rows = features.shape[3], self._rows(step.start, 0)
        done, work = self._done, PRODUCTS * self._extent.attention_product(step.start)
        with self._arena.resident(features, rows.height * width) as (resident, memory):
            attend(
                operation,
                resident,
                memory[0],
                memory[1],
                self.statistics,
                rows.own_start * width,
                lambda: self._ranks.gather(memory, self._chain.scales[step.start]),
                lambda share: self._advance(done + share * work - self._done),
            )
            if norm is not None:
                for strip, _ in self._arena.strips(resident, self.rows_per_strip(resident, step.start, step.start)):
                    self.statistics[norm].add(strip)
        self._finish(norm)
        if self._keeps:
            self.outputs_of_attention[step.stop] = features.clone(memory_format=torch.channels_last)
        return features

    def _norm_at(self, point: int) -> Normalisation | None:
        """The normalisation that is applied to the map at a point itself."""
        if point == len(self._chain.operations):
            return None
        return first_norm(self._chain.operations[point])
