"""What do more devices bring: how fast is a group of ranks, and how much of its time goes into communication?

A rank is a process with a device of its own; on cpu, with its share of the cores. Ranks are started by torch's elastic
launcher and talk through NCCL between GPUs, through gloo between cpus. Weak scaling: each rank has `--batch` images.
Strong scaling: the group has `--batch` images. Image: one image, whose tiles are spread over the ranks.

Inside the clock: one iteration of all ranks, from idle devices to idle devices; its time is that of the slowest rank.
Outside: starting the ranks, weights, warm-up, and what the ranks tell each other about the clock. Efficiency is images
per second over those of as many single ranks, as measured in the same run with the same threads. Communication is the
share of an iteration that is gone when the ranks do the same work and do not talk, measured in turns with whole ones.
Peak memory is that of the rank with the most. Unit: seconds per iteration. Compute-only: images and labels are there.
"""

import pytest

from fixtures.scaling import MeasureGroup
from fixtures.schema import Cell

# Small enough for two cores to end in a minute: 16 images of 224 px would take them four times as long.
TRAINING = {
    "step": "data_parallel_training",
    "catalog": "classifiers",
    "model": ("resnet50",),
    "resolution": (112,),
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
