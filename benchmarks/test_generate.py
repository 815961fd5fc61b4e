"""What does a picture look like that this suite makes, and how long does it take until it is finished?

Not part of the default run, because it is not for comparing: `pytest --benchmark-only benchmarks/test_generate.py`.
`--iterations` are spread evenly over sizes that double up to the resolution, each beginning with the enlarged result
of the one before (Gatys et al. 2017; `models/generation_state.py`). What is optimised is the loss of the timed
iteration with layers and weights chosen for looks (`models/steps/generation.py` says what and why). With the default
random weights a picture gets the colours and strokes of the style; `--weights=imagenet` or `--weights=PATH` do better.

The picture goes to `--save-images=DIR`, by default into the folder `pictures` beside the record file. An interrupted
picture stands there too, saved every 20 seconds: the same command goes on with it. `--cell-timeout` limits an
iteration here, not the whole.

Inside the clock: each iteration, from an idle device to an idle device. The row is that of the largest size; its
record also has the seconds of every size, preparing included, and their first and last losses.
"""

import pytest

from fixtures.generate import Generate
from fixtures.schema import Cell


@pytest.mark.matrix(step="generation", model=("vgg19",), resolution=(512,))
def test_generate(cell: Cell, generate: Generate) -> None:
    generate(cell)
