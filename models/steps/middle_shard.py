"""What one rank of many takes and sends, without the others: for plans of groups that are not here."""

import torch

from models.network import StyleNetwork
from models.references import resolve
from models.steps.exchange import Exchange
from models.steps.sharded import ShardedStyleIteration
from models.steps.style import LBFGS_HISTORY
from models.steps.tile_chain import TileChain
from models.steps.tiled import tile_side
from models.steps.volume import style_volume_bytes
from models.workload import Workload


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
