"""One image over many ranks: the tiled iteration with its tiles shared out, exactly.

Each rank has a band of the image, its share of the content target, and the optimiser's state for the pixels it owns;
see `models.steps.tiling.partition`. An iteration is the two passes of `models.steps.tiling.tiled`, the ranks in step at

  - the end of pass 1: the Gram sums and the content loss are summed over the ranks, in one message;
  - the end of pass 2: what a rank found for pixels of its halo goes to their owners, which add it to their own;
  - the end of the iteration: owners send the new pixels back to where they are in a halo.

The image's gradient as a whole is nowhere: halos are all that two ranks have in common of it. A rank without tiles, of
an image that is too small for so many, takes part in all of these. What ranks decide by is the same on all of them, so
that numbers that are not finite put nobody out of step.

`MiddleShard` and `most_sent_bytes` are for plans: what one rank of many takes and sends, without the others.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from models.network import StyleNetwork
from models.steps.distributed.collectives import Exchange, Halos, ReductionsOverRanks
from models.steps.objectives import StyleTask
from models.steps.style import LBFGS_HISTORY, OPTIMIZERS, loaded_network, picture
from models.steps.tiling.chain import TileChain
from models.steps.tiling.partition import style_volume_bytes
from models.steps.tiling.tiled import Share, Statistics, TilePasses, tile_side
from models.workload import Communication, Step, Workload, resolve


class ShardedStyleIteration(Step):
    """One iteration: forward, losses, backward to the pixels, optimiser step; on each rank of torch.distributed's
    default process group, which the caller has initialised.

    L-BFGS runs on the pixels that a rank owns, with its dot products summed over the ranks. The other way, the whole
    image in every rank's optimiser, would cost each of them two images per pair of the history, and a sum of whole
    gradients over the ranks, to save two dozen messages of one number.

    Args:
        exchange: with the other ranks, if not over the default process group.

    Attributes:
        own: the pixels that this rank keeps, part of an image of shape (1, 3, height, width).
    """

    def __init__(self, workload: Workload, exchange: Exchange | None = None) -> None:
        self._optimizer = workload.optimizer
        self._exchange = exchange = exchange or Exchange.of_default_group()
        network = loaded_network(workload)
        chain = TileChain(network, network.taps)
        size = workload.height, workload.width
        bands = chain.bands(*size, tile_side(workload.tile_px, chain), exchange.ranks)
        self._halos = halos = Halos(bands, exchange)
        # All ranks must draw the same noise where there is no picture.
        torch.manual_seed(workload.seed)
        content, style = (halos.cut(picture(path, workload)) for path in (workload.content, workload.style))
        self._style_channels = {name: chain.channels[name] for name in network.style_layers}
        self._zero = content.new_zeros(())
        share = Share(math.prod(size), chain.sizes(*size), bands.of_ranks[exchange.rank].tiles)
        task = StyleTask(network, content, style, workload.precision)
        self._passes = TilePasses(task, chain, share, share, self._over_ranks)
        self._canvas = Canvas(content, halos, workload.optimizer)
        self._silent_canvas: Canvas | None = None
        self._loss: Tensor | None = None
        self._sent_bytes = 0

    @property
    def own(self) -> Tensor:
        return self._canvas.own

    def __call__(self) -> None:
        before = self._exchange.sent_bytes
        self._loss = self._iterate(self._canvas)
        self._sent_bytes = self._exchange.sent_bytes - before

    def _iterate_alone(self) -> None:
        """What one iteration computes, with nothing sent.

        On pixels and an optimiser of its own, made by the first call: those of the real iterations stay right. Where
        peak memory matters, ask for it before.
        """
        if self._silent_canvas is None:
            self._silent_canvas = Canvas(self._canvas.window.clone(), self._halos, self._optimizer)
        with self._exchange.silence():
            self._iterate(self._silent_canvas)

    def communication(self) -> Communication:
        """What this rank sent in the latest iteration, 0 before the first; see `models.steps.tiling.partition`."""
        return Communication(self._sent_bytes, self._iterate_alone)

    def loss(self) -> float | None:
        return None if self._loss is None else float(self._loss)

    def on_progress(self, report: Callable[[int, int], None]) -> None:
        self._passes.on_progress(report)

    def _iterate(self, canvas: "Canvas") -> Tensor:
        canvas.own.grad = None
        loss, gradient = self._passes.evaluate(canvas.window)
        self._halos.collect(gradient)
        # L-BFGS makes one vector of it.
        canvas.own.grad = self._halos.own(gradient).contiguous()
        del gradient
        with ReductionsOverRanks(self._exchange):
            canvas.optimizer.step(lambda: loss)  # type: ignore[arg-type, return-value]
        self._halos.fill(canvas.window)
        return loss

    def _over_ranks(self, found: Statistics) -> Statistics:
        """The sums over all ranks' tiles, from those over the tiles of this one, which may have none."""
        squares = self._zero.clone() if found.squares is None else found.squares
        grams = {
            name: found.grams[name] if name in found.grams else self._zero.new_zeros(channels, channels)
            for name, channels in self._style_channels.items()
        }
        self._exchange.add_up([squares, *grams.values()])
        return Statistics(grams, squares)


class Canvas:
    """A rank's part of the image, and the optimiser of what it owns of it.

    Args:
        window: pixels with their halo, shape (1, 3, height, width); changed in place.
    """

    def __init__(self, window: Tensor, halos: Halos, optimizer: str) -> None:
        self.window = window
        self.own = halos.own(window).requires_grad_(True)
        self.optimizer = OPTIMIZERS[optimizer](self.own)


class MiddleShard(ShardedStyleIteration):
    """The iteration of a rank in the middle of `workload.ranks`, which has a halo on both sides if there are three.

    Its work and memory are that rank's; its numbers are not, because nothing is sent.
    """

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload, Exchange(workload.ranks // 2, workload.ranks, silent=True))


def most_sent_bytes(workload: Workload) -> int:
    """What the rank with the longest halos sends in an iteration, of L-BFGS with its history filled.

    Raises:
        InputError: the network has a layer that cannot be tiled, or the tile is too small for it.
    """
    with torch.device("meta"):
        network: StyleNetwork = resolve(workload.model)()
    chain = TileChain(network, network.taps)
    side_px = tile_side(workload.tile_px, chain)
    bands = chain.bands(workload.height, workload.width, side_px, workload.ranks)
    pixels = max(bands.exchanged_pixels(rank) for rank in range(workload.ranks))
    channels = [chain.channels[name] for name in network.style_layers]
    history = LBFGS_HISTORY if workload.optimizer == "lbfgs" else 0
    return style_volume_bytes(channels, pixels, workload.ranks, history)
