"""Which card is large enough? Predicts peak memory without running anything.

python -m benchmarks.plan --model=vgg19 --resolution=7680x4320 [--memory=8GiB] [--optimizer=adam] [--tile=512]
python -m benchmarks.plan --model=sdxl,flux1,sd_vae --resolution=1024,2048,7680x4320 [--mode=forward] [--memory=24GiB]
python -m benchmarks.plan --model=resnet50,vgg16 --mode=forward,training --batch=1,16,64 [--resolution=224]
python -m benchmarks.plan --model=resnet50 --batch=16 --ranks=2,8 [--record=PATH] [--rate=400images/s --link=50GB/s]
python -m benchmarks.plan --model=vgg19 --resolution=7680x4320 --ranks=2,8 [--rate=12iterations/min --link=50GB/s]
python -m benchmarks.plan --model=kl_decoder --resolution=7680x4320 --ranks=2,8 [--memory=24GiB] [--rate=... --link=...]

Style models get a row for every strategy and precision. Classifiers get a row for every mode and batch, denoisers and
decoders for every resolution, mode, precision (float32 and bfloat16) and batch, with the memory at its peak split into
parameters, gradients, optimiser state (momentum of SGD, moments of AdamW) and activations (everything else). Decoders
also get rows for --strategy=streamed: without a limit of memory, with --memory, and with the least that works. A model
counts as a classifier if it has no style network, or with --mode or --batch; --model=all means all classifiers.

Prints the memory of tensors on an accelerator, and the cards that are large enough: a cell may use the memory of a card
less a reserve. --memory adds a card to these, and limits the tiles; without it tiles have the side given by --tile, or
512 px. Needs no device, and takes seconds; of large generators seconds a row, and a row of their training takes up to a
minute on a busy core.

With --ranks, several devices share the work: data-parallel training of a classifier, the tiles of an image, or a decode
by row streams in slabs. Prints the memory of a rank, the bytes that it sends per iteration, and the predicted rate. The
rate of a single rank and the bandwidth are given (--rate, --link) or come from a record file (--record). Formulae and
sources: fixtures/planning/scaling.py.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks.cli import argument_type, parser_of, run
from fixtures import parsing
from fixtures.planning.decoders import decode_plan, streamed_plan
from fixtures.planning.generators import GeneratorPlanOptions, generator_plan
from fixtures.planning.scaling import GroupPlanOptions
from fixtures.planning.style import StylePlanOptions, image_plan, style_plan
from fixtures.planning.training import ClassifierPlanOptions, classifier_plan, training_plan
from fixtures.records.reader import read_record
from models import api
from models.errors import InputError

T = TypeVar("T")

_CLASSIFIER_RESOLUTION = "224"
_GENERATORS = {**api.DENOISERS, **api.DECODERS}
_GENERATOR_PRECISIONS = ("float32", "bfloat16")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan. Returns the exit status: 0, or 2 after a sentence about bad input."""
    options = _parser().parse_args(arguments)
    try:
        for line in _plan(options):
            print(line)
    except InputError as error:
        print(f"plan: {error}", file=sys.stderr)
        return 2
    return 0


def _plan(options: argparse.Namespace) -> list[str]:
    generators = [model for model in options.model if model in _GENERATORS]
    if generators:
        generator_options = _generator_options(options, generators)
        if options.ranks is not None:
            return decode_plan(generator_options, _group_options(options))
        return [*generator_plan(generator_options, _show_progress), *streamed_plan(generator_options)]
    group = None if options.ranks is None else _training_group_options(options)
    if _plans_classifiers(options):
        classifiers = _classifier_options(options)
        return classifier_plan(classifiers) if group is None else training_plan(classifiers, group)
    return [
        line
        for style in _style_options(options)
        for line in (style_plan(style) if group is None else image_plan(style, group))
    ]


def _show_progress(number: int, rows: int) -> None:
    """On a terminal, a line that the next one replaces: the rows of large models take seconds each."""
    if sys.stderr.isatty():
        print(f"\rplanning row {number} of {rows}", end="\r" if number == rows else "", file=sys.stderr, flush=True)


def _plans_classifiers(options: argparse.Namespace) -> bool:
    if options.mode or options.batch:
        return True
    return any(model not in api.STYLE_NETWORKS for model in options.model)


def _generator_options(options: argparse.Namespace, generators: Sequence[str]) -> GeneratorPlanOptions:
    others = [model for model in options.model if model not in generators]
    if others:
        raise InputError(
            f"{generators[0]!r} is a denoiser or decoder, {others[0]!r} is none; plan them in two calls, because their"
            " tables differ"
        )
    if options.resolution is None:
        raise InputError("a generator needs a size; give --resolution=SIDE or --resolution=WIDTHxHEIGHT")
    return GeneratorPlanOptions(
        tuple(generators),
        options.resolution,
        options.mode,
        options.batch or (1,),
        options.precision or _GENERATOR_PRECISIONS,
        options.memory,
    )


