"""What card does it take? Peak memory, predicted without running anything.

python -m benchmarks.plan --model=vgg19 --resolution=7680x4320 [--memory=8GiB] [--optimizer=adam] [--tile=512]
python -m benchmarks.plan --model=resnet50,vgg16 --mode=forward,training --batch=1,16,64 [--resolution=224]
python -m benchmarks.plan --model=resnet50 --batch=16 --ranks=2,8 [--record=PATH] [--rate=400images/s --link=50GB/s]
python -m benchmarks.plan --model=vgg19 --resolution=7680x4320 --ranks=2,8 [--rate=12iterations/min --link=50GB/s]

A style model is asked about with every strategy and precision. A classifier (any of the models that have no style
network, and any model with --mode or --batch; --model=all means every classifier) is asked about in each mode and with
each batch: parameters, gradients, state of the optimiser (SGD with momentum) and activations, which is everything
else, as they are at the moment of the peak, so that they add up to it.

Predicted is what tensors take on an accelerator, and compared with what a cell may have of a card: its memory less
the reserve that a run leaves. `--memory` asks about one more size, and lets tiles be as large as that holds; without
it they have the side of `--tile`, or 512 px. Needs no device, and takes seconds.

With `--ranks`, the work is shared by as many devices: training of a classifier is data-parallel, the tiles of an image
are shared out. The answer is the memory of each rank, what it sends in an iteration, and the rate to expect. Rate of
one rank and bandwidth come from a record file with measured cells (`--record`), or are given; the formulae, with their
sources, are in `fixtures/planning/scaling.py`.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks.cli import argument_type, parser_of, run
from fixtures import parsing
from fixtures.planning.scaling import GroupQuestion
from fixtures.planning.style import StyleQuestion, image_plan, style_plan
from fixtures.planning.training import ClassifierQuestion, classifier_plan, training_plan
from fixtures.records.reader import read_record
from models import api
from models.errors import InputError

T = TypeVar("T")

_CLASSIFIER_RESOLUTION = "224"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; bad input ends with status 2 and one sentence."""
    asked = _parser().parse_args(arguments)
    try:
        for line in _plan(asked):
            print(line)
    except InputError as error:
        print(f"plan: {error}", file=sys.stderr)
        return 2
    return 0


def _plan(asked: argparse.Namespace) -> list[str]:
    if _about_classifiers(asked):
        question = _classifier_question(asked)
        return classifier_plan(question) if asked.ranks is None else training_plan(question, _group_question(asked))
    questions = _style_questions(asked)
    if asked.ranks is None:
        return [line for question in questions for line in style_plan(question)]
    group = _group_question(asked)
    return [line for question in questions for line in image_plan(question, group)]


def _about_classifiers(asked: argparse.Namespace) -> bool:
    if asked.mode or asked.batch:
        return True
    return any(model not in api.STYLE_NETWORKS for model in asked.model)


def _style_questions(asked: argparse.Namespace) -> list[StyleQuestion]:
    if asked.resolution is None:
        raise InputError("a style model needs a size; give --resolution=SIDE or --resolution=WIDTHxHEIGHT")
    precisions = asked.precision or api.PRECISIONS
    return [
        StyleQuestion(model, asked.resolution, asked.memory, asked.optimizer, asked.tile, precisions)
        for model in asked.model
    ]


def _classifier_question(asked: argparse.Namespace) -> ClassifierQuestion:
    names = tuple(sorted(api.CLASSIFIERS)) if "all" in asked.model else asked.model
    for name in names:
        if name not in api.CLASSIFIERS:
            raise InputError(
                f"no classifier named {name!r}; there are: {', '.join(sorted(api.CLASSIFIERS))}, and without --mode"
                " and --batch a style model is asked about"
            )
    return ClassifierQuestion(
        names,
        asked.resolution or parsing.resolution(_CLASSIFIER_RESOLUTION),
        asked.mode or api.MODES,
        asked.batch or (1,),
        asked.precision or ("float32",),
        asked.memory,
    )


def _group_question(asked: argparse.Namespace) -> GroupQuestion:
    if asked.mode not in (None, ("training",)):
        raise InputError("ranks share training, not a forward pass; leave --mode out, or give --mode=training")
    record = None if asked.record is None else read_record(asked.record)
    return GroupQuestion(asked.ranks, asked.link, asked.rate, record)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("python -m benchmarks.plan", __doc__)
    add = parser.add_argument
    model = parsing.one_of("model", {"all", *api.STYLE_NETWORKS, *api.CLASSIFIERS})
    add("--model", required=True, type=_list_of("--model", model), help="e.g. vgg19, or resnet50,alexnet")
    add(
        "--resolution",
        type=argument_type(parsing.resolution),
        help="a side or WIDTHxHEIGHT in pixels (classifiers: 224)",
    )
    add("--memory", type=argument_type(parsing.size), help="one more size of memory to ask about, e.g. 8GiB")
    precision = parsing.one_of("precision", api.PRECISIONS)
    add("--precision", type=_list_of("--precision", precision), help="(default: all; of classifiers float32)")
    add(
        "--optimizer", default="adam", type=argument_type(parsing.one_of("optimizer", api.OPTIMIZERS)), help="of images"
    )
    add("--tile", default=0, type=argument_type(parsing.tile), help="side of a tile in pixels, or auto")
    mode = parsing.one_of("mode", api.MODES)
    add("--mode", type=_list_of("--mode", mode), help="of classifiers: forward,training (default: both)")
    add("--batch", type=_list_of("--batch", parsing.count("batch")), help="of classifiers, e.g. 1,16,64 (default: 1)")
    add("--ranks", type=_list_of("--ranks", parsing.count("number of ranks")), help="devices that share it, e.g. 2,8")
    add("--record", type=Path, metavar="PATH", help="record file to take rate and bandwidth from")
    add("--rate", type=argument_type(parsing.rate), help="of one rank, e.g. 400images/s or 12iterations/min")
    add("--link", type=argument_type(parsing.bandwidth), help="what a rank can send, e.g. 50GB/s")
    return parser


def _list_of(option: str, parse: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    return argument_type(lambda words: parsing.comma_separated(option, [words], parse))


if __name__ == "__main__":
    run(main)
