"""Generation of a finished picture from coarse to fine: many iterations at several sizes; can be interrupted.

It differs from the timed iteration, which does what most programs do. Random weights make pictures within limits
(He et al. 2016, "A Powerful Generative Model Using Random Weights for the Deep Image Representation"; Ustyuzhaninov et
al. 2017, "What does it take to generate natural textures?"): colours, strokes and outlines of the style, not its
objects. The constants for them were chosen by eye, from pictures of 192 to 384 px made with random weights of VGG-19.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate
from torchvision.transforms.v2.functional import resize

from models import generation_state, images, weights
from models.generation_state import Scale, coarse_to_fine
from models.network import Normalisation, StyleNetwork, smallest_side, until_last
from models.steps.objectives import Objective, StyleTask, frozen_type, gram_matrix, loss_value
from models.steps.strategies import STRATEGIES
from models.steps.style import optimizer_of
from models.workload import Step, Workload, resolve

# With random weights, features of the last layers hardly depend on the picture, and their gradient is speckle: only
# the first style layers are used, and the last of these is the content layer.
_RANDOM_STYLE_LAYERS = 4
# Alpha / beta for random weights; a fifth or twice as much makes hardly a visible difference.
_RANDOM_CONTENT_WEIGHT = 0.01
# Amplitude of the initial noise in the pixels' range, and the size of its grains in pixels of the coarsest size.
_NOISE, _GRAIN_PX = 0.04, 4
# Number of levels of the gradient's pyramid; each has half the size of the one before.
_GRADIENT_SIZES = 5
# Adam's first learning rate in the pixels' range, and the fraction of it at the end of a size: large steps leave noise.
_FIRST_RATE, _LAST_RATE_FRACTION = 0.05, 0.1
# Colours with a smaller variance count as grey: scaled to the variance of the style, they would be noise.
_SMALLEST_VARIANCE = 1e-4


def select_layers(network: StyleNetwork, weights: str) -> StyleNetwork:
    """The network with loss layers that suit its weights, without the layers behind the last of them."""
    if weights != "random":
        return network
    chosen = dict(list(network.style_layers.items())[:_RANDOM_STYLE_LAYERS])
    layers = until_last(map(_with_average_pooling, network.layers.named_children()), chosen)
    return dataclasses.replace(
        network,
        layers=layers,
        content_layer=list(chosen)[-1],
        content_weight=_RANDOM_CONTENT_WEIGHT,
        style_layers=chosen,
        style_weight=1.0,
    )


def _with_average_pooling(named_layer: tuple[str, nn.Module]) -> tuple[str, nn.Module]:
    """Average pooling instead of max pooling, as in the paper: maxima of random features cause a visible grid."""
    name, layer = named_layer
    if isinstance(layer, nn.MaxPool2d):
        layer = nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode)
    return name, layer


def balance_losses(network: StyleNetwork, content: Tensor, style: Tensor) -> StyleNetwork:
    """The network with relative losses: each style loss is divided by its value for features of zero.

    Otherwise layers with large Gram matrices dominate, more so with random weights, for which He et al. 2016 scale the
    losses, too. The content loss is divided by the variance of its features. The network's alpha / beta applies to the
    relative losses.

    Args:
        content, style: of a small size, shape (1, 3, height, width).
    """
    style_features, content_features = _loss_layer_outputs(network, style), _loss_layer_outputs(network, content)
    style_layers = {}
    for name, weight in network.style_layers.items():
        gram = gram_matrix(style_features[name])
        # 1e-12 avoids a division by zero for a layer whose features are all zero.
        style_layers[name] = weight * (2 * gram.shape[0]) ** 2 / max(float(gram.square().sum()), 1e-12)
    variance = max(float(content_features[network.content_layer].var()), 1e-12)
    content_weight = network.content_weight / network.style_weight / variance
    return dataclasses.replace(network, style_layers=style_layers, style_weight=1.0, content_weight=content_weight)


def _loss_layer_outputs(network: StyleNetwork, image: Tensor) -> Mapping[str, Tensor]:
    outputs, features = {}, Normalisation(network, image)(image)
    with torch.no_grad():
        for name, layer in network.layers.named_children():
            features = layer(features)
            if name in network.loss_layers:
                outputs[name] = features.clone()  # the next layer may work in place
    return outputs


def first_image(content: Tensor, style: Tensor, seed: int) -> Tensor:
    """The start of the coarsest size: the content in the colours of the style, shape of `content`, in [0, 1].

    A linear map gives its colours the mean and covariance of the style's (Gatys et al. 2017, section 5.2, in the other
    direction). The optimisation would need many iterations for that. Coarse noise gives the style something to grow
    from where the content, and so its gradient, is smooth.
    """
    height, width = content.shape[2:]
    grain_shape = (1, 3, max(1, height // _GRAIN_PX), max(1, width // _GRAIN_PX))
    noise = _NOISE * torch.randn(grain_shape, generator=torch.Generator().manual_seed(seed))
    noisy = content + interpolate(noise, size=(height, width), mode="bicubic").to(content)
    (mean, root), (style_mean, style_root) = _colour_statistics(noisy), _colour_statistics(style)
    mapped = torch.einsum("ij,njhw->nihw", (style_root @ root.inverse()).to(content), noisy - mean.to(content))
    return (mapped + style_mean.to(content)).clamp_(0, 1)


def _colour_statistics(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the colours, shape (1, 3, 1, 1), and square root of their covariance, shape (3, 3); float64 on cpu."""
    flat = image.detach().flatten(2).squeeze(0).cpu().double()
    variances, eigenvectors = torch.linalg.eigh(flat.cov())
    root = eigenvectors @ torch.diag(variances.clamp(min=_SMALLEST_VARIANCE).sqrt()) @ eigenvectors.T
    return flat.mean(1).view(1, 3, 1, 1), root


