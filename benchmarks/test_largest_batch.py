"""What is the largest batch that fits?

For each device, classifier and mode: the peak memory of an iteration is predicted for growing batches until it leaves
the budget, then batches around that edge are really run, two iterations each, until one fits and the next does not.
Exact to within a thirty-second of the batch. The row shows the largest that fitted; its record says which were tried,
and what failed one step above. No cell of another benchmark is ever made smaller to fit.

On an accelerator the budget is its free memory, and a try takes seconds. On cpu it is the whole machine's, and a try
takes minutes: there the search joins a run only with `-m search`, or with a `--memory-limit` under 4GiB.
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
