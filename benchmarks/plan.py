"""What card does a picture need? Peak memory of every strategy and precision, predicted without running anything.

    python -m benchmarks.plan --model=vgg19 --resolution=7680x4320 [--memory=8GiB] [--optimizer=adam] [--tile=512]

Predicted is what tensors take on an accelerator, and compared with what a cell may have of a card: its memory less
the reserve that a run leaves. `--memory` asks about one more size, and lets tiles be as large as that holds; without
it they have the side of `--tile`, or 512 px. Needs no device, and takes seconds.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import models
from fixtures import parsing
from fixtures.host_memory import RESERVE_BYTES, RESERVE_SHARE
from fixtures.parsing import readable_size
from fixtures.prediction import predict_memory, tile_within
from fixtures.tables import table
from models.errors import InputError
from models.network import StyleNetwork, smallest_side
from models.references import resolve
from models.steps.strategies import smallest_tile
from models.steps.tile_chain import TileChain
from models.workload import Workload

T = TypeVar("T")

CARDS_GIB = (4, 8, 12, 16, 24, 40, 80, 141)
DEFAULT_TILE_PX = 512

_STEP = "models.steps.style:StyleIteration"
# Any accelerator: nothing is run on it.
_DEVICE = "cuda:0"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; bad input ends with status 2 and one sentence."""
    asked = _parser().parse_args(arguments)
    try:
        for line in plan(asked.model, asked.resolution, asked.memory, asked.optimizer, asked.tile):
            print(line)
    except InputError as error:
        print(f"plan: {error}", file=sys.stderr)
        return 2
    return 0


def plan(
    model: str, resolution: parsing.Resolution, memory_bytes: int | None, optimizer: str, tile_px: int
) -> list[str]:
    """The table, line by line.

    Raises:
        InputError: an image or a tile that is too small for the model.
    """
    reference = models.STYLE_NETWORKS[model]
    _check(reference, model, resolution, tile_px)
    sizes = {f"{card}": card * 2**30 for card in CARDS_GIB}
    rows: list[tuple[str, ...]] = [("strategy", "precision", "tile [px]", "peak memory", "cards that hold it [GiB]")]
    for strategy in models.STRATEGIES:
        for precision in models.PRECISIONS:
            workload = Workload(
                _STEP, reference, _DEVICE, resolution.width, resolution.height, optimizer, precision, strategy
            )
            side = tile_px if strategy in models.TILED_STRATEGIES else 0
            if not side and strategy in models.SIZED_TO_BUDGET:
                side = _chosen_tile(workload, memory_bytes)
            peak = predict_memory(Workload(**{**vars(workload), "tile_px": side}))
            holding = [name for name, size in sizes.items() if peak <= usable(size)]
            verdict = ", ".join(holding) or f"none up to {CARDS_GIB[-1]}"
            if memory_bytes is not None:
                verdict += f"; {readable_size(memory_bytes)}: {'yes' if peak <= usable(memory_bytes) else 'no'}"
            rows.append((strategy, precision, str(side or "-"), readable_size(peak), verdict))
    head = f"{model} at {resolution.width}x{resolution.height} px with {optimizer}: predicted peak memory"
    network = _network(reference)
    halo = f"a tile needs up to {TileChain(network, network.taps).halo_px()} px of the image around it"
    return [head, *("  " + line for line in table(rows)), halo]


def usable(card_bytes: int) -> int:
    """What a cell may have of a card, in bytes: all but the reserve that is left when no limit is given."""
    return card_bytes - max(RESERVE_BYTES, int(card_bytes * RESERVE_SHARE))


def _chosen_tile(workload: Workload, memory_bytes: int | None) -> int:
    if memory_bytes is not None:
        return tile_within(workload, usable(memory_bytes))
    return max(DEFAULT_TILE_PX, smallest_tile(_network(workload.model), workload.strategy))


def _check(reference: str, model: str, resolution: parsing.Resolution, tile_px: int) -> None:
    network = _network(reference)
    least = smallest_side(network)
    if min(resolution.width, resolution.height) < least:
        raise InputError(
            f"model {model!r} shrinks an image of {resolution.asked} px below one pixel; the smallest side that works"
            f" is {least}, so use --resolution={least} or more"
        )
    for strategy in models.TILED_STRATEGIES:
        smallest = smallest_tile(network, strategy)
        if 0 < tile_px < smallest:
            raise InputError(
                f"--tile={tile_px} is too small for model {model!r}; the smallest that works is --tile={smallest}"
            )


def _network(reference: str) -> StyleNetwork:
    network: StyleNetwork = resolve(reference)()
    return network


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--model", required=True, type=_said(parsing.one_of("model", models.STYLE_NETWORKS)), help="e.g. vgg19")
    add("--resolution", required=True, type=_said(parsing.resolution), help="a side or WIDTHxHEIGHT, in pixels")
    add("--memory", type=_said(parsing.size), help="one more size of memory to ask about, e.g. 8GiB")
    add("--optimizer", default="adam", type=_said(parsing.one_of("optimizer", models.OPTIMIZERS)))
    add("--tile", default=0, type=_said(parsing.tile), help="side of a tile in pixels, or auto")
    return parser


def _said(parse: Callable[[str], T]) -> Callable[[str], T]:
    """The parser with its sentence kept: argparse replaces that of a ValueError by one of its own."""

    def parse_for_argparse(word: str) -> T:
        try:
            return parse(word)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse_for_argparse


if __name__ == "__main__":
    sys.exit(main())
