"""Ways to run an iteration: each computes the loss and gradient of `PlainObjective`, at another price."""

from collections.abc import Callable

from models.network import StyleNetwork
from models.steps.objective import Objective, PlainObjective, StyleTask
from models.steps.tile_chain import TileChain
from models.steps.tiled import TiledObjective

STRATEGIES: dict[str, Callable[[StyleTask], Objective]] = {
    "plain": PlainObjective,
    "tiled": TiledObjective,
}


def smallest_tile(network: StyleNetwork, strategy: str) -> int:
    """Side in pixels of the smallest tile with which a strategy can run a network.

    Raises:
        InputError: the network has a layer that cannot be tiled.
    """
    return TileChain(network, network.taps, strategy).smallest_side()
