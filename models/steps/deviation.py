"""How far the gradient of a strategy in a precision is from the exact one."""

import dataclasses

import torch

from models.network import smallest_side
from models.references import resolve
from models.steps.objective import PlainObjective, StyleTask
from models.steps.strategies import STRATEGIES
from models.steps.style import first_image, style_task
from models.workload import Workload

# Rounding hardly depends on the size of the picture; this one takes a fraction of a second in float64.
SIDE_PX = 128


def gradient_deviation(workload: Workload) -> float:
    """Relative L2 distance of the gradient from that of `PlainObjective` in float64, at the first image.

    For the same pictures and weights, of SIDE_PX or the smallest side that the network takes. The exact gradient is
    computed on the cpu: some devices have no float64.
    """
    with torch.device("meta"):
        side = max(SIDE_PX, smallest_side(resolve(workload.model)()))
    small = dataclasses.replace(workload, width=side, height=side)
    task = style_task(small)
    image = first_image(task)
    STRATEGIES[workload.strategy](task)(image)
    assert image.grad is not None
    exact = _exact_gradient(dataclasses.replace(small, device="cpu"), task)
    found = image.grad.detach().to("cpu", torch.float64)
    return float((found - exact).norm() / exact.norm())


def _exact_gradient(workload: Workload, task: StyleTask) -> torch.Tensor:
    reference = style_task(workload)
    # Noise instead of pictures would be other noise: the pictures are those of the task.
    content, style = (picture.to("cpu", torch.float64) for picture in (task.content, task.style))
    reference.network.layers.double()
    exact = StyleTask(reference.network, content, style)
    image = first_image(exact)
    PlainObjective(exact)(image)
    assert image.grad is not None
    return image.grad
