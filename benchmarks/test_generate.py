"""What does a generated picture look like, and how long does it take to generate it?

Not for comparisons, and so not part of the default run: `pytest --benchmark-only benchmarks/test_generate.py`.
`--iterations` are distributed evenly over sizes that double up to the resolution; each size starts from the enlarged
result of the previous one (Gatys et al. 2017; `models/generation_state.py`). The loss is that of the timed iteration,
with layers and weights chosen for the result (`models/steps/generation.py`). With the default random weights a picture
gets the colours and strokes of the style; `--weights=imagenet` or `--weights=PATH` do better.

The picture is written to `--save-images=DIR`, by default the folder `pictures` beside the record file. A checkpoint
file of an unfinished picture is saved there every 20 seconds: the same command resumes it. `--cell-timeout` limits each
iteration, not the whole generation.

Inside the clock: each iteration, from an idle device to an idle device. The table has the row of the largest size; the
record also has the time of every size, including preparation, and the first and last loss.
"""

import pytest

from fixtures.generate import Generate
from fixtures.schema import Cell


@pytest.mark.matrix(step="generation", model=("vgg19",), resolution=(512,))
def test_generate(cell: Cell, generate: Generate) -> None:
    generate(cell)
