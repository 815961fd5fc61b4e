"""The interface of `models` to the measuring code: tables of what exists, and the functions that workers call.

A worker imports the `models` of the tree that it measures, which may be another revision than the measuring code: names
and references are resolved there. The process that plans a run reads the tables only, without torch: functions import
torch when they are called.

Long because it is the whole interface: each function forwards to one module.
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

    from models.steps.tiling.chain import TileSelector
    from models.workload import Step, Workload

# The steps that are timed. A benchmark names a step by its key; the worker resolves the reference.
STEPS = {
    "style_iteration": "models.steps.style:StyleIteration",
    "style_forward": "models.steps.style:StyleForward",
    "style_forward_backward": "models.steps.style:StyleForwardBackward",
    "generation": "models.steps.generation:Generation",
    "classify": "models.steps.classify:classify",
    "denoise": "models.steps.generators:denoise",
    "decode": "models.steps.decoding:decode",
    "tiled_decode": "models.steps.tiled_decode:TiledDecode",
    "input_pipeline": "models.steps.input_pipeline:PictureInput",
    "copy": "models.steps.device_limits:Copy",
    "matrix_product": "models.steps.device_limits:Product",
    "convolution": "models.steps.device_limits:Convolution",
    "transfer": "models.steps.device_limits:Transfer",
    "launch": "models.steps.device_limits:Launch",
    "elements": "models.steps.device_limits:Elements",
    "images": "models.steps.device_limits:Images",
    "data_parallel_training": "models.steps.distributed.data_parallel:DataParallelTraining",
    "data_parallel_denoising": "models.steps.distributed.data_parallel:DataParallelDenoising",
    "sharded_style_iteration": "models.steps.distributed.sharded:ShardedStyleIteration",
    "slab_decode": "models.steps.distributed.slab_decode:SlabDecode",
    "middle_shard": "models.steps.distributed.sharded:MiddleShard",
}

# Kind of work of the steps that are no style iterations. The kind of a user's step follows from its catalog of models.
STEP_KINDS = {
    "classify": "classification",
    "denoise": "denoise",
    "decode": "decode",
    "tiled_decode": "tiling",
    "data_parallel_training": "classification",
    "data_parallel_denoising": "denoise",
    "slab_decode": "decode",
    "input_pipeline": "input",
    **dict.fromkeys(
        ("copy", "matrix_product", "convolution", "transfer", "launch", "elements", "images"), "device_limit"
    ),
}

# References of the networks' factories.
STYLE_NETWORKS = {
    "nin": "models.nin:nin",
    "vgg16": "models.vgg:vgg16",
    "vgg19": "models.vgg:vgg19",
}

# Networks that run as classifiers. Some share a name with a style network, which has fewer layers.
CLASSIFIERS = {
    "alexnet": "models.classifiers:alexnet",
    "basic_cnn": "models.classifiers:basic_cnn",
    "googlenet": "models.classifiers:googlenet",
    "nin": "models.nin:nin_classifier",
    "resnet50": "models.classifiers:resnet50",
    "vgg16": "models.classifiers:vgg16",
}

# Today's generators: denoisers, and decoders of latents. Numbers of parameters are in `docs/generators.md`. Those of
# `models.from_diffusers` need the extra `diffusers`.
DENOISERS = {
    "dit_s2": "models.dit:dit_s2",
    "dit_xl2": "models.dit:dit_xl2",
    "flux1": "models.from_diffusers:flux1",
    "sd15": "models.from_diffusers:sd15",
    "sd3_medium": "models.from_diffusers:sd3_medium",
    "sdxl": "models.from_diffusers:sdxl",
    "unet": "models.unet:unet",
    "unet_s": "models.unet:unet_s",
}
DECODERS = {
    "kl_decoder": "models.kl_decoder:kl_decoder",
    "kl_decoder_s": "models.kl_decoder:kl_decoder_s",
    "sd_vae": "models.from_diffusers:sd_vae",
}

# What decodes in tiles, see `models/tilers.py`; `whole` does not, and is what the others are compared with.
TILERS = {
    "diffusers": "models.diffusers_autoencoder:DiffusersTiling",
    "naive": "models.tilers:SeparateTiles",
    "whole": "models.tilers:Whole",
}
# What their errors are measured on, see `models/steps/tiled_decode.py`.
LATENTS = ("noise", "photograph")

# What an iteration does, see `models/steps/classify.py` and `models/steps/generators.py`.
MODES = ("forward", "input", "training")
# The modes of each catalog of models; a style network has one kind of iteration, without a mode.
MODES_OF_CATALOG = {
    "classifiers": ("forward", "training"),
    "denoisers": MODES,
    "decoders": ("forward", "input"),
}

# Of the attention of generators; `auto` leaves the choice to torch.
ATTENTION_KERNELS = ("auto", "flash", "efficient", "math")

OPTIMIZERS = ("adam", "lbfgs")
# Pairs by default; torch has 100. Each takes the memory of two images, and steps differ little.
LBFGS_HISTORY = 10
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
STRATEGIES = (
    "plain", "channels_last", "checkpointed", "compiled", "graphed", "tiled", "streamed", "offloaded", "fastest",
    "winograd",
)  # fmt: skip
# Strategies of a decode that make a plan for the memory that there is.
PLANNED_STRATEGIES = ("streamed", "offloaded")
# Strategies with tiles, and those whose tiles are as large as the memory budget allows.
TILED_STRATEGIES = ("tiled", "streamed")
SIZED_TO_BUDGET = ("tiled",)
# On an accelerator, a kernel on a small tile takes less time than its launch.
_ACCELERATOR_TILES_PX = {"streamed": 1024}


def build(work: "Workload") -> "Step":
    """The step of a workload, ready to be called. `work.step` is a key of `STEPS` or a reference.

    Raises:
        InputError: the workload names something that does not exist or cannot be read, or its step is no `Step`.
    """
    from models.workload import build as build_step

    return build_step(dataclasses.replace(work, step=STEPS.get(work.step, work.step)))


def check_step(reference: str) -> None:
    """Check that a reference names a subclass of `Step`, or a function that returns a step.

    Raises:
        InputError: it names something else, or cannot be imported.
    """
    from models.workload import Step, resolve

    factory = resolve(reference)
    if not callable(factory) or (isinstance(factory, type) and not issubclass(factory, Step)):
        raise InputError(
            f"step {reference!r} is {factory!r}, no step; name a class derived from models.workload.Step, or a function"
            " that returns one"
        )


def import_steps() -> None:
    """Import the modules of all steps, so that workers that are forked afterwards have them.

    Raises:
        ImportError: this tree lacks a module that its steps need.
    """
    for reference in STEPS.values():
        importlib.import_module(reference.partition(":")[0])


def keep_freed_memory() -> None:
    """Let malloc keep freed memory, until this process ends.

    By default, the amount that is returned to the kernel at each iteration depends on earlier allocations: two
    processes with the same code had 500 and 2500 page faults per iteration, and their times differed by 20 %.
    """
    from models.steps.malloc import keep_freed_memory as keep

    keep()


def check_pictures(paths: Sequence[str]) -> None:
    """Check that every picture can be read.

    Raises:
        InputError: a picture cannot be read.
    """
    from models import images

    for path in paths:
        images.read(path)


def smallest_side(model: str, weights_from: str) -> int:
    """Side in pixels of the smallest square image that a style network accepts; also checks that its weights load.

    Args:
        model: reference of the network's factory.
        weights_from: `random`, `imagenet` or a path.

    Raises:
        InputError: the weights cannot be loaded, or the network accepts no image.
    """
    import torch

    from models import weights
    from models.network import smallest_side as smallest

    network = _style_network(model)
    if weights_from != "random":
        weights.load(network, weights_from, torch.device("cpu"))
    return smallest(network)


def smallest_tile(model: str, strategy: str) -> int:
    """Side in pixels of the smallest tile with which a strategy can run a style network.

    Raises:
        InputError: the network has a layer that cannot be tiled.
    """
    from models.steps.strategies import smallest_tile as smallest

    return smallest(_style_network(model), strategy)


def default_tile_px(strategy: str, device: str) -> int:
    """Side in pixels of a strategy's tiles on a device, if none is requested; 0 leaves it to the strategy."""
    return 0 if device == "cpu" else _ACCELERATOR_TILES_PX.get(strategy, 0)


