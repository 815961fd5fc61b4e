"""Decodes latents of one size exactly, within a memory budget: chooses the plan, and holds the arena."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from models.errors import InputError
from models.streaming.arena import STRIP_POSITIONS, Arena
from models.streaming.forward import ForwardPass
from models.streaming.gradient import GradientPass
from models.streaming.gradient_plans import GradientPlan, gradient_plan, smallest_gradient_numbers
from models.streaming.operations import Chain, image_bytes
from models.streaming.plans import ForwardPlan, forward_plan, smallest_numbers
from models.streaming.slabs import OneRank, Ranks, Slab, rows_around
from models.streaming.work import PRODUCTS, PRODUCTS_BACK, Extent, no_progress, portions

# Strips that streams hold at a time, in the largest maps' channels; measured (tests/models/steps/test_decoding.py).
_FORWARD_STRIPS, _GRADIENT_STRIPS = 7, 10
# Rows of the latents that stand for all in predictions: memory beside the arena depends on the width only.
_FAKE_ROWS = 8
# Products of the gradient of an attention that keeps its weights.
_PLAIN_PRODUCTS_BACK = 5


class TooLittleMemory(InputError):
    """No plan fits the budget. The message says what the smallest takes.

    Attributes:
        missing_bytes: how much more memory the smallest takes.
    """

    def __init__(self, message: str, missing_bytes: int) -> None:
        super().__init__(message)
        self.missing_bytes = missing_bytes


@dataclass(frozen=True)
class Plan:
    """How latents of one size are decoded.

    Attributes:
        backward: None without gradient.
        maps: the arena in maps of the largest size with the channels of the last layer's input.
        peak_bytes: predicted, of the device, beside the network's weights and the latents.
        relative_convolutions: work of all convolutions, relative to that of the network as it is.
        relative_work: of convolutions and attention.
        work: multiply-adds of convolutions and attention.
        host_bytes: of an arena in the host's memory; 0 if it is the device's.
        moved_bytes: between the host and the device.
    """

    forward: ForwardPlan
    backward: GradientPlan | None
    numbers: int
    maps: float
    peak_bytes: int
    relative_convolutions: float
    relative_work: float
    work: int
    host_bytes: int = 0
    moved_bytes: int = 0

    def facts(self) -> dict[str, Any]:
        """The figures for a record."""
        of_host = {"host_bytes": self.host_bytes, "moved_bytes": self.moved_bytes} if self.host_bytes else {}
        return {
            "maps": round(self.maps, 3),
            "predicted_peak_bytes": self.peak_bytes,
            "relative_convolutions": round(self.relative_convolutions, 3),
            "relative_work": round(self.relative_work, 3),
            **of_host,
        }


def plan_for(
    chain: Chain,
    height: int,
    width: int,
    dtype: torch.dtype,
    memory_bytes: int | None = None,
    gradient: bool = False,
    strip_positions: int = STRIP_POSITIONS,
    image_height: int = 0,
) -> Plan:
    """The plan with the least work within a budget.

    Args:
        height, width: of the latents, or of a slab of them.
        memory_bytes: for everything but the network's weights and the latents; None for no limit.
        gradient: whether the gradient to the latents is computed too.
        image_height: of the latents of which these are a slab; 0 if they are no slab.

    Raises:
        InputError: the latents have no positions.
        TooLittleMemory: no plan fits.
    """
    extent = extent_of(chain, height, width, image_height)
    beside = _bytes_beside_arena(extent, dtype, gradient, strip_positions)
    numbers = float("inf") if memory_bytes is None else (memory_bytes - beside) // dtype.itemsize
    forward = forward_plan(extent, numbers)
    backward = gradient_plan(extent, numbers) if gradient else None
    if forward is None or (gradient and backward is None):
        least = max(smallest_numbers(extent), smallest_gradient_numbers(extent) if gradient else 0)
        check_memory(extent, beside + least * dtype.itemsize, memory_bytes)
    assert forward is not None
    numbers = max(forward.numbers, backward.numbers if backward else 0)
    return plan_of(extent, forward, backward, beside + numbers * dtype.itemsize)


def extent_of(chain: Chain, height: int, width: int, image_height: int = 0) -> Extent:
    """The chain for latents of that size; arguments and errors as in `plan_for`."""
    if height < 1 or width < 1:
        raise InputError(f"latents of {width}x{height} positions have no image; give at least 1x1")
    return Extent(chain, height, width, image_height)


def check_memory(extent: Extent, needed_bytes: int, memory_bytes: int | None) -> None:
    """Check that the smallest plan fits the memory that there is; None is no limit.

    Raises:
        TooLittleMemory: it does not.
    """
    if memory_bytes is not None and needed_bytes > memory_bytes:
        width, height = (extent.chain.scales[-1] * side for side in (extent.width, extent.height))
        raise TooLittleMemory(
            f"the smallest plan for {'a slab' if extent.image_height else 'an image'} of {width}x{height} px takes"
            f" {needed_bytes / 2**30:.2f} GiB beside weights and latents, and {memory_bytes / 2**30:.2f} GiB are left"
            " for it; give more memory, or decode a smaller image",
            needed_bytes - memory_bytes,
        )


def plan_of(
    extent: Extent,
    forward: ForwardPlan,
    backward: GradientPlan | None,
    peak_bytes: int,
    host_bytes: int = 0,
    moved_bytes: int = 0,
) -> Plan:
    """The plan with its work; other arguments as in `Plan`."""
    numbers = max(forward.numbers, backward.numbers if backward else 0)
    product, projections = extent.attention_products(), extent.projections()
    attention = plain_attention = PRODUCTS * product + 4 * projections
    convolutions, plain = forward.work, extent.plain()
    if backward is not None:
        convolutions, plain = convolutions + backward.work, 2 * plain
        attention += PRODUCTS_BACK * product + 7 * projections
        plain_attention += _PLAIN_PRODUCTS_BACK * product + 4 * projections
    last = len(extent.chain.operations) - 1
    return Plan(
        forward,
        backward,
        numbers,
        numbers / extent.size(last),
        peak_bytes,
        convolutions / plain,
        (convolutions + attention) / (plain + plain_attention),
        convolutions + attention,
        host_bytes,
        moved_bytes,
    )


def _bytes_beside_arena(extent: Extent, dtype: torch.dtype, gradient: bool, strip_positions: int) -> int:
    """Image, copies of attention's outputs, and strips."""
    chain = extent.chain
    images = image_bytes(chain, extent.height, extent.width, dtype) * (2 if gradient else 1)
    kept = sum(extent.size(stop + 1) for _, stop in portions(chain)[:-1]) if gradient else 0
    strips = strip_numbers(extent, gradient, strip_positions)
    return images + (kept + strips + _halo_numbers(extent)) * dtype.itemsize


