"""How many pictures per second can be made ready for a network, and does it outrun the network?

One iteration makes a batch of 16 from real JPEG files: read, decode, resize to the resolution and cut the overhang,
normalise, copy to the device; with 1, 2, 4, ... worker threads, up to the processor's cores. The pictures are those of
`--content` and `--style` in turn (by default 1280 x 937 and 706 x 560 px: larger than ImageNet's mean of 0.2
megapixels, so a dataset of small files is read faster).

Inside the clock: one batch, from files to an idle device. Files come from the system's cache, so no disk is measured.
Unit: seconds per batch. With cells of `test_classification` in the same run, the summary says which side of each is
the bottleneck, and what is left end-to-end.
"""

import pytest

from fixtures.measure import Measure
from fixtures.schema import Cell
from fixtures.summaries.classification import worker_counts


@pytest.mark.matrix(
    step="input_pipeline",
    fixed={"model": "jpeg", "batch": 16},
    resolution=(224,),
    size=worker_counts(),
    without=("model", "optimizer", "strategy", "precision"),
)
def test_input(cell: Cell, measure: Measure) -> None:
    measure(cell)
