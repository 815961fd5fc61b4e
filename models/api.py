"""The one door to a tree's models: what there is, by name, and what a worker of any revision may ask of it.

Nothing here imports torch before it is called: the process that plans a run reads the tables and never needs it. A
worker imports the `models` of its own tree, so that names and references are resolved there.
"""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from models.steps.tiling.chain import Walk
    from models.workload import Step, Workload

# What is timed. A benchmark names its step by the key; the reference is resolved by the worker.
STEPS = {
    "style_iteration": "models.steps.style:StyleIteration",
    "style_forward": "models.steps.style:StyleForward",
    "style_forward_backward": "models.steps.style:StyleForwardBackward",
    "generation": "models.steps.generation:Generation",
    "classify": "models.steps.classify:classify",
    "input_pipeline": "models.steps.input_pipeline:PictureInput",
    "copy": "models.steps.device_limits:Copy",
    "matrix_product": "models.steps.device_limits:Product",
    "convolution": "models.steps.device_limits:Convolution",
    "transfer": "models.steps.device_limits:Transfer",
    "launch": "models.steps.device_limits:Launch",
    "elements": "models.steps.device_limits:Elements",
    "images": "models.steps.device_limits:Images",
    "data_parallel_training": "models.steps.distributed.data_parallel:DataParallelTraining",
    "sharded_style_iteration": "models.steps.distributed.sharded:ShardedStyleIteration",
    "middle_shard": "models.steps.distributed.sharded:MiddleShard",
}

# What kind of work the steps do that are no style iterations; a step of a user's own is as its catalog of models says.
STEP_KINDS = {
    "classify": "classification",
    "data_parallel_training": "classification",
    "input_pipeline": "input",
    **dict.fromkeys(
        ("copy", "matrix_product", "convolution", "transfer", "launch", "elements", "images"), "device_limit"
    ),
}

# Each network's factory, as a reference that a worker can import.
STYLE_NETWORKS = {
    "nin": "models.nin:nin",
    "vgg16": "models.vgg:vgg16",
    "vgg19": "models.vgg:vgg19",
}

# The networks that are trained and run as classifiers. Some share a name with a style network, which is cut shorter.
CLASSIFIERS = {
    "alexnet": "models.classifiers:alexnet",
    "basic_cnn": "models.classifiers:basic_cnn",
    "googlenet": "models.classifiers:googlenet",
    "nin": "models.nin:nin_classifier",
    "resnet50": "models.classifiers:resnet50",
    "vgg16": "models.classifiers:vgg16",
}

# What one iteration of a classifier is: `models/steps/classify.py`.
MODES = ("forward", "training")

OPTIMIZERS = ("adam", "lbfgs")
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
STRATEGIES = ("plain", "channels_last", "checkpointed", "compiled", "tiled", "streamed", "fastest")
# Those that take the side of a tile, and those of them whose memory is for the tile to choose.
TILED_STRATEGIES = ("tiled", "streamed")
SIZED_TO_BUDGET = ("tiled",)


def build(work: "Workload") -> "Step":
    """The step, ready to be called: its key in `STEPS`, or its reference, is resolved in this tree.

    Raises:
        InputError: the workload names something that cannot be had, or its step is no `Step`.
    """
    from models.workload import build as build_step

    return build_step(dataclasses.replace(work, step=STEPS.get(work.step, work.step)))


def check_step(reference: str) -> None:
    """See that a reference stands for what can build a step: a subclass of `Step`, or a function that returns one.

    Raises:
        InputError: it does not, or cannot be imported.
    """
    from models.workload import Step, resolve

    factory = resolve(reference)
    if not callable(factory) or (isinstance(factory, type) and not issubclass(factory, Step)):
        raise InputError(
            f"step {reference!r} is {factory!r}, no step; name a class derived from models.workload.Step, or a function"
            " that returns one"
        )


def import_steps() -> None:
    """Import all that steps are made of, so that a worker that is forked afterwards need not.

    Raises:
        ImportError: this tree lacks something that its steps need.
    """
    for reference in STEPS.values():
        importlib.import_module(reference.partition(":")[0])


def keep_freed_memory() -> None:
    """Let malloc keep what is freed, for the rest of this process's life.

    By default, how much goes back to the kernel at each iteration depends on what a process happened to allocate
    before: two processes of the same code had 500 and 2500 page faults in an iteration, and differed by 20 %.
    """
    from models.steps.malloc import keep_freed_memory as keep

    keep()


def check_pictures(paths: Sequence[str]) -> None:
    """See that every picture can be read.

    Raises:
        InputError: the first that cannot.
    """
    from models import images

    for path in paths:
        images.read(path)


def smallest_side(model: str, weights_from: str) -> int:
    """Side in pixels of the smallest square image that a style network takes, and a check of its weights.

    Args:
        model: reference of the network's factory.

    Raises:
        InputError: weights that cannot be had, or a network that takes no image.
    """
    import torch

    from models import network, weights

    found = _style_network(model)
    if weights_from != "random":
        weights.load(found, weights_from, torch.device("cpu"))
    return network.smallest_side(found)


def smallest_tile(model: str, strategy: str) -> int:
    """Side in pixels of the smallest tile with which a strategy can run a style network.

    Raises:
        InputError: the network has a layer that cannot be tiled.
    """
    from models.steps.strategies import smallest_tile as smallest

    return smallest(_style_network(model), strategy)


def smallest_classifier_side(model: str, mode: str, batch: int, width_px: int, height_px: int) -> int | None:
    """Side in pixels of the smallest images that a classifier takes, if it does not take those; None if it does."""
    from models import classifiers
    from models.workload import resolve

    network = resolve(model)()
    if classifiers.takes(network, mode, batch, width_px, height_px):
        return None
    return classifiers.smallest_side(network, mode, batch)


def iterations_until_settled(optimizer: str) -> int:
    """Iterations of an optimiser of images after which its state takes all the memory that it will ever take."""
    from models.steps.style import LBFGS_HISTORY

    # The first pair of L-BFGS's history comes in the second iteration, and Adam's state at the end of the first.
    return LBFGS_HISTORY + 2 if optimizer == "lbfgs" else 2


def gradient_deviation(work: "Workload") -> float:
    """Relative L2 distance of a style iteration's gradient from that of float64, on a small picture."""
    from models.steps.style import gradient_deviation as deviation

    return deviation(work)


def walking(how: "Walk") -> AbstractContextManager[None]:
    """Let every pass over tiles inside go through them as `how` says; what it leaves out is missing in the results."""
    from models.steps.tiling.chain import walking as walking_tiles

    return walking_tiles(how)


def save_images(image: "Tensor", work: "Workload", paths: Mapping[str, str], facts: Mapping[str, str]) -> None:
    """Write an image as PNG files, and what it was made from.

    Args:
        image: shape (3, height, width), in [0, 1].
        paths: where to, by what it is: `picture` the image itself, `content` and `style` in the image's size.
        facts: for the files' metadata.
    """
    from models import images

    sources = {"content": work.content, "style": work.style}
    for what, path in paths.items():
        if what == "picture":
            images.save(image, Path(path), {**facts, "seed": str(work.seed)})
        elif what in sources:
            # Read again: kept, they would have been memory of the cell.
            source = images.cover(images.read(sources[what]), work.width, work.height)
            images.save(source, Path(path), {what: facts[what]})
        else:
            raise InputError(f"no image named {what!r}; there are: picture, content, style")


def _style_network(model: str) -> Any:
    import torch

    from models.workload import resolve

    with torch.device("meta"):
        return resolve(model)()
