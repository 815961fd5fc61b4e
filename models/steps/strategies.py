"""Ways to run an iteration: each computes the loss and gradient of `PlainObjective`, at another price."""

from collections.abc import Callable

from models.steps.channels_last import ChannelsLastObjective
from models.steps.checkpointed import CheckpointedObjective
from models.steps.compiled import CompiledObjective
from models.steps.fastest import FastestObjective
from models.steps.objective import Objective, PlainObjective, StyleTask
from models.steps.streamed import StreamedObjective

STRATEGIES: dict[str, Callable[[StyleTask], Objective]] = {
    "plain": PlainObjective,
    "channels_last": ChannelsLastObjective,
    "checkpointed": CheckpointedObjective,
    "compiled": CompiledObjective,
    "streamed": StreamedObjective,
    "fastest": FastestObjective,
}
