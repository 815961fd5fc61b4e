"""What is an iteration made of?

Times the forward pass with its losses alone, and forward and backward together; `test_style_iteration` at the same
size adds the optimiser step. So backward = forward_backward - forward, optimiser = iteration - forward_backward.

Inside the clock: the part, from an idle device to an idle device. The forward pass keeps what a backward pass would
need, as it does within an iteration. Unit: seconds per call.
"""

import pytest

from fixtures.measure import Measure
from fixtures.schema import Cell

# The parts have no optimiser step, and only the plain strategy has a forward pass of its own.
AXES = {"model": ("vgg19", "nin"), "resolution": (256,), "without": ("optimizer", "strategy")}


@pytest.mark.matrix(step="style_forward", **AXES)
def test_forward(cell: Cell, measure: Measure) -> None:
    measure(cell)


@pytest.mark.matrix(step="style_forward_backward", **AXES)
def test_forward_backward(cell: Cell, measure: Measure) -> None:
    measure(cell)
