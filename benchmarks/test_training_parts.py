"""What is an iteration of training made of?

Times forward with cross-entropy, backward to the weights, and the optimiser's step apart, in rounds that alternate
with whole iterations: whatever disturbs the machine disturbs both. The parts must add up to the whole; the table says
to how many percent they do.

Inside the clock of the cell: whole iterations, as in `test_classification`. Inside the clock of a part: that part,
from an idle device to an idle device. Unit: seconds. Compute-only.
"""

import pytest

from fixtures.measure import Measure
from fixtures.schema import Cell


@pytest.mark.matrix(
    step="classify",
    catalog="classifiers",
    model=("resnet50", "basic_cnn"),
    resolution=(224,),
    batch=(8, 64),
    fixed={"mode": "training"},
    without=("optimizer", "strategy"),
    cpu_opt_in=({"batch": 64},),
    time_parts=True,
)
def test_training_parts(cell: Cell, measure: Measure) -> None:
    measure(cell)