def smallest_classifier_side(model: str, mode: str, batch: int, width_px: int, height_px: int) -> int | None:
    """None if a classifier accepts images of this size; else the side in pixels of the smallest that it accepts."""
    from models import classifiers
    from models.workload import resolve

    network = resolve(model)()
    if classifiers.accepts(network, mode, batch, width_px, height_px):
        return None
    return classifiers.smallest_side(network, mode, batch)


def generator_sizes(model: str, weights_from: str) -> tuple[int, int | None]:
    """The number of pixels that a generator's sides must be multiples of, and the most that they may be, None without
    a limit; also checks that its weights fit.

    Args:
        model: reference of the network's factory.
        weights_from: `random` or a path.

    Raises:
        InputError: the model cannot be imported, or the weights cannot be loaded.
    """
    from models.generators import check_weights
    from models.workload import resolve

    network = resolve(model)()
    check_weights(network, weights_from)
    return network.factor_px, network.largest_px


def streaming_plan(work: "Workload") -> dict[str, Any]:
    """How a decode with one of `PLANNED_STRATEGIES` uses its memory: maps, predicted peak, work relative to `plain`.

    Raises:
        InputError: the network cannot be streamed, or its smallest plan does not fit.
    """
    from models.steps.decoding import streaming_plan as plan

    return plan(work).plan.facts()


