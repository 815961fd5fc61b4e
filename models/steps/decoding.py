"""Steps of decoders: the network's own decode, or by row streams.

Row streams compute the same image and gradient, in the memory that there is. The plan, which maps are kept and what is
computed again, follows from `Workload.memory_bytes`. The images of a batch are decoded one after the other.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from models.errors import InputError, Unsupported
from models.generators import Generator
from models.steps.distributed.slab_traffic import sent_bytes
from models.steps.generators import Decode, GeneratorStep, InputGradient, step_of_mode
from models.steps.loss_scale import first_scale
from models.steps.malloc import LARGEST_IN_HEAP_BYTES, FreePages, keep_small_blocks
from models.steps.objectives import frozen_type
from models.steps.tiling.partition import all_reduce_bytes
from models.streaming.decoder import Plan, StreamedDecoder, TooLittleMemory, plan_for
from models.streaming.offloading import OffloadedDecoder, offloaded_plan
from models.streaming.operations import Chain
from models.streaming.slabs import OneRank, Ranks, even_slabs
from models.streaming.trace import trace
from models.workload import Step, Workload, resolve

# Reported parts of an iteration.
_PARTS = 1000
# Of the sum of all ranks' pixels, which they exchange at the end.
_SUM_BYTES = 4
# Code, heap and scratch memory of the libraries, which are counted as the cell's on a cpu.
_LIBRARY_BYTES = 128 * 2**20


def decode(workload: Workload) -> Step:
    """The step of a decoder, by strategy and mode.

    Raises:
        InputError: the mode, the size or the weights do not fit the model.
        Unsupported: the strategy does not apply.
    """
    if workload.strategy == "streamed":
        return step_of_mode({"forward": StreamedForward, "input": StreamedInputGradient}, workload)
    if workload.strategy == "offloaded":
        if workload.mode == "input":
            raise Unsupported("strategy 'offloaded' does not apply: a gradient keeps its maps on the device")
        return step_of_mode({"forward": OffloadedForward}, workload)
    return step_of_mode({"forward": Decode, "input": InputGradient}, workload)


class StreamedStep(GeneratorStep):
    """A step by row streams, which a subclass sets up."""

    _streams: "Streams"

    def plan(self) -> Mapping[str, Any]:
        return self._streams.decoder.plan.facts()

    def on_progress(self, report: Callable[[int, int], None]) -> None:
        self._streams.report = report


class StreamedForward(StreamedStep, Decode):
    """The images of one batch of latents, by row streams."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self._ranks = self._ranks_of_image()  # may shorten the latents
        self._streams = Streams(self, workload, self._decoder)

    def _ranks_of_image(self) -> Ranks:
        """The ranks that compute the images together."""
        return OneRank()

    def _decoder(self, chain: Chain, memory_bytes: int | None) -> StreamedDecoder:
        """The decoder of one image within so much memory beside weights and latents."""
        height, width = self._latents.shape[2:]
        return StreamedDecoder(chain, height, width, self._latents, memory_bytes, ranks=self._ranks)

    def _iterate(self) -> None:
        with torch.inference_mode(), self._computing():
            # Reused: two outputs at a time would raise the peak.
            self._output = self._streams.images() if self._output is None else self._output
            for latents, image, progress in self._streams.pairs(self._output):
                self._streams.decoder.decode(latents, image, progress)


class OffloadedForward(StreamedForward):
    """The same with all maps in the host's memory."""

    def _decoder(self, chain: Chain, memory_bytes: int | None) -> StreamedDecoder:
        # Fake tensors of the cpu stand for those of an accelerator in predictions.
        if self._latents.device.type == "cpu" and not isinstance(self._latents, FakeTensor):
            raise Unsupported("strategy 'offloaded' does not apply: on a cpu all maps are on the host; use 'streamed'")
        height, width = self._latents.shape[2:]
        return OffloadedDecoder(chain, height, width, self._latents, memory_bytes)


