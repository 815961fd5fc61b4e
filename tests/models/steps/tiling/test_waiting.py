"""No iteration in tiles copies numbers from the host to the device: such a copy waits for all that is queued there."""

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from models import weights
from models.nin import nin
from models.steps.objectives import StyleTask
from models.steps.strategies import STRATEGIES

COPIES = (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)
READS = (torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.__float__, torch.Tensor.__bool__, torch.Tensor.__int__)


class Waits(TorchFunctionMode):
    """Notes calls that copy numbers of the host to a device, or read some there."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in COPIES + READS:
            self.calls.append(func)
        return func(*args, **(kwargs or {}))


def averaging():
    """NIN with average pooling, whose windows at a border have fewer positions."""
    network = nin()
    for name, layer in list(network.layers.named_children()):
        if isinstance(layer, nn.MaxPool2d):
            setattr(network.layers, name, nn.AvgPool2d(3, 2, padding=1, count_include_pad=False))
    return network


@pytest.mark.parametrize("factory", [nin, averaging])
@pytest.mark.parametrize("strategy", ["plain", "tiled", "streamed", "fastest"])
def test_an_iteration_makes_no_tensor_of_a_list_and_reads_no_number(strategy, factory):
    images = torch.rand(2, 1, 3, 64, 96)
    network = factory()
    weights.load(network, "random", torch.device("cpu"))
    objective = STRATEGIES[strategy](StyleTask(network, *images.unbind(), tile_px=64))
    image = images[0].clone().requires_grad_()
    objective(image)
    with Waits() as waits:
        objective(image)
    assert waits.calls == []
