"""Does the device reach the bandwidth and the arithmetic that its data sheet promises?

Copies and matrix products, as in `benchmarks/test_device_limits.py`. A card that is not in the table is measured, and
gets no verdict. A rate far below the data sheet points at a wrong kernel, a wrong clock or another program on the card;
one above it at a clock that does not wait, or at another precision than asked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.checks.base import Line, Subject, attempted, judged, measurement_of, not_here
from fixtures.formatting import figure, shown_unit
from fixtures.schema import Timing
from models.microbenchmarks import QUANTITIES

_COPY_BYTES = 512 * 2**20
_PRODUCT_SIDE = 4096
# On a processor a product of the side above takes seconds.
_PRODUCT_SIDE_ON_CPU = 1024
_TIMING = Timing(0.5)

# Shares of the data sheet. Copies reach 80 to 93 % of a memory's bandwidth, less where error correction takes a part of
# it (L4). Products reach 50 to 90 % of dense arithmetic: the power limit lowers the clock of most cards. A wrong kernel
# is below a quarter. Data sheets state arithmetic at the boost clock, and some cards clock higher.
COPY_SHARES = (0.6, 1.02)
PRODUCT_SHARES = (0.3, 1.2)


@dataclass(frozen=True)
class Card:
    """A card's limits by its maker's data sheet: dense, without sparsity, products accumulated in float32.

    Data sheets since Ampere show tensor cores with 2:4 sparsity, which doubles them, often in large type and alone.

    Attributes:
        bandwidth_gb_s: of its memory, in 10^9 bytes/s.
        float32, tf32, half: in 10^12 FLOP/s; half is bfloat16 and float16.
    """

    bandwidth_gb_s: float
    float32: float
    tf32: float
    half: float
    source: str

    def flops(self, precision: str) -> float:
        """Arithmetic in FLOP/s."""
        known = {"float32": self.float32, "tf32": self.tf32}
        return known.get(precision, self.half) * 1e12


# Printed: 989 (tf32) and 1979, PCIe 756 and 1513, with sparsity. The "2 TB/s" of the PCIe card is rounded; its product
# brief says more than 2000 GB/s. Rates in float32 are those of the CUDA cores: tensor cores have none.
_H100 = "NVIDIA H100 Tensor Core GPU, data sheet, half of its figures with sparsity"
_H200 = "NVIDIA H200 Tensor Core GPU, data sheet, half of its figures with sparsity"
# Prints both figures, with and without sparsity.
_A100 = "NVIDIA A100 Tensor Core GPU, data sheet"
# Printed: 120 (tf32) and 242, with sparsity.
_L4 = "NVIDIA L4 Tensor Core GPU, data sheet, half of its figures with sparsity"
# GeForce halves the rate of float16 products that accumulate in float32, as torch's do: 330 and 142 without that.
_ADA = "NVIDIA Ada GPU Architecture, white paper, FP16 tensor with FP32 accumulate"
_GA102 = "NVIDIA Ampere GA102 GPU Architecture, white paper, FP16 tensor with FP32 accumulate"

# By the name that torch reports.
CARDS = {
    "NVIDIA H100 80GB HBM3": Card(3350, 67, 494, 989, _H100),
    "NVIDIA H100 PCIe": Card(2000, 51, 378, 756, _H100),
    "NVIDIA H200": Card(4800, 67, 494, 989, _H200),
    "NVIDIA A100-SXM4-40GB": Card(1555, 19.5, 156, 312, _A100),
    "NVIDIA A100-PCIE-40GB": Card(1555, 19.5, 156, 312, _A100),
    "NVIDIA A100-SXM4-80GB": Card(2039, 19.5, 156, 312, _A100),
    "NVIDIA A100 80GB PCIe": Card(1935, 19.5, 156, 312, _A100),
    "NVIDIA L4": Card(300, 30.3, 60, 121, _L4),
    "NVIDIA GeForce RTX 4090": Card(1008, 82.6, 82.6, 165.2, _ADA),
    "NVIDIA GeForce RTX 3090": Card(936, 35.6, 35.6, 71, _GA102),
}


def check(subject: Subject) -> Iterator[Line]:
    """A line for copies, and one for products in each precision."""
    model = subject.device_facts["model"]
    card = CARDS.get(model)
    yield from attempted("copy bandwidth", _copy, subject, model, card)
    for precision in subject.precisions:
        name = f"matrix product {precision}"
        yield from attempted(name, _product, subject, name, precision, model, card)


def _copy(subject: Subject, model: str, card: Card | None) -> Iterator[Line]:
    rate = _rate(subject, "copy", "copy", _COPY_BYTES, "float32")
    known = None if card is None else card.bandwidth_gb_s * 1e9
    yield _judged("copy bandwidth", "copy", rate, known, COPY_SHARES, model, card)


def _product(subject: Subject, name: str, precision: str, model: str, card: Card | None) -> Iterator[Line]:
    side = _PRODUCT_SIDE_ON_CPU if subject.device == "cpu" else _PRODUCT_SIDE
    rate = _rate(subject, "matrix_product", "matmul", side, precision)
    known = None if card is None else card.flops(precision)
    yield _judged(name, "matmul", rate, known, PRODUCT_SHARES, model, card)


def _rate(subject: Subject, step: str, quantity: str, size: int, precision: str) -> float:
    """Work per second.

    Raises:
        CellFailed: it cannot be measured.
    """
    cell = subject.cell(
        0,
        model=quantity,
        resolution="",
        precision=precision,
        optimizer="",
        strategy="",
        size=str(size),
        kind="device_limit",
    )
    outcome = subject.runner({quantity: quantity}).run(cell, step, _TIMING)
    return QUANTITIES[quantity].work_per_iteration(size) / measurement_of(outcome).median_seconds


def _judged(
    name: str,
    quantity: str,
    rate: float,
    known: float | None,
    shares: tuple[float, float],
    model: str,
    card: Card | None,
) -> Line:
    divisor, unit = shown_unit(QUANTITIES[quantity].rate_unit)
    text = f"{figure(rate / divisor)} {unit}"
    if known is None or card is None:
        return not_here(name, f"{text}; nothing is known of {model}, so there is no verdict")
    low, high = shares
    text += f", {rate / known:.0%} of {figure(known / divisor)} ({card.source}); {low:.0%} to {high:.0%} are right"
    return judged(name, low <= rate / known <= high, text)
