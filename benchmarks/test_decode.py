"""How many images of latents does this machine decode per minute, and at which size do they no longer fit?

The last step of latent diffusion: latents of an eighth of the image's sides to pixels, by the decoder of Stable
Diffusion's autoencoder (`kl_decoder`), and by one with a quarter of its channels (`kl_decoder_s`); diffusers' class of
the former, `sd_vae`, runs where `--model` names it. Decoding takes more memory than denoising, and is what fails first
at large sizes. Modes: `forward`, in inference mode; `input`, the gradient of a loss with respect to the latents with
frozen weights. `--precision=bfloat16` stores weights in bfloat16.

Compute-only: latents are random and on the device before the clock starts; weights are random. Inside the clock: one
decode, from an idle device to an idle device. Outside: imports, weights, warm-up, and the pictures' way to a file.
Unit: seconds per decode. The image is decoded as a whole: an image that does not fit is recorded as `out_of_memory`.
"""

import pytest

from fixtures.measure import Measure
from fixtures.schema import Cell


@pytest.mark.matrix(
    step="decode",
    catalog="decoders",
    model=("kl_decoder_s", "kl_decoder"),
    resolution=(256, 512, 1024),
    batch=(1,),
    mode=("forward", "input"),
    without=("optimizer",),
    # On two cores these take minutes.
    cpu_opt_in=({"model": "kl_decoder"}, {"resolution": "1024"}),
)
def test_decode(cell: Cell, measure: Measure) -> None:
    measure(cell)
