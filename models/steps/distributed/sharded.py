"""One image over many ranks: the exact tiled iteration, with its tiles distributed.

Each rank stores part of the image and of the content target, and the optimiser's state for the pixels it owns; see
`models.steps.tiling.partition`. An iteration is the two passes of `models.steps.tiling.tiled`. The ranks communicate

  - after pass 1: an all-reduce of the Gram sums and the content loss, in one message;
  - after pass 2: gradients of halo pixels are sent to the owners, which add them;
  - after the optimiser step: the new pixels are sent to the ranks that have them in a halo.

No rank holds the whole gradient. A rank without tiles, of an image that is too small for so many ranks, takes part in
all communication. All ranks take decisions from the same numbers, so that NaN and infinity cannot cause a deadlock.

`MiddleShard` and `most_sent_bytes` are for plans: memory, work and traffic of one rank, without the others.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from models.network import StyleNetwork
from models.steps.distributed.collectives import Communicator, HaloExchange
from models.steps.lbfgs import message_numbers
from models.steps.objectives import StyleTask
from models.steps.style import loaded_network, optimizer_of, picture
from models.steps.tiling.chain import TileChain
from models.steps.tiling.partition import style_volume_bytes
from models.steps.tiling.tiled import Statistics, TilePasses, TileSubset, tile_side
from models.workload import Communication, Step, Workload, resolve


class ShardedStyleIteration(Step):
    """One style iteration of one rank: forward, losses, backward to the pixels, optimiser step.

    L-BFGS runs on the pixels that a rank owns, with its dot products summed over the ranks in one message. The
    alternative, the whole image in every rank's optimiser, would take two images of memory per pair of the history on
    each rank and an all-reduce of the whole gradient.

    Args:
        communicator: by default one over torch.distributed's default process group, which the caller has initialised.

    Attributes:
        owned: the pixels that this rank owns, part of an image of shape (1, 3, height, width).
    """

    def __init__(self, workload: Workload, communicator: Communicator | None = None) -> None:
        self._workload = workload
        self._communicator = communicator = communicator or Communicator.of_default_group()
        network = loaded_network(workload)
        chain = TileChain(network)
        size = workload.height, workload.width
        partition = chain.partition(*size, tile_side(workload.tile_px, chain), communicator.ranks)
        self._halo_exchange = halo_exchange = HaloExchange(partition, communicator)
        # Without a picture, all ranks must draw the same noise.
        torch.manual_seed(workload.seed)
        content, style = (halo_exchange.crop(picture(path, workload)) for path in (workload.content, workload.style))
        self._style_channels = {name: chain.channels[name] for name in network.style_layers}
        self._zero = content.new_zeros(())
        subset = TileSubset(math.prod(size), chain.sizes(*size), partition.parts[communicator.rank].tiles)
        task = StyleTask(network, content, style, workload.precision)
        self._passes = TilePasses(task, chain, subset, subset, self._over_ranks)
        self._local_image = self._with_optimizer(content)
        self._isolated_image: LocalImage | None = None
        self._loss: Tensor | None = None
        self._sent_bytes = 0

    @property
    def owned(self) -> Tensor:
        return self._local_image.owned

    def __call__(self) -> None:
        before = self._communicator.sent_bytes
        self._loss = self._iterate(self._local_image)
        self._sent_bytes = self._communicator.sent_bytes - before

    def _iterate_alone(self) -> None:
        """The computation of one iteration, without communication.

        Uses separate pixels and a separate optimiser, which the first call allocates: the state of real iterations
        stays correct. Read peak memory before the first call.
        """
        if self._isolated_image is None:
            self._isolated_image = self._with_optimizer(self._local_image.pixels.clone())
        with self._communicator.suspended():
            self._iterate(self._isolated_image)

    def communication(self) -> Communication:
        """What this rank sent in the latest iteration, 0 before the first; see `partition.style_volume_bytes`."""
        return Communication(self._sent_bytes, self._iterate_alone)

    def loss(self) -> float | None:
        return None if self._loss is None else float(self._loss)

    def on_progress(self, report: Callable[[int, int], None]) -> None:
        self._passes.on_progress(report)

    def _with_optimizer(self, pixels: Tensor) -> "LocalImage":
        owned = self._halo_exchange.owned(pixels).requires_grad_(True)
        return LocalImage(pixels, owned, optimizer_of(self._workload, owned, self._communicator.all_reduce))

    def _iterate(self, local_image: "LocalImage") -> Tensor:
        local_image.owned.grad = None
        loss, gradient = self._passes.evaluate(local_image.pixels)
        self._halo_exchange.add_halo_gradients(gradient)
        # L-BFGS views it as a vector.
        local_image.owned.grad = self._halo_exchange.owned(gradient).contiguous()
        del gradient
        local_image.optimizer.step(lambda: loss)  # type: ignore[arg-type, return-value]
        self._halo_exchange.update_halo(local_image.pixels)
        return loss

    def _over_ranks(self, statistics: Statistics) -> Statistics:
        """The statistics of all ranks' tiles, from those of this rank, which may have no tiles."""
        squared_error = self._zero.clone() if statistics.squared_error is None else statistics.squared_error
        grams = {
            name: statistics.grams[name] if name in statistics.grams else self._zero.new_zeros(channels, channels)
            for name, channels in self._style_channels.items()
        }
        self._communicator.all_reduce_many([squared_error, *grams.values()])
        return Statistics(grams, squared_error)


class LocalImage(NamedTuple):
    """A rank's part of the image, and the optimiser of the pixels that it owns.

    Attributes:
        pixels: owned pixels and halo, shape (1, 3, height, width); changed in place.
        owned: the owned pixels, a view.
    """

    pixels: Tensor
    owned: Tensor
    optimizer: torch.optim.Optimizer


class MiddleShard(ShardedStyleIteration):
    """The iteration of a middle rank of `workload.ranks`, which has a halo on both sides if there are three or more.

    Work and memory are those of this rank. Losses and pixels are not, because nothing is sent.
    """

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload, Communicator(workload.ranks // 2, workload.ranks, disabled=True))


def most_sent_bytes(workload: Workload) -> int:
    """Bytes that the rank with the longest halos sends per iteration.

    Raises:
        InputError: the network has a layer that cannot be tiled, or the tile is too small for it.
    """
    with torch.device("meta"):
        network: StyleNetwork = resolve(workload.model)()
    chain = TileChain(network)
    side_px = tile_side(workload.tile_px, chain)
    partition = chain.partition(workload.height, workload.width, side_px, workload.ranks)
    pixels = max(partition.exchanged_pixels(rank) for rank in range(workload.ranks))
    channels = [chain.channels[name] for name in network.style_layers]
    sums = message_numbers(workload.lbfgs_history) if workload.optimizer == "lbfgs" else 0
    return style_volume_bytes(channels, pixels, workload.ranks, sums)
