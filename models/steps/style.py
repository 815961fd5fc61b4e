"""Neural style generation (Gatys et al. 2016): the iteration, its parts, and the accuracy of its gradient."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from models import images, weights
from models.network import StyleNetwork, smallest_side
from models.steps.lbfgs import LBFGS, SumOverRanks, of_one_rank
from models.steps.objectives import PlainObjective, StyleTask, frozen_type, loss_value, style_arithmetic
from models.steps.strategies import STRATEGIES
from models.workload import Step, Workload, resolve


class StyleIteration(Step):
    """One iteration: forward, losses, backward to the pixels, optimiser step."""

    def __init__(self, workload: Workload) -> None:
        task = style_task(workload)
        self._image = first_image(task)
        self._objective = STRATEGIES[workload.strategy](task)
        self._optimizer = optimizer_of(workload, self._image)
        self._loss: Tensor | None = None

    def __call__(self) -> None:
        self._loss = self._optimizer.step(self._evaluate)  # type: ignore[arg-type, assignment]

    def image(self) -> Tensor:
        return self._image

    def on_progress(self, report: Callable[[int, int], None]) -> None:
        self._objective.on_progress(report)

    def compile_seconds(self) -> float | None:
        return self._objective.compile_seconds()

    def algorithms(self) -> Mapping[str, Any]:
        return self._objective.algorithms()

    def _evaluate(self) -> Tensor:
        return self._objective(self._image)

    def loss(self) -> float | None:
        return loss_value(self._objective, self._image, self._loss)


class StyleForward(Step):
    """The first part of an iteration: forward and losses, storing all that the backward pass would need."""

    def __init__(self, workload: Workload) -> None:
        task = style_task(workload)
        self._image = first_image(task)
        self._precision = workload.precision
        self._objective = PlainObjective(task)
        self._loss: Tensor | None = None

    def __call__(self) -> None:
        with style_arithmetic(self._precision, self._image):
            # Detached, so that the graph and its activations are freed at the end of the call.
            self._loss = self._objective.loss(self._image).detach()

    def loss(self) -> float | None:
        return None if self._loss is None else float(self._loss)


class StyleForwardBackward(Step):
    """An iteration without its optimiser step: forward, losses, backward to the pixels."""

    def __init__(self, workload: Workload) -> None:
        task = style_task(workload)
        self._image = first_image(task)
        self._objective = PlainObjective(task)
        self._loss: Tensor | None = None

    def __call__(self) -> None:
        self._loss = self._objective(self._image)

    def loss(self) -> float | None:
        return loss_value(self._objective, self._image, self._loss)


def style_task(workload: Workload) -> StyleTask:
    """Network with weights, and both pictures, on the workload's device.

    Raises:
        InputError: a picture or weights cannot be loaded.
    """
    network = loaded_network(workload)
    content, style = (picture(path, workload) for path in (workload.content, workload.style))
    return StyleTask(network, content, style, workload.precision, workload.tile_px)


def loaded_network(workload: Workload) -> StyleNetwork:
    """The workload's network with weights, on its device.

    Raises:
        InputError: the weights cannot be loaded.
    """
    factory = resolve(workload.model)
    with weights.Uninitialised():
        network: StyleNetwork = factory()
    dtype = frozen_type(workload.precision)
    weights.load(network, workload.weights, torch.device(workload.device), workload.seed, dtype)
    return network


def picture(path: str, workload: Workload) -> Tensor:
    """The picture at `path`, or noise if that is empty, in the workload's size and on its device.

    Shape (1, 3, height, width), in [0, 1]. Departure from the paper, in which the style picture keeps its own size: it
    is resized to that of the image, as in the paper's code, so that the resolution alone determines a cell's cost.

    Raises:
        InputError: the picture cannot be read.
    """
    device = torch.device(workload.device)
    if not path:
        return torch.rand(1, 3, workload.height, workload.width, device=device)
    return images.fit(images.read(path), workload.width, workload.height).to(device)


def first_image(task: StyleTask) -> Tensor:
    """The start of the optimisation: the content picture.

    Departure from the paper, which starts from white noise: most programs start from the content, and the result is
    usable after fewer iterations. The work per iteration is the same.
    """
    return task.content.clone().requires_grad_(True)


def optimizer_of(
    workload: Workload, image: Tensor, sum_over_ranks: SumOverRanks = of_one_rank
) -> torch.optim.Optimizer:
    """The workload's optimiser of an image.

    Args:
        sum_over_ranks: see `LBFGS`; `image` is then the part of one rank.
    """
    return OPTIMIZERS[workload.optimizer](image, workload.lbfgs_history, sum_over_ranks)


def adam(image: Tensor, *_: Any) -> torch.optim.Optimizer:
    """Adam, as in most programs; the paper used L-BFGS. The learning rate is 2 % of the pixels' range."""
    return torch.optim.Adam([image], lr=0.02)


def lbfgs(image: Tensor, history: int, sum_over_ranks: SumOverRanks) -> torch.optim.Optimizer:
    """L-BFGS, as in the paper. One evaluation per step, so that an iteration is the same work as with Adam."""
    return LBFGS(image, history, sum_over_ranks=sum_over_ranks)


OPTIMIZERS: Mapping[str, Callable[[Tensor, int, SumOverRanks], torch.optim.Optimizer]] = {"adam": adam, "lbfgs": lbfgs}


# Rounding hardly depends on the image's size; this size takes a fraction of a second in float64.
DEVIATION_SIDE_PX = 128


def gradient_deviation(workload: Workload) -> float:
    """Relative L2 distance between the gradient and that of `PlainObjective` in float64, at the first image.

    With the same pictures, and the weights before they are rounded to 16 bits; at DEVIATION_SIDE_PX or the smallest
    side that the network accepts. The float64 gradient is computed on the cpu, because some devices have no float64.
    """
    with torch.device("meta"):
        side = max(DEVIATION_SIDE_PX, smallest_side(resolve(workload.model)()))
    small = dataclasses.replace(workload, width=side, height=side)
    task = style_task(small)
    image = first_image(task)
    STRATEGIES[workload.strategy](task)(image)
    assert image.grad is not None
    exact = _exact_gradient(dataclasses.replace(small, device="cpu", precision="float32"), task)
    gradient = image.grad.detach().to("cpu", torch.float64)
    return float((gradient - exact).norm() / exact.norm())


def _exact_gradient(workload: Workload, task: StyleTask) -> torch.Tensor:
    reference = style_task(workload)
    # The pictures are those of the task: noise would be different noise.
    content, style = (picture.to("cpu", torch.float64) for picture in (task.content, task.style))
    reference.network.layers.double()
    exact = StyleTask(reference.network, content, style)
    image = first_image(exact)
    PlainObjective(exact)(image)
    assert image.grad is not None
    return image.grad
