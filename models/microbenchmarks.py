"""Microbenchmarks of a device's limits: the repeated operation, and the work of one iteration. No torch here.

An iteration repeats its operation until it has done the amounts below. A slow device needs less than a second for
them, a fast one about a hundred microseconds, too little beside launch and synchronisation: the executor then repeats
the iteration within a round.
"""

from collections.abc import Callable
from dataclasses import dataclass

_COPIED_BYTES = 2 * 2**30
_PRODUCT_FLOPS = 2 * 4096**3
# As in the middle of VGG-19: with so many channels each number is used hundreds of times.
CONVOLUTION_CHANNELS = 256
_TRANSFERRED_BYTES = 2**30
_ELEMENTS = 2**26
_IMAGES = 64


@dataclass(frozen=True)
class Quantity:
    """A limit of a device, measured at several sizes.

    Attributes:
        title: heading for tables.
        size_unit: unit of the size.
        rate_unit: unit of the rate, which is work per second.
        work: work of one operation at a size.
        least_work: an iteration repeats the operation until it has done this much work.
        includes_wait: whether an iteration is measured with the wait at its end, and not repeated.
    """

    title: str
    size_unit: str
    rate_unit: str
    work: Callable[[int], int]
    least_work: int
    includes_wait: bool = False

    def repeats(self, size: int) -> int:
        """Number of operations in one iteration."""
        return max(1, self.least_work // self.work(size))

    def work_per_iteration(self, size: int) -> int:
        """Work of one iteration, in the unit of the rate without its `/s`."""
        return self.repeats(size) * self.work(size)


def _identity(size: int) -> int:
    return size


def _product_flops(side: int) -> int:
    return 2 * side**3


def _convolution_flops(side: int) -> int:
    return 2 * 9 * CONVOLUTION_CHANNELS**2 * side**2


def _transfer(title: str) -> Quantity:
    return Quantity(title, "bytes", "B/s", _identity, _TRANSFERRED_BYTES)


QUANTITIES = {
    # A copy reads half of its working set and writes the other half.
    "copy": Quantity("copy bandwidth, read + written, by working set", "bytes", "B/s", _identity, _COPIED_BYTES),
    "matmul": Quantity("product of square matrices, by side", "side", "FLOP/s", _product_flops, _PRODUCT_FLOPS),
    "convolution": Quantity(
        "3x3 convolution, 256 channels, by side", "side", "FLOP/s", _convolution_flops, _PRODUCT_FLOPS
    ),
    "upload_pageable": _transfer("host to device, pageable"),
    "upload_pinned": _transfer("host to device, pinned"),
    "download_pageable": _transfer("device to host, pageable"),
    "download_pinned": _transfer("device to host, pinned"),
    "launch": Quantity(
        "tiny operations, by how many are started before one waits",
        "calls",
        "calls/s",
        _identity,
        1,
        includes_wait=True,
    ),
    "elements": Quantity("exponentials, by elements in flight", "elements", "elements/s", _identity, _ELEMENTS),
    "images": Quantity("3x3 convolution, 64 channels, 56 px, by batch", "images", "images/s", _identity, _IMAGES),
}
