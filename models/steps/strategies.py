"""Ways to run an iteration: each computes the loss and gradient of `PlainObjective`, at another price."""

from collections.abc import Callable

from models.steps.objective import Objective, PlainObjective, StyleTask
from models.steps.tiled import TiledObjective

STRATEGIES: dict[str, Callable[[StyleTask], Objective]] = {
    "plain": PlainObjective,
    "tiled": TiledObjective,
}
