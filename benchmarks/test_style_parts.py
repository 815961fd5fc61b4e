"""How is the time of a style iteration distributed over its parts?

Measures the forward pass with the losses, and forward and backward together; `test_style_iteration` at the same size
also has the optimiser step. So backward = forward_backward - forward, optimiser = iteration - forward_backward.

Inside the clock: the part, from an idle device to an idle device. The forward pass stores what the backward pass needs,
as in an iteration. Unit: seconds per call.
"""

import pytest

from fixtures.measure import Measure
from fixtures.schema import Cell

# The parts have no optimiser step, and only strategy `plain` has a separate forward pass.
AXES = {"model": ("vgg19", "nin"), "resolution": (256,), "without": ("optimizer", "strategy")}


@pytest.mark.matrix(step="style_forward", **AXES)
def test_forward(cell: Cell, measure: Measure) -> None:
    measure(cell)


@pytest.mark.matrix(step="style_forward_backward", **AXES)
def test_forward_backward(cell: Cell, measure: Measure) -> None:
    measure(cell)
