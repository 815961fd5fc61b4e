"""`channels_last`: the plain formulation, its weights and feature maps in the order that convolution kernels want."""

import torch
from torch import Tensor

from models.steps.layout import lay_out_channels_last
from models.steps.objective import PlainObjective, StyleTask


class ChannelsLastObjective(PlainObjective):
    """What follows a convolution takes on the order of its input, so only weights and image are told."""

    def __init__(self, task: StyleTask) -> None:
        lay_out_channels_last(task.network)
        super().__init__(task)

    def _normalised(self, image: Tensor) -> Tensor:
        return super()._normalised(image.contiguous(memory_format=torch.channels_last))
