"""How many images per second does a network classify, or learn from?

An iteration in mode `forward` is one batch through the trained network, in eval and inference mode: 1000 logits per
image. In mode `training` it is forward with cross-entropy, backward to the weights, and a step of SGD with momentum;
GoogLeNet also trains its auxiliary heads. Networks come from torchvision if it has them. Weights are random.

Compute-only: images and labels are on the device before the clock starts; `test_input` measures the input pipeline.
Inside the clock: one iteration, from an idle device to an idle device. Outside: imports, weights, warm-up. Unit:
seconds per iteration, which is the latency of a batch; images per second are the batch over the median. A batch that
does not fit is recorded as `out_of_memory`, and never reduced.
"""

import pytest

from fixtures.measure import Measure
from fixtures.schema import Cell


@pytest.mark.matrix(
    step="classify",
    catalog="classifiers",
    model=("alexnet", "googlenet", "resnet50", "vgg16", "nin", "basic_cnn"),
    resolution=(224,),
    batch=(1, 8, 64),
    mode=("forward", "training"),
    without=("optimizer", "strategy"),
    # On two cores a few iterations of these take minutes.
    cpu_opt_in=({"batch": 64}, {"model": "vgg16", "batch": 8, "mode": "training"}),
)
def test_classification(cell: Cell, measure: Measure) -> None:
    measure(cell)
