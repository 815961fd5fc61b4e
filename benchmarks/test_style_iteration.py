"""How many iterations of neural style generation does this machine run per minute, and which size no longer fits?

One iteration: forward through the network, content loss at one layer and Gram-matrix style losses at five, backward
to the pixels, optimiser step (Gatys et al. 2016; `models/steps/style.py` lists departures from the paper).

Inside the clock: one iteration, from an idle device to an idle device. Outside: imports, weights, pictures, targets,
and the warm-up iterations, whose number is recorded. Unit: seconds per iteration; rates are computed from the median.
An image that does not fit is recorded as `out_of_memory`.
"""

import pytest

from fixtures.measure import Measure
from fixtures.schema import Cell


@pytest.mark.matrix(step="style_iteration", model=("vgg19", "nin"), resolution=(64, 128, 256, 512, 1024))
def test_style_iteration(cell: Cell, measure: Measure) -> None:
    measure(cell)
