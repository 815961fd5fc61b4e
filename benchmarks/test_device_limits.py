"""What are the limits of this device, for any network?

Microbenchmarks: copy bandwidth by size, matrix product and convolution in each precision, transfers between host and
device, launches of tiny operations, and the amount of independent work in flight that keeps the device busy, which
shows why a batch of one leaves a GPU idle. The table compares all devices. The roofline in the summary compares other
cells of the run with these limits, so they run first.

Inside the clock: iterations, each of which repeats an operation, until at least 10 ms have passed, from an idle device
to an idle device; of launches one iteration, because the wait at its end belongs to what is measured. Outside: random
data, warm-up. Rates are work per iteration (`models/microbenchmarks.py`) over the median.
"""

import pytest

from fixtures.measure import Measure
from fixtures.schema import Cell

WITHOUT = ("model", "resolution", "optimizer", "strategy", "precision")


# First: the other limits say whether they are bound by launches.
@pytest.mark.matrix(step="launch", fixed={"model": "launch"}, size=("1calls", "1000calls"), without=WITHOUT)
def test_launch(cell: Cell, measure: Measure) -> None:
    measure(cell)


@pytest.mark.matrix(
    step="copy",
    fixed={"model": "copy"},
    size=("256KiB", "1MiB", "4MiB", "16MiB", "64MiB", "512MiB"),
    without=WITHOUT,
)
def test_copy(cell: Cell, measure: Measure) -> None:
    measure(cell)


@pytest.mark.matrix(
    step="matrix_product",
    fixed={"model": "matmul"},
    size=("1024square", "4096square", "8192square"),
    precision=("float32", "tf32", "bfloat16", "float16"),
    without=("model", "resolution", "optimizer", "strategy"),
    # On two cores each product takes seconds.
    cpu_opt_in=({"size": "8192square"},),
)
def test_product(cell: Cell, measure: Measure) -> None:
    measure(cell)


@pytest.mark.matrix(
    step="convolution",
    fixed={"model": "convolution"},
    size=("128square",),
    precision=("float32", "tf32", "bfloat16", "float16"),
    without=("model", "resolution", "optimizer", "strategy"),
)
def test_convolution(cell: Cell, measure: Measure) -> None:
    measure(cell)


TRANSFER_SIZES = ("64KiB", "1MiB", "16MiB", "256MiB")


@pytest.mark.matrix(
    step="transfer",
    fixed={"model": "upload_pageable"},
    size=TRANSFER_SIZES,
    without=WITHOUT,
    accelerator_only=True,
)
def test_upload_pageable(cell: Cell, measure: Measure) -> None:
    measure(cell)


@pytest.mark.matrix(
    step="transfer",
    fixed={"model": "upload_pinned"},
    size=TRANSFER_SIZES,
    without=WITHOUT,
    accelerator_only=True,
)
def test_upload_pinned(cell: Cell, measure: Measure) -> None:
    measure(cell)


@pytest.mark.matrix(
    step="transfer",
    fixed={"model": "download_pageable"},
    size=TRANSFER_SIZES,
    without=WITHOUT,
    accelerator_only=True,
)
def test_download_pageable(cell: Cell, measure: Measure) -> None:
    measure(cell)


@pytest.mark.matrix(
    step="transfer",
    fixed={"model": "download_pinned"},
    size=TRANSFER_SIZES,
    without=WITHOUT,
    accelerator_only=True,
)
def test_download_pinned(cell: Cell, measure: Measure) -> None:
    measure(cell)


@pytest.mark.matrix(
    step="elements",
    fixed={"model": "elements"},
    size=tuple(f"{2**power}elements" for power in range(10, 26, 3)),
    without=WITHOUT,
)
def test_elements_in_flight(cell: Cell, measure: Measure) -> None:
    measure(cell)


@pytest.mark.matrix(
    step="images",
    fixed={"model": "images"},
    size=("1images", "4images", "16images", "64images", "256images", "1024images"),
    without=WITHOUT,
    cpu_opt_in=({"size": "64images"}, {"size": "256images"}, {"size": "1024images"}),
)
def test_images_in_flight(cell: Cell, measure: Measure) -> None:
    measure(cell)
