"""What is the largest square image that fits?

For each device and model, the largest side within the memory budget is predicted. Then sizes near it run for two
iterations each, until one fits and the next one, 64 px larger, does not. The row shows the largest size that fitted;
the record also has the sizes that were tried, and the failure one step above. A size that fails for another reason than
memory is too large as well, if a smaller one fits; the summary says so.

Three answers: the largest image of a style iteration, the largest that a denoiser can be evaluated for, and the largest
that a decoder can make of latents. The last two are the stages of latent diffusion, so the smaller one counts.

With tiles, and in generators, sizes fit that would take hours: a size is tried only if it is expected to take at most a
quarter of `--cell-timeout`, based on a first run at 512 px. The record says if time limited the search, and which side
memory would allow.

On an accelerator the budget is its free memory, and each size takes seconds. On cpu the budget is the machine's memory,
and each size takes minutes: there the search runs only with `-m search` or with a `--memory-limit` under 4GiB.
"""

import pytest

from fixtures.schema import Cell
from fixtures.search import SearchLargest


@pytest.mark.search
@pytest.mark.matrix(step="style_iteration", model=("vgg19", "nin"), without=("resolution",))
def test_largest_image(cell: Cell, largest_image: SearchLargest) -> None:
    largest_image(cell)


@pytest.mark.search
@pytest.mark.matrix(
    step="denoise",
    catalog="denoisers",
    model=("dit_s2", "dit_xl2", "unet_s", "unet"),
    batch=(1,),
    mode=("forward", "input"),
    without=("resolution", "optimizer"),
    cpu_opt_in=({"model": "dit_xl2"}, {"model": "unet"}, {"mode": "input"}),
)
def test_largest_denoised(cell: Cell, largest_image: SearchLargest) -> None:
    largest_image(cell)


@pytest.mark.search
@pytest.mark.matrix(
    step="decode",
    catalog="decoders",
    model=("kl_decoder_s", "kl_decoder"),
    batch=(1,),
    mode=("forward", "input"),
    without=("resolution", "optimizer"),
    cpu_opt_in=({"model": "kl_decoder"}, {"mode": "input"}),
)
def test_largest_decoded(cell: Cell, largest_image: SearchLargest) -> None:
    largest_image(cell)