def _style_options(options: argparse.Namespace) -> list[StylePlanOptions]:
    if options.resolution is None:
        raise InputError("a style model needs a size; give --resolution=SIDE or --resolution=WIDTHxHEIGHT")
    precisions = options.precision or api.PRECISIONS
    return [
        StylePlanOptions(
            model,
            resolution,
            options.memory,
            options.optimizer,
            options.tile,
            precisions,
            options.lbfgs_history,
        )
        for model in options.model
        for resolution in options.resolution
    ]


def _classifier_options(options: argparse.Namespace) -> ClassifierPlanOptions:
    names = tuple(sorted(api.CLASSIFIERS)) if "all" in options.model else options.model
    for name in names:
        if name not in api.CLASSIFIERS:
            raise InputError(
                f"no classifier named {name!r}; there are: {', '.join(sorted(api.CLASSIFIERS))}; for a style model"
                " leave --mode and --batch out"
            )
    modes = api.MODES_OF_CATALOG["classifiers"]
    for mode in options.mode or ():
        parsing.option_value("--mode", mode, parsing.one_of("mode of classifiers", modes))
    first, *further = options.resolution or (parsing.resolution(_CLASSIFIER_RESOLUTION),)
    if further:
        raise InputError("classifiers are planned at one resolution; give one --resolution")
    return ClassifierPlanOptions(
        names,
        first,
        options.mode or modes,
        options.batch or (1,),
        options.precision or ("float32",),
        options.memory,
    )


def _training_group_options(options: argparse.Namespace) -> GroupPlanOptions:
    if options.mode not in (None, ("training",)):
        raise InputError("ranks share training, not a forward pass; leave --mode out, or give --mode=training")
    return _group_options(options)


def _group_options(options: argparse.Namespace) -> GroupPlanOptions:
    record = None if options.record is None else read_record(options.record)
    return GroupPlanOptions(options.ranks, options.link, options.rate, record)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("python -m benchmarks.plan", __doc__)
    add = parser.add_argument
    model = parsing.one_of("model", {"all", *api.STYLE_NETWORKS, *api.CLASSIFIERS, *_GENERATORS})
    add("--model", required=True, type=_list_of("--model", model), help="e.g. vgg19, or resnet50,alexnet")
    add(
        "--resolution",
        type=_list_of("--resolution", parsing.resolution),
        help="sides or WIDTHxHEIGHT in pixels, e.g. 1024,7680x4320 (classifiers: one; default 224)",
    )
    add(
        "--memory", type=argument_type(parsing.size), help="memory of a further card, which limits the tiles, e.g. 8GiB"
    )
    precision = parsing.one_of("precision", api.PRECISIONS)
    add(
        "--precision",
        type=_list_of("--precision", precision),
        help="(default: all; for classifiers float32, for generators float32,bfloat16)",
    )
    add(
        "--optimizer",
        default="adam",
        type=argument_type(parsing.one_of("optimizer", api.OPTIMIZERS)),
        help="of a style model (default: adam)",
    )
    add(
        "--lbfgs-history",
        default=api.LBFGS_HISTORY,
        metavar="N",
        type=argument_type(parsing.count("number of pairs")),
        help="pairs in the history of lbfgs (default: %(default)s)",
    )
    add("--tile", default=0, type=argument_type(parsing.tile), help="side of a tile in pixels, or auto (default: auto)")
    mode = parsing.one_of("mode", api.MODES)
    add("--mode", type=_list_of("--mode", mode), help="of classifiers and generators (default: all that they have)")
    add(
        "--batch",
        type=_list_of("--batch", parsing.count("batch")),
        help="of classifiers and generators, e.g. 1,16,64 (default: 1)",
    )
    ranks = parsing.count("number of ranks")
    add("--ranks", type=_list_of("--ranks", ranks), help="numbers of devices that share the work, e.g. 2,8")
    add("--record", type=Path, metavar="PATH", help="record file with the rate and bandwidth of earlier runs")
    add("--rate", type=argument_type(parsing.rate), help="of a single rank, e.g. 400images/s or 12iterations/min")
    add("--link", type=argument_type(parsing.bandwidth), help="bandwidth of a rank, e.g. 50GB/s")
    return parser


def _list_of(option: str, parse: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    return argument_type(lambda text: parsing.comma_separated(option, [text], parse))


if __name__ == "__main__":
    run(main)
