"""How is the time of a training iteration distributed over its parts?

Measures forward with cross-entropy, backward to the weights, and the optimiser step separately, alternating with whole
iterations, so that disturbances of the machine affect both. The table shows the sum of the parts in percent of a whole
iteration.

Inside the clock of the cell: whole iterations, as in `test_classification`. Inside the clock of a part: the part, from
an idle device to an idle device. Unit: seconds. Compute-only.
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
