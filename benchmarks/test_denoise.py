"""How many evaluations of a denoiser does this machine compute per minute, and at which size do they no longer fit?

A sampler evaluates its denoiser once per step, with guidance twice (`--batch=2`). An iteration is one evaluation for an
image of the resolution in the cell: diffusion transformers (`dit_s2`, `dit_xl2`) work on latents of an eighth of its
sides, U-Nets (`unet`, `unet_s`) on its pixels; published models (`sd15`, `sdxl`, `sd3_medium`, `flux1`) run where
`--model` names them. Modes: `forward`, in inference mode; `input`, the gradient of a loss with respect to the latents
with frozen weights, which guidance and losses through the model need; `training`, the gradient to the weights and a
step of AdamW. `--precision=bfloat16` stores weights in bfloat16 in the first two, and is autocast in `training`.

Compute-only: latents, timesteps and classes are random and on the device before the clock starts; weights are random.
Inside the clock: one iteration, from an idle device to an idle device. Outside: imports, weights, warm-up, text
encoders, the sampler's own arithmetic, the decoder (`test_decode`). Unit: seconds per evaluation; images per second are
those of `--denoising-steps`. An image that does not fit is recorded as `out_of_memory`.
"""

import pytest

from fixtures.measure import Measure
from fixtures.schema import Cell


@pytest.mark.matrix(
    step="denoise",
    catalog="denoisers",
    model=("dit_s2", "dit_xl2", "unet_s", "unet"),
    resolution=(256, 512, 1024),
    batch=(1,),
    mode=("forward", "input"),
    without=("optimizer",),
    # On two cores these take minutes.
    cpu_opt_in=({"model": "dit_xl2"}, {"model": "unet"}, {"resolution": "512"}, {"resolution": "1024"}),
)
def test_denoise(cell: Cell, measure: Measure) -> None:
    measure(cell)
