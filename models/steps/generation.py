"""A finished picture, from coarse to fine: many iterations at several sizes, that can be interrupted in between."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from models import pictures, unfinished, weights
from models.network import smallest_side
from models.references import resolve
from models.scales import Scale, coarse_to_fine
from models.steps import recipe
from models.steps.objective import Objective, StyleTask
from models.steps.strategies import STRATEGIES
from models.steps.style import OPTIMIZERS
from models.workload import Workload


class Generation:
    """A picture in the making; calling it is one iteration at the size in hand.

    Goes on with `workload.unfinished`, if there is such a file. `prepare` comes before the first iteration of a size,
    `count` after each.

    Attributes:
        scales: the sizes, from coarse to fine, with what is done of each.
        image: what there is so far, shape (1, 3, height, width), in [0, 1]; None before the first `prepare`.
    """

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        network = resolve(workload.model)()
        least_px = smallest_side(network)
        network = recipe.looked_at(network, workload.weights)
        weights.load(network, workload.weights, torch.device(workload.device), workload.seed)
        self.scales = coarse_to_fine(workload.width, workload.height, workload.iterations, least_px)
        coarsest = self.scales[0]
        self._network = recipe.balanced(network, *(self._picture(path, coarsest) for path in self._paths))
        self.image: Tensor | None = None
        self._objective: Objective | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._optimizer_state: dict[str, Any] | None = None
        self._progress: Callable[[int, int], None] | None = None
        self._loss: Tensor | None = None
        if workload.unfinished and Path(workload.unfinished).exists():
            self._go_on_with(Path(workload.unfinished))

    @property
    def scale(self) -> Scale:
        """The size in hand: the first that is not done, or the last."""
        return next((scale for scale in self.scales if not scale.done), self.scales[-1])

    @property
    def prepared(self) -> bool:
        """Whether an iteration at the size in hand can begin."""
        return self._objective is not None and self._has_size(self.scale)

    def prepare(self) -> None:
        """Make ready for the size in hand: enlarge the image, compute the targets."""
        scale = self.scale
        # What the size before took is given back first: the two together would not fit where one of them just does.
        self._objective = self._optimizer = None
        content, style = (self._picture(path, scale) for path in self._paths)
        if self.image is None:
            self.image = recipe.first_image(content, style, self._workload.seed)
        elif not self._has_size(scale):
            self.image = resize(self.image.detach(), [scale.height, scale.width], antialias=True).clamp_(0, 1)
        self.image = self.image.detach().requires_grad_(True)
        task = StyleTask(self._network, content, style, self._workload.precision, self._workload.tile_px)
        self._objective = STRATEGIES[self._workload.strategy](task)
        self._optimizer = OPTIMIZERS[self._workload.optimizer](self.image)
        if self._optimizer_state is not None:
            self._optimizer.load_state_dict(self._optimizer_state)
            self._optimizer_state = None
        if self._progress is not None:
            self.watch(self._progress)

    def __call__(self) -> None:
        assert self._optimizer is not None, "prepare comes first"
        assert self.image is not None
        if self._smooths:
            for group in self._optimizer.param_groups:
                group["lr"] = recipe.rate(len(self.scale.durations_seconds) / self.scale.iterations)
        self._loss = self._optimizer.step(self._evaluate)  # type: ignore[arg-type, assignment]
        with torch.no_grad():
            self.image.clamp_(0, 1)

    def count(self, seconds: float) -> None:
        """Note that an iteration took that long."""
        self.scale.durations_seconds.append(seconds)

    def note_loss(self, loss: float) -> None:
        """Note the loss of the latest iteration, of the size that it belongs to."""
        [*_, scale] = [scale for scale in self.scales if scale.durations_seconds]
        scale.first_loss = loss if scale.first_loss is None else scale.first_loss
        scale.last_loss = loss

    def watch(self, progress: Callable[[int, int], None]) -> None:
        """Let `progress(done, every)` be told of the parts of an iteration, where the strategy has parts."""
        self._progress = progress
        if hasattr(self._objective, "progress"):
            self._objective.progress = progress  # type: ignore[union-attr]

    def loss(self) -> float | None:
        return None if self._loss is None else float(self._loss)

    def save(self, path: Path, command: Mapping[str, Any]) -> None:
        """Write all that it takes to go on.

        Args:
            command: what the picture is made from; who goes on must have the same.
        """
        assert self._optimizer is not None, "prepare comes first"
        assert self.image is not None
        facts = {"command": dict(command), "scales": [dataclasses.asdict(scale) for scale in self.scales]}
        tensors = {"image": self.image.detach(), "optimizer": self._optimizer.state_dict()}
        unfinished.save(path, facts, tensors)

    def _go_on_with(self, path: Path) -> None:
        self.scales = [Scale(**scale) for scale in unfinished.read_facts(path)["scales"]]
        tensors = unfinished.read_tensors(path, torch.device(self._workload.device))
        self.image = tensors["image"]
        if self._has_size(self.scale):
            self._optimizer_state = tensors["optimizer"]

    def _evaluate(self) -> Tensor:
        assert self._objective is not None
        assert self.image is not None
        loss = self._objective(self.image)
        if self._smooths and self.image.grad is not None:
            self.image.grad = recipe.smoothed(self.image.grad)
        return loss

    @property
    def _smooths(self) -> bool:
        # L-BFGS finds its own metric, from gradients that must be those of the loss.
        return self._workload.optimizer == "adam"

    @property
    def _paths(self) -> tuple[str, str]:
        return self._workload.content, self._workload.style

    def _picture(self, path: str, scale: Scale) -> Tensor:
        return pictures.fit(pictures.read(path), scale.width, scale.height).to(self._workload.device)

    def _has_size(self, scale: Scale) -> bool:
        return self.image is not None and self.image.shape[2:] == (scale.height, scale.width)