def strip_numbers(extent: Extent, gradient: bool, strip_positions: int) -> int:
    """Numbers of the strips that streams hold at a time."""
    # A strip has one row of its segment's input at least.
    wide = max(extent.row(point) for point in range(len(extent.chain.channels)))
    strip = max(2 * wide, strip_positions * max(extent.chain.channels))
    return (_GRADIENT_STRIPS if gradient else _FORWARD_STRIPS) * strip


def _halo_numbers(extent: Extent) -> int:
    """The most numbers of neighbours' rows that a step of a slab has, with its own rows that it sends."""
    if not extent.image_height:
        return 0
    ranges = portions(extent.chain)
    needed = (
        rows_around(extent.chain.operations[point:stop]) * extent.row(point)
        for start, stop in ranges
        for point in range(start, stop)
    )
    return 4 * max(needed)


class StreamedDecoder:
    """A chain with the plan and the arena for latents of one size.

    Args:
        chain: of `models.streaming.trace.trace`; its weights are used as they are.
        height, width: of the latents, or of this rank's slab of them.
        like: a tensor with the type and device of the latents.
        memory_bytes, gradient, strip_positions: as in `plan_for`.
        ranks: those among which the latents are cut into slabs. All get the plan of the highest slab, and the memory
            of the rank with the least.

    Raises:
        InputError: as `plan_for`.
    """

    def __init__(
        self,
        chain: Chain,
        height: int,
        width: int,
        like: Tensor,
        memory_bytes: int | None = None,
        gradient: bool = False,
        strip_positions: int = STRIP_POSITIONS,
        ranks: Ranks | None = None,
    ) -> None:
        self._ranks = ranks = ranks or OneRank()
        slab = ranks.slab(height)
        assert not (gradient and slab.is_part), "gradients are not computed over ranks"
        self._chain, self._strip_positions = chain, strip_positions
        self.plan = self._planned(slab, width, like.dtype, ranks.least(memory_bytes), gradient)
        self._arena = self._allocated(like)

    def _planned(self, slab: Slab, width: int, dtype: torch.dtype, memory_bytes: int | None, gradient: bool) -> Plan:
        image_height = slab.height if slab.is_part else 0
        return plan_for(
            self._chain, slab.highest, width, dtype, memory_bytes, gradient, self._strip_positions, image_height
        )

    def _allocated(self, like: Tensor) -> Arena:
        """The arena of the plan."""
        return Arena(self.plan.numbers, like)

    def decode(self, latents: Tensor, image: Tensor, progress: Callable[[float], None] = no_progress) -> None:
        """Overwrite an image with that of latents; both have a batch of one."""
        with torch.no_grad():
            self._forward(latents, image, False, progress)

    def gradient(
        self,
        latents: Tensor,
        image: Tensor,
        gradient_of: Callable[[Tensor], Tensor],
        progress: Callable[[float], None] = no_progress,
    ) -> Tensor:
        """The gradient of a loss with respect to latents, shape (1, channels, height, width).

        Args:
            image: is overwritten with the image.
            gradient_of: from the image to the loss's gradient with respect to it, of the same shape. It may overwrite
                and return the image.
        """
        backward = self.plan.backward
        assert backward is not None, "the decoder was made without gradient"
        with torch.no_grad():
            products = Extent(self._chain, *latents.shape[2:]).attention_products()
            forward_work = self.plan.forward.work + PRODUCTS * products
            share = forward_work / (forward_work + backward.work + PRODUCTS_BACK * products)
            forward = self._forward(latents, image, True, lambda done: progress(share * done))
            result = torch.empty_like(latents)
            back = GradientPass(
                self._chain, backward, self._arena, forward, lambda done: progress(share + (1 - share) * done)
            )
            first, image_gradient = _shortened(latents, gradient_of(image))
            back(first, image_gradient, _first_rows(result))
            return result

    def _forward(self, latents: Tensor, image: Tensor, keep: bool, progress: Callable[[float], None]) -> ForwardPass:
        forward = ForwardPass(
            self._chain, self.plan.forward, self._arena, self._strip_positions, keep, progress, self._ranks
        )
        forward(*_shortened(latents, image))
        return forward


def _shortened(latents: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Both; of fake tensors the first rows, which take as much memory as all, in fewer steps."""
    return _first_rows(latents), _first_rows(image, image.shape[2] // latents.shape[2])


def _first_rows(tensor: Tensor, scale: int = 1) -> Tensor:
    return tensor[:, :, : scale * _FAKE_ROWS] if isinstance(tensor, FakeTensor) else tensor
