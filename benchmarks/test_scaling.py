"""How fast is a group of devices, and which share of an iteration is communication?

A rank is a process with its own device, or on cpu with its share of the cores. torch's elastic launcher starts the
ranks. They communicate through NCCL between GPUs and through gloo between cpus. Weak scaling: each rank has `--batch`
images. Strong scaling: the group has `--batch` images. Image: the tiles of one image, or slabs of rows of one decode,
are distributed over the ranks. A classifier or a denoiser is trained by DistributedDataParallel; images/s are images
trained with, not images made; of a decoder they are decodes.

Inside the clock: one iteration of all ranks, from idle devices to idle devices; the time is that of the slowest rank.
Outside: start of the ranks, weights, warm-up, synchronisation of the clocks. Efficiency is the rate of the group over
that of as many single ranks, measured in the same run with the same number of threads. The share of communication is
the time that an iteration saves without communication, measured in alternation. Peak memory is that of the rank with
the most. Unit: seconds per iteration. Compute-only: images and labels are on the devices.
"""

import pytest

from fixtures.scaling import MeasureGroup
from fixtures.schema import Cell

# On two cores this takes a minute; 16 images of 224 px would take four times as long.
TRAINING = {
    "step": "data_parallel_training",
    "catalog": "classifiers",
    "model": ("resnet50",),
    "resolution": (112,),
    "batch": (16,),
    "fixed": {"mode": "training"},
    "without": ("optimizer", "strategy"),
}
# At 256 px an iteration would take four times as long.
DENOISING = {
    "step": "data_parallel_denoising",
    "catalog": "denoisers",
    "model": ("dit_s2",),
    "resolution": (128,),
    "batch": (16,),
    "fixed": {"mode": "training"},
    "without": ("optimizer", "strategy"),
}


@pytest.mark.matrix(scaling="weak", **TRAINING)
def test_data_parallel_weak(cell: Cell, measure_group: MeasureGroup) -> None:
    measure_group(cell)


@pytest.mark.matrix(scaling="strong", **TRAINING)
def test_data_parallel_strong(cell: Cell, measure_group: MeasureGroup) -> None:
    measure_group(cell)


@pytest.mark.matrix(scaling="weak", **DENOISING)
def test_data_parallel_denoise_weak(cell: Cell, measure_group: MeasureGroup) -> None:
    measure_group(cell)


@pytest.mark.matrix(scaling="strong", **DENOISING)
def test_data_parallel_denoise_strong(cell: Cell, measure_group: MeasureGroup) -> None:
    measure_group(cell)


@pytest.mark.matrix(
    scaling="image",
    step="sharded_style_iteration",
    model=("vgg19",),
    resolution=(1024,),
    fixed={"strategy": "tiled"},
    without=("strategy",),
)
def test_tiled_over_ranks(cell: Cell, measure_group: MeasureGroup) -> None:
    measure_group(cell)


@pytest.mark.matrix(
    scaling="image",
    step="slab_decode",
    catalog="decoders",
    model=("kl_decoder_s",),
    resolution=(512,),
    fixed={"mode": "forward", "strategy": "streamed"},
    without=("optimizer", "strategy"),
)
def test_decode_over_ranks(cell: Cell, measure_group: MeasureGroup) -> None:
    measure_group(cell)
