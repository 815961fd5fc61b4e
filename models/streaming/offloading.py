"""Decodes with all maps in pinned memory of the host: an accelerator holds strips of rows, and attention's map.

Strips are fetched and stored on two streams beside that of the computation: while one strip is computed, the next is
fetched, and the one before is stored. Every convolution is computed once. The price is what crosses the bus: each pass
over a map fetches it, and each map is stored once (`moved_bytes` of the plan).
"""

import contextlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from models.streaming.arena import STRIP_POSITIONS, Arena, write_rows
from models.streaming.decoder import Plan, StreamedDecoder, check_memory, extent_of, plan_of, strip_numbers
from models.streaming.operations import Attention, Chain, Residual, channels_behind, image_bytes
from models.streaming.plans import Attended, Fused, Paired, Step, forward_plan
from models.streaming.slabs import Slab
from models.streaming.work import Extent, passes, pieces_of

# Strips that are being stored; with the one that is fetched ahead they take no more than streams need elsewhere.
_STORED_AT_A_TIME = 2
# Of an attention on the device: the map, keys and values.
_ATTENTION_MAPS = 3


class Bus(ABC):
    """Copies rows between the host and a device."""

    @abstractmethod
    def begin(self) -> None:
        """What is fetched from now on was stored before, or is never stored."""

    @abstractmethod
    def fetch(self, rows: Tensor) -> tuple[Tensor, Any]:
        """A copy on the device, and what to wait for before it is used."""

    @abstractmethod
    def wait(self, fetched: Any) -> None:
        """Let the computation wait for what was fetched."""

    @abstractmethod
    def store(self, rows: Tensor, out: Tensor) -> None:
        """Copy rows to the host, behind all that has been fetched so far."""

    @abstractmethod
    def settle(self) -> None:
        """Wait on the host until all copies are done."""


class StreamedBus(Bus):
    """Copies on two streams of the device. The computation is on its current stream.

    A tensor belongs to the current stream, which alone reuses its memory. So a fetch waits for what that stream did
    with the memory before, and a tensor that is stored is kept until the current stream waits for the copy.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._inward, self._outward = torch.Stream(device), torch.Stream(device)
        self._stored: deque[tuple[Any, Tensor]] = deque()

    def begin(self) -> None:
        self._inward.wait_stream(self._outward)

    def fetch(self, rows: Tensor) -> tuple[Tensor, Any]:
        target = _rows_on(self._device, rows)
        self._inward.wait_stream(self._current())
        with self._inward:
            copy_rows(rows, target)
        return target, self._inward.record_event()

    def wait(self, fetched: Any) -> None:
        self._current().wait_event(fetched)

    def store(self, rows: Tensor, out: Tensor) -> None:
        current, rows = self._current(), rows.contiguous(memory_format=torch.channels_last)
        if len(self._stored) == _STORED_AT_A_TIME:
            current.wait_event(self._stored.popleft()[0])
        self._outward.wait_stream(current)
        self._outward.wait_stream(self._inward)
        with self._outward:
            copy_rows(rows, out)
        self._stored.append((self._outward.record_event(), rows))

    def settle(self) -> None:
        self._inward.synchronize()
        self._outward.synchronize()
        self._stored.clear()

    def _current(self) -> torch.Stream:
        return torch.accelerator.current_stream(self._device)


class FakeBus(Bus):
    """For predictions: takes the same memory of a device, and copies nothing."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stored: deque[Tensor] = deque(maxlen=_STORED_AT_A_TIME)

    def begin(self) -> None:
        pass

    def fetch(self, rows: Tensor) -> tuple[Tensor, Any]:
        return _rows_on(self._device, rows), None

    def wait(self, fetched: Any) -> None:
        pass

    def store(self, rows: Tensor, out: Tensor) -> None:
        del out
        self._stored.append(rows.contiguous(memory_format=torch.channels_last))

    def settle(self) -> None:
        self._stored.clear()


