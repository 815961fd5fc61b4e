"""What is the largest batch that fits?

For each device, classifier or denoiser, and mode, the largest batch within the memory budget is predicted. Then batches
near it run for two iterations each, until one fits and the next one does not. The resolution is a thirty-second of the
batch. The row shows the largest batch that fitted; the record also has the batches that were tried, and the failure one
step above. A batch that fails for another reason than memory is too large as well, if a smaller one fits.

On an accelerator the budget is its free memory, and each batch takes seconds. On cpu the budget is the machine's
memory, and each batch takes minutes: there the search runs only with `-m search` or with a `--memory-limit` under 4GiB.
"""

import pytest

from fixtures.schema import Cell
from fixtures.search import SearchLargest


@pytest.mark.search
@pytest.mark.matrix(
    step="classify",
    catalog="classifiers",
    model=("alexnet", "googlenet", "resnet50", "vgg16", "nin", "basic_cnn"),
    resolution=(224,),
    mode=("forward", "training"),
    without=("optimizer", "strategy"),
)
def test_largest_batch(cell: Cell, largest_batch: SearchLargest) -> None:
    largest_batch(cell)


@pytest.mark.search
@pytest.mark.matrix(
    step="denoise",
    catalog="denoisers",
    model=("dit_s2", "dit_xl2", "unet_s", "unet"),
    resolution=(256,),
    mode=("forward", "training"),
    without=("optimizer",),
    cpu_opt_in=({"model": "dit_xl2"}, {"model": "unet"}, {"mode": "training"}),
)
def test_largest_denoised_batch(cell: Cell, largest_batch: SearchLargest) -> None:
    largest_batch(cell)
