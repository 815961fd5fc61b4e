"""Takes the gradient at an image back to the latents, by the steps of a plan, in one arena.

The statistics of all normalisations are known from the forward pass. A pass computes activations again from a stored
map, and takes the gradient back beside them, row by row. A normalisation's gradient needs two sums over the whole
image, and so a pass of its own; what passes can be kept for the next.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from models.streaming.arena import Arena, strips, write_rows
from models.streaming.attention import attention_gradient
from models.streaming.forward import ForwardPass
from models.streaming.gradient_graph import graph_of
from models.streaming.gradient_plans import Back, GradientPlan, Portion
from models.streaming.graph_pass import GraphPass
from models.streaming.kept_maps import place_point
from models.streaming.operations import Attention, Chain
from models.streaming.rows import Pipeline, streams_of
from models.streaming.work import PRODUCTS_BACK, Extent, no_progress


class GradientPass:
    """The way back of one image.

    Args:
        forward: the forward pass, done, with the outputs of attention kept; strips have its size.
        arena: of the size that the plan needs; it may be that of the forward pass.
        progress: called with the share of the work that is done.
    """

    def __init__(
        self,
        chain: Chain,
        plan: GradientPlan,
        arena: Arena,
        forward: ForwardPass,
        progress: Callable[[float], None] = no_progress,
    ) -> None:
        self._chain, self._plan, self._arena, self._forward, self._progress = chain, plan, arena, forward, progress
        self._statistics = forward.statistics

    def __call__(self, latents: Tensor, image_gradient: Tensor, latents_gradient: Tensor) -> None:
        """Overwrite `latents_gradient`, of the latents' shape."""
        gradient, self._extent = image_gradient, Extent(self._chain, *latents.shape[2:])
        self._done, self._total = 0.0, self._plan.work + PRODUCTS_BACK * self._extent.attention_products()
        for portion in self._plan.portions:
            base = latents if portion.base == 0 else self._forward.outputs_of_attention.pop(portion.base)
            out = latents_gradient if portion.base == 0 else base
            self._through(portion, base, gradient, out)
            gradient = out
        self._progress(1.0)

    def _advance(self, work: float) -> None:
        """Report multiply-adds that are done."""
        self._done += work
        self._progress(min(1.0, self._done / max(1, self._total)))

    def _through(self, portion: Portion, base: Tensor, gradient: Tensor, out: Tensor) -> None:
        if portion.end < len(self._chain.operations):
            self._through_attention(portion, base, gradient)
        source_point, source = portion.base, base
        for step in portion.steps:
            if step.source != source_point:
                source_point, source = step.source, self._computed_again(portion.base, step.source, base, gradient)
            gradient = self._back(step, source, gradient, out if step.start == portion.base else None)

    def _through_attention(self, portion: Portion, base: Tensor, gradient: Tensor) -> None:
        """Overwrite the gradient behind an attention with that before it."""
        operation = self._chain.operations[portion.end]
        assert isinstance(operation, Attention)
        features = self._computed_again(portion.base, portion.end, base, gradient)
        channels, height, width = features.shape[1:]
        memory = self._arena.matrices(5, height * width, channels, offset=features.numel())
        done, work = self._done, PRODUCTS_BACK * self._extent.attention_product(portion.end)
        attention_gradient(
            operation,
            features,
            gradient,
            memory,
            self._statistics,
            lambda share: self._advance(done + share * work - self._done),
        )

    def _computed_again(self, base_point: int, point: int, base: Tensor, gradient: Tensor) -> Tensor:
        """The map at a point, at the end of the arena where the gradient is not."""
        scale = self._chain.scales[point] // self._chain.scales[base_point]
        shape = self._chain.channels[point], base.shape[2] * scale, base.shape[3] * scale
        at_start = self._arena.holds(gradient) and gradient.storage_offset() == 0
        out = self._arena.map_at_end(*shape) if at_start else self._arena.map(*shape)
        pipeline = Pipeline(streams_of(self._chain.operations[base_point:point], self._statistics))
        write_rows(pipeline.passed(strips(base, self._rows(base, base_point, point))), out)
        self._advance(sum(self._chain.work[base_point:point]) * self._extent.positions)
        return out

    def _back(self, step: Back, source: Tensor, gradient: Tensor, out: Tensor | None) -> Tensor:
        """The gradient at the start of a step.

        Args:
            out: takes it, if it is the last step of a portion.
        """
        if out is None:
            out = self._own_place(step, source, gradient)
        graph = graph_of(self._chain, step.source, step.start, step.stop)
        rows = source.shape[2] // self._chain.scales[step.source]
        heights = [node.scale * rows for node in graph.nodes]
        maps = {0: source, graph.incoming: gradient}
        places = None if step.kept is None else _Places(self._chain, self._arena, step, source, gradient)

        def strip_rows(features: Tensor, node: int) -> int:
            return self._rows(features, self._chain.scales.index(graph.nodes[node].scale), step.stop)

        for number, turn in enumerate(graph.turns):
            following = maps if places is None else places.behind(number, maps)
            written = {node: features for node, features in following.items() if maps.get(node) is not features}
            GraphPass(graph, maps, heights, self._statistics, strip_rows)(turn, written)
            self._advance(step.work / (len(graph.turns) + 1))
            maps = following
        GraphPass(graph, maps, heights, self._statistics, strip_rows)(None, {graph.outgoing: out})
        self._advance(step.work / (len(graph.turns) + 1))
        return out

    def _own_place(self, step: Back, source: Tensor, gradient: Tensor) -> Tensor:
        """Memory for the gradient at the start of a step."""
        if step.start == step.source:
            return source  # its rows are overwritten once they have been read
        channels = self._chain.channels[step.start]
        scale = self._chain.scales[step.start] // self._chain.scales[step.source]
        height, width = scale * source.shape[2], scale * source.shape[3]
        if self._arena.holds(gradient):
            return self._arena.map(channels, height, width, gradient.stride(2), int(gradient.storage_offset()))
        at_start = self._arena.holds(source) and source.storage_offset() == 0
        return self._arena.map_at_end(channels, height, width) if at_start else self._arena.map(channels, height, width)

    def _rows(self, features: Tensor, start: int, stop: int) -> int:
        return self._forward.rows_per_strip(features, start, stop)