def working_attention_kernels(device: str) -> list[str]:
    """The attention kernels that run on a device, in any precision."""
    import torch

    from models.attention import runs_on

    return [kernel for kernel in ATTENTION_KERNELS if runs_on(kernel, torch.device(device))]


def iterations_until_settled(optimizer: str) -> int:
    """Number of iterations after which the memory of an image's optimiser no longer grows."""
    # Adam allocates its state at the end of the first one; L-BFGS its whole history. Those of an older baseline, which
    # answers for itself, differ.
    del optimizer
    return 2


def gradient_deviation(work: "Workload") -> float:
    """Relative L2 distance between a style iteration's gradient and that of float64, on a small image."""
    from models.steps.style import gradient_deviation as deviation

    return deviation(work)


def tile_selection(select: "TileSelector") -> AbstractContextManager[None]:
    """Within the context, every pass computes the tiles that `select` returns. Results lack the other tiles."""
    from models.steps.tiling.chain import tile_selection as select_tiles

    return select_tiles(select)


def import_tiler(reference: str) -> None:
    """Import a tiler's module with the libraries that it needs.

    Raises:
        InputError: the reference names nothing.
        Unsupported: a library is not installed.
    """
    from models.workload import resolve

    resolve(reference)


def tiling_errors(step: "Step", latents: str, error_map: str) -> Mapping[str, float | None]:
    """Figures of a tiler's image against that of the whole decode, and a picture of the difference.

    Args:
        step: that of the key `tiled_decode`.
        latents: one of `LATENTS`.
        error_map: path of the picture to be written.

    Raises:
        InputError: the tiler's edges or its image do not fit the latents, or the file cannot be written.
        Unsupported: these latents need a library that is not installed.
    """
    from models.steps.tiled_decode import TiledDecode

    assert isinstance(step, TiledDecode), "only the step `tiled_decode` has a tiler"
    return step.errors(latents, Path(error_map))


def library_convolutions() -> AbstractContextManager[None]:
    """Within the context, steps leave every convolution to the library, as they do on an accelerator."""
    from models.steps.winograd import library_convolutions as leave_to_library

    return leave_to_library()


def save_images(image: "Tensor", work: "Workload", paths: Mapping[str, str], facts: Mapping[str, str]) -> None:
    """Write an image and its content and style pictures as PNG files.

    Args:
        image: shape (3, height, width), in [0, 1] or bytes.
        paths: by kind: `picture` for the image, `content` and `style` for the pictures in the image's size.
        facts: for the files' metadata.

    Raises:
        InputError: another kind of picture is requested.
    """
    from models import images

    sources = {"content": work.content, "style": work.style}
    for kind, path in paths.items():
        if kind == "picture":
            images.save(image, Path(path), {**facts, "seed": str(work.seed)})
        elif kind in sources:
            # Read again: a copy in memory would have counted as memory of the cell.
            source = images.cover(images.read(sources[kind]), work.width, work.height)
            images.save(source, Path(path), {kind: facts[kind]})
        else:
            raise InputError(f"no image named {kind!r}; there are: picture, content, style")


def _style_network(model: str) -> Any:
    import torch

    from models.workload import resolve

    with torch.device("meta"):
        return resolve(model)()