class HostArena(Arena):
    """An arena in pinned memory of the host, whose rows are computed on a device.

    Args:
        like: a tensor on that device, of the maps' type.
        resident_numbers: how many numbers the device has for a map that is computed as a whole, with two matrices of
            its size.
    """

    def __init__(self, numbers: int, like: Tensor, resident_numbers: int) -> None:
        self._resident = like.new_empty(resident_numbers)
        if isinstance(like, FakeTensor):
            self._memory = torch.empty(numbers, dtype=like.dtype, device="meta")
            self._bus: Bus = FakeBus(like.device)
        else:
            self._memory = torch.empty(numbers, dtype=like.dtype, pin_memory=True)
            self._bus = StreamedBus(like.device)

    def strips(self, source: Tensor, rows: int, first: int = 0) -> Iterator[tuple[Tensor, bool]]:
        if not self.holds(source):
            yield from super().strips(source, rows, first)
            return
        self._bus.begin()
        height = source.shape[2]
        following = self._bus.fetch(source[:, :, first : first + rows]) if first < height else None
        for row in range(first + rows, height + rows, rows):
            assert following is not None
            strip, fetched = following
            following = self._bus.fetch(source[:, :, row : row + rows]) if row < height else None
            self._bus.wait(fetched)
            yield strip, following is None

    def read(self, part: Tensor) -> Tensor:
        if not self.holds(part):
            return super().read(part)
        self._bus.begin()
        rows, fetched = self._bus.fetch(part)
        self._bus.wait(fetched)
        return rows

    def write(self, rows: Tensor, out: Tensor) -> None:
        if self.holds(out):
            self._bus.store(rows, out)
        else:
            super().write(rows, out)

    @contextlib.contextmanager
    def resident(self, features: Tensor, positions: int) -> Iterator[tuple[Tensor, Tensor]]:
        _, channels, height, width = features.shape
        size, matrices = features.numel(), 2 * positions * channels
        loaded = self._resident[:size].view(1, height, width, channels).permute(0, 3, 1, 2)
        rows = max(1, STRIP_POSITIONS // width)
        write_rows((strip for strip, _ in self.strips(features, rows)), loaded)
        yield loaded, self._resident[size : size + matrices].view(2, positions, channels)
        for first in range(0, height, rows):
            self.write(loaded[:, :, first : first + rows], features[:, :, first : first + rows])

    def moved_to_end(self, source: Tensor) -> Tensor:
        self._bus.settle()
        return super().moved_to_end(source)

    def without_gaps(self, source: Tensor) -> Tensor:
        self._bus.settle()
        return super().without_gaps(source)

    def spread(self, source: Tensor, row: int) -> Tensor:
        self._bus.settle()
        return super().spread(source, row)


class OffloadedDecoder(StreamedDecoder):
    """As `StreamedDecoder`, for images alone, with all maps in the host's memory; `memory_bytes` are the device's."""

    def _planned(self, slab: Slab, width: int, dtype: torch.dtype, memory_bytes: int | None, gradient: bool) -> Plan:
        assert not gradient, "gradients are not computed with maps on the host"
        return offloaded_plan(self._chain, slab.highest, width, dtype, memory_bytes, self._strip_positions)

    def _allocated(self, like: Tensor) -> Arena:
        height, width = like.shape[2:]
        return HostArena(self.plan.numbers, like, _resident_numbers(Extent(self._chain, height, width)))


def offloaded_plan(
    chain: Chain,
    height: int,
    width: int,
    dtype: torch.dtype,
    memory_bytes: int | None = None,
    strip_positions: int = STRIP_POSITIONS,
) -> Plan:
    """The plan with every convolution once, whose arena is in the host's memory.

    Args:
        height, width: of the latents.
        memory_bytes: of the device, for everything but the network's weights and the latents; None for no limit.

    Raises:
        InputError: the latents have no positions.
        TooLittleMemory: it needs more of the device's memory.
    """
    extent = extent_of(chain, height, width)
    forward = forward_plan(extent)
    assert forward is not None, "without a limit there is a plan"
    strips = strip_numbers(extent, False, strip_positions)
    device_bytes = (strips + _resident_numbers(extent)) * dtype.itemsize + image_bytes(chain, height, width, dtype)
    check_memory(extent, device_bytes, memory_bytes)
    return plan_of(
        extent,
        forward,
        None,
        peak_bytes=device_bytes,
        # torch rounds pinned memory up to a power of two (ATen/core/CachingHostAllocator.h).
        host_bytes=1 << (forward.numbers * dtype.itemsize - 1).bit_length(),
        moved_bytes=sum(_moved_numbers(extent, step) for step in forward.steps) * dtype.itemsize,
    )


def _resident_numbers(extent: Extent) -> int:
    attentions = (index for index, one in enumerate(extent.chain.operations) if isinstance(one, Attention))
    return _ATTENTION_MAPS * max(map(extent.size, attentions), default=0)


def _moved_numbers(extent: Extent, step: Step) -> int:
    """Numbers that a step fetches and stores. Latents and image are on the device."""
    chain = extent.chain
    before = extent.size(step.start) if step.start else 0
    behind = extent.size(step.stop) if step.stop < len(chain.operations) else 0
    if isinstance(step, Attended):
        return before + behind
    if isinstance(step, Fused):
        return passes(chain, step.start, step.stop) * before + behind
    assert isinstance(step, Paired), "a plan without a limit has no other step"
    residual = chain.operations[step.start]
    assert isinstance(residual, Residual)
    channels, inner = chain.channels[step.start], 0
    for piece in pieces_of(residual.body)[:-1]:
        for one in piece:
            channels = channels_behind(one, channels)
        inner += channels
    positions = extent.size(step.start) // chain.channels[step.start]
    shortcut = positions * chain.channels[step.stop]
    # A shortcut with a convolution is computed beforehand, and stored; every inner map is stored and fetched.
    computed = 0 if residual.shortcut is None else before + shortcut
    return before + 2 * inner * positions + computed + shortcut + behind


def copy_rows(source: Tensor, target: Tensor) -> None:
    """Queue copies of rows of (width, channels), which may lie apart on either side.

    One copy where all rows lie together: torch copies other shapes by way of memory that is not pinned.
    """
    sources, targets = (one.permute(0, 2, 3, 1)[0] for one in (source, target))
    if sources.is_contiguous() and targets.is_contiguous():
        targets.copy_(sources, non_blocking=True)
        return
    for one, other in zip(sources, targets, strict=True):
        other.copy_(one, non_blocking=True)


def _rows_on(device: torch.device, rows: Tensor) -> Tensor:
    return torch.empty(rows.shape, dtype=rows.dtype, device=device, memory_format=torch.channels_last)
