"""Ways to run an iteration: each computes the loss and gradient of `PlainObjective`, at another price."""

from collections.abc import Callable

from models.network import StyleNetwork, smallest_side
from models.steps.blocks import blocks_of
from models.steps.channels_last import ChannelsLastObjective
from models.steps.checkpointed import CheckpointedObjective
from models.steps.compiled import CompiledObjective
from models.steps.fastest import FastestObjective
from models.steps.objective import Objective, PlainObjective, StyleTask
from models.steps.streamed import StreamedObjective
from models.steps.tile_chain import TileChain
from models.steps.tiled import TiledObjective

STRATEGIES: dict[str, Callable[[StyleTask], Objective]] = {
    "plain": PlainObjective,
    "channels_last": ChannelsLastObjective,
    "checkpointed": CheckpointedObjective,
    "compiled": CompiledObjective,
    "tiled": TiledObjective,
    "streamed": StreamedObjective,
    "fastest": FastestObjective,
}


def smallest_tile(network: StyleNetwork, strategy: str) -> int:
    """Side in pixels of the smallest tile with which a strategy can run a network.

    Raises:
        InputError: the network has a layer that cannot be tiled.
    """
    if strategy == "streamed":  # a block's halo is a few positions, and any tile will do
        side = smallest_side(network)
        blocks_of(network, side, side)
        return 1
    return TileChain(network, network.taps, strategy).smallest_side()