def add_coarse_gradients(gradient: Tensor, sizes: int = _GRADIENT_SIZES) -> Tensor:
    """The sum of the gradient and its averages at half the size, a quarter and so on; same shape.

    A preconditioner (Olah et al. 2017, "Feature Visualization", section "Preconditioning and Parameterization"): it is
    still a descent direction, but changes structures before single pixels. The gradient of an untrained network is
    mostly speckle, which Adam would amplify, because it scales the step of each pixel separately.
    """
    if sizes == 1 or min(gradient.shape[2:]) < 2:
        return gradient
    coarse = add_coarse_gradients(avg_pool2d(gradient, 2, ceil_mode=True), sizes - 1)
    return gradient + interpolate(coarse, size=gradient.shape[2:], mode="bilinear")


def learning_rate(done_fraction: float) -> float:
    """Adam's learning rate after a fraction of a size's iterations."""
    return _FIRST_RATE * (1 - (1 - _LAST_RATE_FRACTION) * done_fraction)


class Generation(Step):
    """Generates a picture; each call is one iteration at the current size.

    Resumes from the checkpoint file `workload.unfinished` if it exists. Call `prepare` before the first iteration of a
    size, and `record_duration` after each iteration.

    Attributes:
        scales: the sizes, from coarse to fine, with their progress.
    """

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        network = resolve(workload.model)()
        smallest_side_px = smallest_side(network)
        network = select_layers(network, workload.weights)
        weights.load(network, workload.weights, torch.device(workload.device), workload.seed)
        self.scales = coarse_to_fine(workload.width, workload.height, workload.iterations, smallest_side_px)
        coarsest = self.scales[0]
        network = balance_losses(network, *(self._read_picture(path, coarsest) for path in self._paths))
        self._network = network.in_type(frozen_type(workload.precision))
        self._image: Tensor | None = None
        self._objective: Objective | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._optimizer_state: dict[str, Any] | None = None
        self._report: Callable[[int, int], None] | None = None
        self._loss: Tensor | None = None
        if workload.unfinished and Path(workload.unfinished).exists():
            self._resume(Path(workload.unfinished))

    @property
    def scale(self) -> Scale:
        """The current size: the first that is not done, or the last."""
        return next((scale for scale in self.scales if not scale.done), self.scales[-1])

    @property
    def prepared(self) -> bool:
        """Whether an iteration at the current size can start."""
        return self._objective is not None and self._has_size(self.scale)

    def prepare(self) -> None:
        """Prepare the current size: enlarge the image, compute the targets."""
        scale = self.scale
        # Free the memory of the previous size first, so that two sizes never share the budget.
        self._objective = self._optimizer = None
        content, style = (self._read_picture(path, scale) for path in self._paths)
        if self._image is None:
            self._image = first_image(content, style, self._workload.seed)
        elif not self._has_size(scale):
            self._image = resize(self._image.detach(), [scale.height, scale.width], antialias=True).clamp_(0, 1)
        self._image = self._image.detach().requires_grad_(True)
        task = StyleTask(self._network, content, style, self._workload.precision, self._workload.tile_px)
        self._objective = STRATEGIES[self._workload.strategy](task)
        self._optimizer = optimizer_of(self._workload, self._image)
        if self._optimizer_state is not None:
            self._optimizer.load_state_dict(self._optimizer_state)
            self._optimizer_state = None
        if self._report is not None:
            self._objective.on_progress(self._report)

    def __call__(self) -> None:
        assert self._optimizer is not None, "prepare comes first"
        assert self._image is not None
        if self._adds_coarse_gradients:
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate(len(self.scale.durations_seconds) / self.scale.iterations)
        self._loss = self._optimizer.step(self._evaluate)  # type: ignore[arg-type, assignment]
        with torch.no_grad():
            self._image.clamp_(0, 1)

    def record_duration(self, seconds: float) -> None:
        """Record that the latest iteration took so long."""
        self.scale.durations_seconds.append(seconds)

    def record_loss(self, loss: float) -> None:
        """Record the loss of the latest iteration at its size."""
        [*_, scale] = [scale for scale in self.scales if scale.durations_seconds]
        scale.first_loss = loss if scale.first_loss is None else scale.first_loss
        scale.last_loss = loss

    def image(self) -> Tensor | None:
        return self._image

    def on_progress(self, report: Callable[[int, int], None]) -> None:
        self._report = report
        if self._objective is not None:
            self._objective.on_progress(report)

    def loss(self) -> float | None:
        if self._objective is None or self._image is None:
            return None
        return loss_value(self._objective, self._image, self._loss)

    def save(self, path: Path, command: Mapping[str, Any]) -> None:
        """Write the checkpoint file.

        Args:
            command: the inputs of the picture; only a run with the same inputs may resume.
        """
        assert self._optimizer is not None, "prepare comes first"
        assert self._image is not None
        facts = {"command": dict(command), "scales": [dataclasses.asdict(scale) for scale in self.scales]}
        tensors = {"image": self._image.detach(), "optimizer": self._optimizer.state_dict()}
        generation_state.save(path, facts, tensors)

    def _resume(self, path: Path) -> None:
        self.scales = [Scale(**scale) for scale in generation_state.read_facts(path)["scales"]]
        tensors = generation_state.read_tensors(path, torch.device(self._workload.device))
        self._image = tensors["image"]
        if self._has_size(self.scale):
            self._optimizer_state = tensors["optimizer"]

    def _evaluate(self) -> Tensor:
        assert self._objective is not None
        assert self._image is not None
        loss = self._objective(self._image)
        if self._adds_coarse_gradients and self._image.grad is not None:
            self._image.grad = add_coarse_gradients(self._image.grad)
        return loss

    @property
    def _adds_coarse_gradients(self) -> bool:
        # L-BFGS estimates curvature from gradients, which must be those of the loss.
        return self._workload.optimizer == "adam"

    @property
    def _paths(self) -> tuple[str, str]:
        return self._workload.content, self._workload.style

    def _read_picture(self, path: str, scale: Scale) -> Tensor:
        return images.fit(images.read(path), scale.width, scale.height).to(self._workload.device)

    def _has_size(self, scale: Scale) -> bool:
        return self._image is not None and self._image.shape[2:] == (scale.height, scale.width)