class _Places:
    """Where the maps lie that a step keeps: side by side, from the end of the arena where its source is not."""

    def __init__(self, chain: Chain, arena: Arena, step: Back, source: Tensor, gradient: Tensor) -> None:
        assert step.kept is not None, "the step keeps nothing"
        self._arena, self._kept = arena, step.kept
        point = place_point(chain, step.stop)
        self._channels = chain.channels[point]
        self._height, self._width = (
            side * chain.scales[point] // chain.scales[step.source] for side in source.shape[2:]
        )
        # Heights are those of the plan, but in predictions.
        self._part_rows = max(1, step.part_rows * self._height // step.rows) if step.part_rows else 0
        if arena.holds(source):
            self._from_start = source.storage_offset() > 0
        else:
            self._from_start = not arena.holds(gradient) or gradient.storage_offset() == 0
        graph = graph_of(chain, step.source, step.source, step.stop)
        self._always = {0: source}
        self._indices: dict[int, int] = {}
        if arena.holds(gradient):
            self._indices[graph.incoming] = 0
        else:
            self._always[graph.incoming] = gradient
        self._count, self._part = step.places, 0

    def behind(self, number: int, maps: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """The maps that are there behind a pass, of those before it the same tensors.

        Args:
            number: of the pass.
        """
        whole, part = self._kept.whole[number], self._kept.part[number]
        self._indices = {node: index for node, index in self._indices.items() if node in whole}
        following = self._always | {node: maps[node] for node in self._indices}
        free = [index for index in range(self._count) if index not in self._indices.values()]
        for node, index in zip(sorted(whole - self._indices.keys()), free, strict=False):
            self._indices[node] = index
            following[node] = self._place(index, self._height)
        if part:
            following[part] = maps[part] if part == self._part else self._place(self._count, self._part_rows)
        self._part = part
        return following

    def _place(self, index: int, rows: int) -> Tensor:
        beside = index * self._channels * self._height * self._width
        if self._from_start:
            return self._arena.map(self._channels, rows, self._width, offset=beside)
        return self._arena.map_at_end(self._channels, rows, self._width, behind=beside)
