"""Classification steps: the forward pass of a trained network, and the training iteration with its parts.

Images and labels are random and stay on the device: only computation is timed, no input.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.classifiers import CLASSES, main_logits, materialise
from models.errors import InputError
from models.steps.loss_scale import LossScale
from models.steps.objectives import arithmetic, frozen_arithmetic, frozen_type
from models.workload import Step, Workload, resolve

# Szegedy et al. 2015, section 5: "the losses of the auxiliary classifiers were weighted by 0.3".
AUXILIARY_WEIGHT = 0.3

# The first factor of the loss in float16; see `models.steps.loss_scale`.
FLOAT16_LOSS_SCALE = 1024.0

# Far below the rates of the papers. The work does not depend on the rate, and with random labels a network without
# normalisation must not diverge.
LEARNING_RATE = 1e-4
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4


def classify(workload: Workload) -> Step:
    """The step of the workload's mode.

    Raises:
        InputError: the mode is unknown.
    """
    match workload.mode:
        case "forward":
            return Forward(workload)
        case "training":
            return Training(workload)
        case unknown:
            raise InputError(f"there is no mode {unknown!r} of classification; use forward or training")


class Forward(Step):
    """Logits of one batch, in eval mode and inference mode."""

    def __init__(self, workload: Workload) -> None:
        self._network, self._images = _network_and_images(workload, frozen_type(workload.precision))
        self._network.eval()
        self._precision = workload.precision
        self._logits: Tensor | None = None

    @property
    def network(self) -> nn.Module:
        return self._network

    def __call__(self) -> None:
        with torch.inference_mode(), frozen_arithmetic(self._precision, self._images.device.type):
            self._logits = self._network(self._images)

    def loss(self) -> float | None:
        """Mean of the logits: the step has no loss, but a number shows that real work was done."""
        return None if self._logits is None else float(self._logits.float().mean())


class Training(Step):
    """One iteration of training: forward and cross-entropy, backward to the weights, SGD step with momentum."""

    def __init__(self, workload: Workload) -> None:
        self._network, self._images = _network_and_images(workload)
        self._network.train()
        self._precision = workload.precision
        self._labels = torch.randint(CLASSES, (workload.batch,), device=self._images.device)
        self._loss_scale = LossScale(FLOAT16_LOSS_SCALE if workload.precision == "float16" else 1.0, self._images)
        self._optimizer = torch.optim.SGD(
            self._network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )
        self._loss_graph: Tensor | None = None
        self._loss: Tensor | None = None

    @property
    def network(self) -> nn.Module:
        return self._network

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self._optimizer

    def parts(self) -> Mapping[str, Callable[[], None]]:
        """The parts of an iteration, in order."""
        return {"forward": self._forward, "backward": self._backward, "optimizer": self._step}

    def __call__(self) -> None:
        self._forward()
        self._backward()
        self._step()

    def loss(self) -> float | None:
        """NaN if the gradients of float16 overflow whatever the scale; in other precisions the next loss shows it."""
        if self._loss is None:
            return None
        return float(self._loss) if self._loss_scale.was_finite() else math.nan

    def _forward(self) -> None:
        with arithmetic(self._precision, self._images.device.type):
            self._loss_graph = loss_of(self._network(self._images), self._labels)
        self._loss = self._loss_graph.detach()

    def _backward(self) -> None:
        assert self._loss_graph is not None, "forward comes first"
        with arithmetic(self._precision, self._images.device.type):
            (self._loss_graph * self._loss_scale.factor).backward()
        self._loss_graph = None

    def _step(self) -> None:
        self._loss_scale.unscale(*(weight.grad for weight in self._network.parameters() if weight.grad is not None))
        self._optimizer.step()
        self._optimizer.zero_grad()


def loss_of(output: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Cross-entropy of the logits plus the weighted cross-entropy of auxiliary logits; shape ()."""
    loss = cross_entropy(main_logits(output).float(), labels)
    if not isinstance(output, Tensor):
        for auxiliary in output[1:]:
            loss = loss + AUXILIARY_WEIGHT * cross_entropy(auxiliary.float(), labels)
    return loss


def _network_and_images(workload: Workload, dtype: torch.dtype | None = None) -> tuple[nn.Module, Tensor]:
    device = torch.device(workload.device)
    network = materialise(resolve(workload.model)(), device, workload.seed, dtype)
    torch.manual_seed(workload.seed)  # also for dropout and labels
    # Normalised images have about mean 0 and standard deviation 1.
    images = torch.randn(workload.batch, 3, workload.height, workload.width, device=device)
    return network, images if dtype is None else images.to(dtype)
