"""Takes the gradient at an image back to the latents, by the steps of a plan, in one arena.

The statistics of all normalisations are known from the forward pass. Every pass runs two streams side by side: one
computes activations again from a stored map, the other takes the gradient back, row by row. A normalisation's gradient
needs two sums over the whole image, and so a pass of its own.
"""

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from models.streaming.arena import Arena, strips, write_rows
from models.streaming.attention import attention_gradient
from models.streaming.forward import ForwardPass, no_progress
from models.streaming.gradient_plans import Back, GradientPlan, Portion
from models.streaming.operations import Attention, Chain, Normalisation, Operation
from models.streaming.row_gradients import gradient_streams, gradient_streams_to
from models.streaming.rows import Pipeline, Recorder, RowQueue, Stream, path_to, streams_of
from models.streaming.work import marks


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
        gradient, done = image_gradient, 0
        for portion in self._plan.portions:
            base = latents if portion.base == 0 else self._forward.outputs_of_attention.pop(portion.base)
            out = latents_gradient if portion.base == 0 else base
            self._through(portion, base, gradient, out)
            gradient, done = out, done + portion.work
            self._progress(done / max(1, self._plan.work))

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
        attention_gradient(operation, features, gradient, memory, self._statistics)

    def _computed_again(self, base_point: int, point: int, base: Tensor, gradient: Tensor) -> Tensor:
        """The map at a point, at the end of the arena where the gradient is not."""
        scale = self._chain.scales[point] // self._chain.scales[base_point]
        shape = self._chain.channels[point], base.shape[2] * scale, base.shape[3] * scale
        at_start = self._arena.holds(gradient) and gradient.storage_offset() == 0
        out = self._arena.map_at_end(*shape) if at_start else self._arena.map(*shape)
        pipeline = Pipeline(streams_of(self._chain.operations[base_point:point], self._statistics))
        write_rows(pipeline.passed(strips(base, self._rows(base, base_point, point))), out)
        return out

    def _back(self, step: Back, source: Tensor, gradient: Tensor, out: Tensor | None) -> Tensor:
        """The gradient at the start of a step.

        Args:
            out: takes it, if it is the last step of a portion.
        """
        if out is None:
            out = self._place(step, source, gradient)
        recorded = [mark.operation for mark in marks(self._chain, step.start, step.stop)]
        for operation in reversed(recorded):
            if isinstance(operation, Normalisation):
                wanted = recorded[recorded.index(operation) :]
                for _ in self._passed(step, source, gradient, wanted, target=operation):
                    pass
                self._statistics[operation].finish_gradient()
        write_rows(self._passed(step, source, gradient, recorded, target=None), out)
        return out

    def _place(self, step: Back, source: Tensor, gradient: Tensor) -> Tensor:
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

    def _passed(
        self, step: Back, source: Tensor, gradient: Tensor, recorded: Sequence[Operation], target: Normalisation | None
    ) -> Iterator[Tensor]:
        """What comes out of the streams back to a normalisation, whose sums they measure, or to the step's start.

        Args:
            recorded: the operations whose input is needed, in order.
        """
        chain = self._chain
        inputs = {operation: RowQueue() for operation in recorded}
        if recorded:
            last = recorded[-1]
            before = streams_of(path_to(chain.operations[step.source : step.stop], last), self._statistics, inputs)
            forward: list[Stream] = [*before, Recorder(inputs[last])]
            pipeline = Pipeline(forward)
            activations = strips(source, self._rows(source, step.source, step.stop))

            def advance() -> None:
                pipeline.push(*next(activations))

            for queue in inputs.values():
                queue.advance = advance
        operations = chain.operations[step.start : step.stop]
        if target is None:
            streams = gradient_streams(operations, self._statistics, inputs)
        else:
            streams = gradient_streams_to(operations, target, self._statistics, inputs)
        return Pipeline(streams).passed(strips(gradient, self._rows(gradient, step.stop, step.stop)))

    def _rows(self, features: Tensor, start: int, stop: int) -> int:
        return self._forward.rows_per_strip(features, start, stop)
