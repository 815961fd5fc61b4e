"""Microbenchmarks of a device: copies, matrix products, convolutions, transfers, launches, and work in flight.

Data is random: a chip that multiplies zeros takes less power and clocks higher. Operations that must read from memory
cycle through more buffers than fit in any cache.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from models.microbenchmarks import CONVOLUTION_CHANNELS, QUANTITIES
from models.steps.objectives import arithmetic
from models.workload import Step, Workload

T = TypeVar("T")

# More than the caches of known processors and GPUs; the largest is the 256 MiB third-level cache of a server.
_LARGER_THAN_CACHES_BYTES = 512 * 2**20
_FLOAT_BYTES = 4
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class _Limit(Step):
    """A step without a loss that repeats one operation."""

    def __init__(self, workload: Workload) -> None:
        self._device = torch.device(workload.device)
        self._repeats = QUANTITIES[workload.model].repeats(workload.size)

    def loss(self) -> float | None:
        return None


class Copy(_Limit):
    """Copies one half of a working set of `size` bytes onto the other half."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        elements = workload.size // 2 // _FLOAT_BYTES
        self._source = torch.rand(elements, device=self._device)
        self._destination = torch.empty_like(self._source)

    def __call__(self) -> None:
        for _ in range(self._repeats):
            self._destination.copy_(self._source)


class Product(_Limit):
    """Multiplies square matrices of side `size` in the workload's precision."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        side, self._precision = workload.size, workload.precision
        dtype = _DTYPES.get(workload.precision, torch.float32)

        def matrix() -> Tensor:
            return torch.randn(side, side, device=self._device).to(dtype)

        self._result = matrix()
        self._pairs = _cycle(lambda: (matrix(), matrix()), 2 * self._result.nbytes)

    def __call__(self) -> None:
        with arithmetic(self._precision, self._device.type):
            for _ in range(self._repeats):
                left, right = next(self._pairs)
                torch.mm(left, right, out=self._result)

    def loss(self) -> float | None:
        return float(self._result[0].float().mean())


class Convolution(_Limit):
    """A 3x3 convolution over a square of side `size`, in the workload's precision, channels last in memory.

    In addition to the matrix product, because libraries differ: on processors that MKL does not recognise, its matrix
    product reaches half the rate of oneDNN's convolution.
    """

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self._precision = workload.precision
        dtype = _DTYPES.get(workload.precision, torch.float32)
        layer = torch.nn.Conv2d(CONVOLUTION_CHANNELS, CONVOLUTION_CHANNELS, 3, padding=1, bias=False)
        self._layer = layer.to(self._device, dtype).to(memory_format=torch.channels_last)
        features = torch.randn(1, CONVOLUTION_CHANNELS, workload.size, workload.size, device=self._device)
        self._features = features.to(dtype, memory_format=torch.channels_last)
        self._result = features.new_zeros(())

    def __call__(self) -> None:
        with torch.inference_mode(), arithmetic(self._precision, self._device.type):
            for _ in range(self._repeats):
                self._result = self._layer(self._features)

    def loss(self) -> float | None:
        return float(self._result.float().mean())


class Transfer(_Limit):
    """Copies `size` bytes between host and device; the workload's model names direction and host memory."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        direction, memory = workload.model.split("_")
        elements = workload.size // _FLOAT_BYTES
        on_device = torch.rand(elements, device=self._device)

        def pair() -> tuple[Tensor, Tensor]:
            on_host = torch.rand(elements)
            if memory == "pinned":
                on_host = on_host.pin_memory()
            return (on_device, on_host) if direction == "upload" else (on_host, on_device)

        self._pairs = _cycle(pair, workload.size)

    def __call__(self) -> None:
        for _ in range(self._repeats):
            destination, source = next(self._pairs)
            destination.copy_(source, non_blocking=True)


class Launch(_Limit):
    """Launches `size` operations on one number, one after the other, without synchronisation."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self._number = torch.zeros(1, device=self._device)
        self._calls = workload.size

    def __call__(self) -> None:
        for _ in range(self._calls):
            self._number.add_(1.0)

    def loss(self) -> float | None:
        return float(self._number)


class Elements(_Limit):
    """Exponentials of `size` numbers in one operation: all are independent, so all can be in flight."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self._numbers = torch.rand(workload.size, device=self._device)
        self._results = torch.empty_like(self._numbers)

    def __call__(self) -> None:
        for _ in range(self._repeats):
            torch.exp(self._numbers, out=self._results)


class Images(_Limit):
    """A convolution of ResNet's first stage over a batch of `size` images."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self._layer = torch.nn.Conv2d(64, 64, 3, padding=1, bias=False, device=self._device)
        self._images = torch.randn(workload.size, 64, 56, 56, device=self._device)

    def __call__(self) -> None:
        with torch.inference_mode(), arithmetic("float32", self._device.type):
            for _ in range(self._repeats):
                self._layer(self._images)


def _cycle(make: Callable[[], T], size_bytes: int) -> Iterator[T]:
    """An endless cycle of buffers of `size_bytes` each, which together are larger than any cache."""
    return itertools.cycle([make() for _ in range(max(1, _LARGER_THAN_CACHES_BYTES // size_bytes))])
