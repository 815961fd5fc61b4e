"""How many pictures per second does the input pipeline deliver, and is it faster than the network?

One iteration prepares a batch of 16 from real JPEG files: read, decode, resize and crop to the resolution, normalise,
copy to the device; with 1, 2, 4, ... threads, up to the number of cores. Pictures are those of `--content` and
`--style` in turn. By default these have 1280 x 937 and 706 x 560 px, more than ImageNet's mean of 0.2 megapixels, so
that a dataset of smaller files is read faster.

Inside the clock: one batch, from files to an idle device. Files are in the system's page cache, so the disk is not
measured. Unit: seconds per batch. With cells of `test_classification` in the same run, the summary names the bottleneck
and the end-to-end rate.
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