class StreamedInputGradient(StreamedStep, InputGradient):
    """The gradient of the images' mean square with respect to the latents, by row streams."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self._latents = self._latents.detach()
        self._streams = Streams(self, workload, self._decoder)

    def _decoder(self, chain: Chain, memory_bytes: int | None) -> StreamedDecoder:
        height, width = self._latents.shape[2:]
        return StreamedDecoder(chain, height, width, self._latents, memory_bytes, gradient=True)

    def _iterate(self) -> None:
        total = self._latents.new_zeros((), dtype=torch.float32)
        images = self._streams.images(batch=1)
        numbers = images.numel() * len(self._latents)
        scale = 2.0 * first_scale(self._precision, numbers) / numbers

        def gradient_of(image: Tensor) -> Tensor:
            total.add_(image.float().square().sum())
            return image.mul_(scale)

        gradients = []
        with self._computing():
            for latents, _, progress in self._streams.pairs(images.expand(len(self._latents), -1, -1, -1)):
                gradients.append(self._streams.decoder.gradient(latents, images, gradient_of, progress))
        self._latents.grad = torch.cat(gradients)
        self._loss = total / numbers


class Streams:
    """What these steps have: the decoder for one image, or a slab of it, and the images of a batch.

    Args:
        decoder_of: from the network's chain, and the memory that is left for the decode, to the decoder.

    Attributes:
        channels: of the image.
    """

    def __init__(
        self,
        step: GeneratorStep,
        workload: Workload,
        decoder_of: Callable[[Chain, int | None], StreamedDecoder],
    ) -> None:
        self._latents = step.latents
        self.report: Callable[[int, int], None] = _no_report
        chain = _chain_of(step.network, workload.strategy)
        self._scale, self.channels = chain.scales[-1], chain.channels[-1]
        height, width = self._latents.shape[2:]
        # The decoder plans for one image; those of the batch beside it are there as well.
        others = (len(self._latents) - 1) * self.channels * self._scale**2 * height * width
        left = _memory_left(step.network, self._latents, others, workload)
        # Strips' blocks from the kernel took 1.5 to 1.8 times the time, for its zeros; what they leave free in the heap
        # is returned after each pass.
        keep_small_blocks(LARGEST_IN_HEAP_BYTES)
        try:
            self.decoder = decoder_of(chain, left)
        except TooLittleMemory as error:
            raise MemoryError(str(error)) from error  # a result, as any other image that does not fit

    def images(self, batch: int = 0) -> Tensor:
        """Uninitialised images, of the whole batch by default."""
        height, width = (self._scale * side for side in self._latents.shape[2:])
        return self._latents.new_empty(batch or len(self._latents), self.channels, height, width)

    def pairs(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor, Callable[[float], None]]]:
        """For each image of the batch its latents, itself, and what takes the share of it that is done."""
        for index in range(len(self._latents)):
            part = slice(index, index + 1)
            yield self._latents[part], images[part], partial(self._report_share, index)

    def _report_share(self, images: int, share: float) -> None:
        FreePages.give_back()
        done = round(_PARTS * (images + share))
        if done:  # a step whose end is the first that is reported may have no convolutions
            self.report(done, _PARTS * len(self._latents))


@dataclass(frozen=True)
class WorkloadPlan:
    """The plan of a workload with strategy `streamed`, of ranks that of the one with the highest slab.

    Attributes:
        resident_bytes: of weights, latents and the other images of a batch, beside the plan's.
        sent_bytes: by the rank that sends the most.
    """

    plan: Plan
    resident_bytes: int
    sent_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Of all tensors, predicted."""
        return self.resident_bytes + self.plan.peak_bytes


def streaming_plan(workload: Workload) -> WorkloadPlan:
    """The plan of a workload with strategy `streamed` or `offloaded`.

    Raises:
        InputError: the network cannot be streamed, no plan fits, or there are fewer rows than ranks.
    """
    network: Generator = resolve(workload.model)()
    dtype = frozen_type(workload.precision)
    image_height, width = (side // network.latent_px for side in (workload.height, workload.width))
    height = even_slabs(image_height, workload.ranks)[0].highest
    latents = torch.empty(workload.batch, network.latent_channels, height, width, dtype=dtype, device="meta")
    chain = trace(network.to(dtype), network.latent_channels)
    others = (workload.batch - 1) * chain.channels[-1] * chain.scales[-1] ** 2 * height * width
    left = _memory_left(network, latents, others, workload)
    if workload.strategy == "offloaded":
        plan = offloaded_plan(chain, height, width, dtype, left)
        return WorkloadPlan(plan, _resident_bytes(network, latents, others), 0)
    of_slab = image_height if workload.ranks > 1 else 0
    plan = plan_for(chain, height, width, dtype, left, workload.mode == "input", image_height=of_slab)
    sent = sent_bytes(chain, plan.forward, image_height, width, workload.ranks, dtype.itemsize)
    last_sum = all_reduce_bytes(_SUM_BYTES, workload.ranks)
    return WorkloadPlan(plan, _resident_bytes(network, latents, others), workload.batch * max(sent) + last_sum)


def _chain_of(network: Generator, strategy: str) -> Chain:
    try:
        return trace(network, network.latent_channels)
    except InputError as error:
        raise Unsupported(f"strategy {strategy!r} does not apply: {error}") from error


def _memory_left(network: nn.Module, latents: Tensor, others: int, workload: Workload) -> int | None:
    """Bytes of the workload's memory for the decode, without weights, latents and the other images of a batch."""
    if not workload.memory_bytes:
        return None
    return workload.memory_bytes - _resident_bytes(network, latents, others) - _LIBRARY_BYTES


def _resident_bytes(network: nn.Module, latents: Tensor, others: int) -> int:
    taken: Any = [*network.parameters(), latents]
    return sum(tensor.numel() * tensor.element_size() for tensor in taken) + others * latents.element_size()


def _no_report(done: int, total: int) -> None:
    del done, total
