"""Computes an image from latents by the steps of a plan, in one arena."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from models.streaming.arena import STRIP_POSITIONS, Arena, strips
from models.streaming.attention import attend
from models.streaming.operations import (
    Attention,
    Chain,
    Normalisation,
    Operation,
    Residual,
    channels_behind,
    first_norm,
    norms_of,
    row_before,
)
from models.streaming.plans import Attended, ForwardPlan, Fused, Paired, Split, Step, pair_row
from models.streaming.rows import Measurement, Pipeline, pointwise, streams_of, streams_to, unmeasured
from models.streaming.statistics import NormStatistics
from models.streaming.work import Extent, pieces_of

Strips = Iterable[tuple[Tensor, bool]]


def no_progress(share: float) -> None:
    """Takes no notice of the share that is done."""
    del share


def empty_statistics(chain: Chain) -> dict[Normalisation, NormStatistics]:
    """Statistics of every normalisation, of which nothing is known yet."""
    norms = list(norms_of(chain.operations))
    norms += [one.norm for one in chain.operations if isinstance(one, Attention) and one.norm is not None]
    return {norm: NormStatistics(norm) for norm in norms}


class ForwardPass:
    """One evaluation of a chain for one image.

    Args:
        arena: of the size that the plan needs.
        strip_positions: about how many positions a strip has; all results are the same.
        progress: called with the share of the strips' work that is done.

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
    ) -> None:
        self._chain, self._plan, self._arena, self._strip_positions = chain, plan, arena, strip_positions
        self._keeps, self._progress = keep_outputs_of_attention, progress
        self.statistics = empty_statistics(chain)
        self.outputs_of_attention: dict[int, Tensor] = {}
        self._done, self._total = 0, max(1, plan.work)

    def __call__(self, latents: Tensor, image: Tensor) -> None:
        """Compute the image of latents.

        Args:
            latents: shape (1, channels, height, width).
            image: is overwritten; shape (1, channels, scale x height, scale x width).
        """
        features, self._extent = latents, Extent(self._chain, *latents.shape[2:])
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
            self._done += step.work
            self._progress(self._done / self._total)

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
        self.write(lambda: strips(features, rows), operations, out, self._norm_at(step.stop))
        return out

    def write(
        self, source: Callable[[], Strips], operations: Sequence[Operation], out: Tensor, norm: Normalisation | None
    ) -> None:
        """Measure the operations' normalisations, then write their output, and measure it for the next one.

        Args:
            source: starts a pass over the input.
            out: takes as many of the first rows as it has.
        """
        while (target := unmeasured(operations, self.statistics)) is not None:
            statistics = self.statistics[target]
            streams = [*streams_to(operations, target, self.statistics), Measurement(statistics)]
            for _ in Pipeline(streams).passed(source()):
                pass
            statistics.finish()
        row = 0
        for rows in Pipeline(streams_of(operations, self.statistics)).passed(source()):
            row = self._put(rows, out, row, norm)
        self._finish(norm)

    def _put(self, rows: Tensor, out: Tensor, row: int, norm: Normalisation | None) -> int:
        """Write rows from `row` on; the row behind them."""
        if norm is not None:
            self.statistics[norm].add(rows)
        room = max(0, min(rows.shape[2], out.shape[2] - row))
        if room:
            out[:, :, row : row + room] = rows[:, :, :room]
        return row + rows.shape[2]

    def _finish(self, norm: Normalisation | None) -> None:
        if norm is not None:
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
            streams, before = streams_of(piece, self.statistics), inner
            inner_channels = channels_behind(Residual("", piece, None), before.shape[1])
            inner = self._arena.map(inner_channels, height, width, row, channels * width)
            inner_norm, done = first_norm(following[0]), 0
            for strip in Pipeline(streams).passed(strips(before, rows)):
                part = slice(done, done + strip.shape[2])
                if before is features and residual.shortcut is not None:
                    shortcut[:, :, part] = pointwise(residual.shortcut)(features[:, :, part])
                done = self._put(strip, inner, done, inner_norm)
            self._finish(inner_norm)
        out, done = shortcut if out is None else out, 0
        for strip in Pipeline(streams_of(last, self.statistics)).passed(strips(inner, rows)):
            total = strip.add_(shortcut[:, :, done : done + strip.shape[2]])
            done = self._put(total, out, done, norm)
        self._finish(norm)
        return out

    def _split(self, step: Split, features: Tensor, image: Tensor) -> Tensor:
        chain, statistics = self._chain, self.statistics
        source = self._arena.moved_to_end(features)
        # A map of another height than the plan's, as in predictions, is cut in proportion.
        kept = max(1, step.kept_rows * source.shape[2] // step.rows)
        first = max(0, row_before(chain.operations[step.start : step.points[-1]], kept))
        rows = self.rows_per_strip(source, step.start, step.stop)
        scale = chain.scales[step.stop] // chain.scales[step.start]
        height, width = scale * source.shape[2], scale * source.shape[3]
        point = step.points[0]
        features = self._arena.map(chain.channels[point], kept, width)
        self.write(lambda: strips(source, rows), chain.operations[step.start : point], features, self._norm_at(point))

        def whole(point: int) -> Strips:
            yield from ((strip, last and kept == height) for strip, last in strips(features, scale * rows))
            skipped, done = kept - scale * first, kept
            if done == height:
                return
            again = streams_of(chain.operations[step.start : point], statistics)
            for strip in Pipeline(again).passed(strips(source, rows, first)):
                dropped = min(skipped, strip.shape[2])
                skipped -= dropped
                if dropped < strip.shape[2]:
                    done += strip.shape[2] - dropped
                    yield strip[:, :, dropped:], done == height

        for point, following in zip(step.points, [*step.points[1:], step.stop], strict=True):
            out = image if following == step.stop else features
            operations = chain.operations[point:following]
            self.write(partial(whole, point), operations, out, self._norm_at(following))
        return image

    def _attended(self, step: Step, features: Tensor) -> Tensor:
        operation, norm = self._chain.operations[step.start], self._norm_at(step.stop)
        assert isinstance(operation, Attention)
        features = self._arena.without_gaps(features)
        keys, values = self._arena.matrices(2, features, offset=features.numel())
        attend(operation, features, keys, values, self.statistics)
        if norm is not None:
            for strip, _ in strips(features, self.rows_per_strip(features, step.start, step.start)):
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
