"""How far from the whole decode is a decoder that works in tiles, and what does it save?

Large images are decoded in tiles because the whole takes too much memory; but normalisation and attention of the
decoder span the whole image, so that a tile by itself comes out differently. Each tiler is compared with the whole
decode of the same latents by the same weights: relative L2 distance, largest and mean difference, the mean difference
near edges of tiles and elsewhere, and the seam, which is how much more the difference changes across an edge than
between other adjacent pixels (`models/tiling_errors.py` has the definitions). Beside them: time and peak memory of the
tiled decode.

Tilers: `whole`, which is what the others are compared with; `naive`, tiles side by side; `diffusers`, the tiling of its
AutoencoderKL at its defaults, which needs the extra `diffusers` and begins above 512 px; and those that the hook
`pytest_goghmark_tilers` adds. Errors are measured on seeded noise, and with `--latents=all` on the content picture as
diffusers' encoder encodes it; a small picture of each is saved beside the record file. Weights are random unless
`--weights` gives some: how large an error is depends on them.

Inside the clock: one decode of noise in tiles, from an idle device to an idle device. Outside: imports, weights,
warm-up, and the comparison, which needs the memory of the whole decode. Unit: seconds per decode.
"""

import pytest

from fixtures.measure import Measure
from fixtures.runner.cell_runner import AfterMeasurement
from fixtures.schema import Cell


@pytest.fixture
def after_measurement(tiling_errors: AfterMeasurement) -> AfterMeasurement:
    return tiling_errors


@pytest.mark.matrix(
    step="tiled_decode",
    catalog="decoders",
    model=("kl_decoder_s", "kl_decoder"),
    resolution=(1024,),
    tiler=("whole", "naive", "diffusers"),
    without=("optimizer", "strategy"),
    # On two cores these take minutes.
    cpu_opt_in=({"model": "kl_decoder"},),
)
def test_tilers(cell: Cell, measure: Measure) -> None:
    measure(cell)
