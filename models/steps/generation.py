"""A finished picture, from coarse to fine: many iterations at several sizes, that can be interrupted in between.

It departs from the timed iteration, which does what most programs do. Random weights make pictures as well, within
limits (He et al. 2016, "A Powerful Generative Model Using Random Weights for the Deep Image Representation";
Ustyuzhaninov et al. 2017, "What does it take to generate natural textures?"): colours, dabs and outlines in the manner
of the style, not its objects. What is chosen for them here was chosen by looking at pictures of 192 to 384 px made with
random weights of VGG-19.
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
from models.network import StyleNetwork, smallest_side, until_last
from models.steps.objectives import Objective, StyleTask, gram_matrix
from models.steps.strategies import STRATEGIES
from models.steps.style import OPTIMIZERS
from models.workload import Step, Workload, resolve

# With random weights, features of the last layers are much the same for every picture, and their gradient is speckle:
# only the first of the style layers are looked at, the last of these for the content too.
_RANDOM_STYLE_LAYERS = 4
# Alpha / beta for them; between a fifth and twice as much it hardly shows.
_RANDOM_CONTENT_WEIGHT = 0.01
# Of the pixels' range, and how many pixels of the coarsest size one grain of it covers.
_NOISE, _GRAIN_PX = 0.04, 4
# A gradient is seen at so many sizes, each half of the one before.
_GRADIENT_SIZES = 5
# Adam's first step, of the pixels' range, and the share of it that is left at the end of a size: large steps leave
# noise behind.
_FIRST_RATE, _LAST_RATE_SHARE = 0.05, 0.1
# Colours that vary less are taken for grey: stretched to the style's, they would be noise.
_LEAST_VARIANCE = 1e-4


def looked_at(network: StyleNetwork, weights: str) -> StyleNetwork:
    """The network with layers chosen for its weights, cut behind the last that a loss looks at."""
    if weights != "random":
        return network
    chosen = dict(list(network.style_layers.items())[:_RANDOM_STYLE_LAYERS])
    layers = until_last(map(_averaging, network.layers.named_children()), chosen)
    return dataclasses.replace(
        network,
        layers=layers,
        content_layer=list(chosen)[-1],
        content_weight=_RANDOM_CONTENT_WEIGHT,
        style_layers=chosen,
        style_weight=1.0,
    )


def _averaging(named: tuple[str, nn.Module]) -> tuple[str, nn.Module]:
    """Average pooling instead of max pooling, as the paper prefers it: a maximum of random features paints a grid."""
    name, layer = named
    if isinstance(layer, nn.MaxPool2d):
        layer = nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode)
    return name, layer


def balanced(network: StyleNetwork, content: Tensor, style: Tensor) -> StyleNetwork:
    """The network with its losses weighted so that each is relative: features that are all zero cost a layer's share.

    Layers whose Gram matrices are large would drown the others, more so with random weights, for which He et al. 2016
    scale them too. What the network says of content against style (alpha / beta) holds of the relative losses.

    Args:
        content, style: of a small size, shape (1, 3, height, width).
    """
    of_style, of_content = _features(network, style), _features(network, content)
    style_layers = {}
    for name, share in network.style_layers.items():
        gram = gram_matrix(of_style[name])
        # 1e-12: a layer that is dead has nothing to say, and no weight makes it speak.
        style_layers[name] = share * (2 * gram.shape[0]) ** 2 / max(float(gram.square().sum()), 1e-12)
    variance = max(float(of_content[network.content_layer].var()), 1e-12)
    content_weight = network.content_weight / network.style_weight / variance
    return dataclasses.replace(network, style_layers=style_layers, style_weight=1.0, content_weight=content_weight)


def _features(network: StyleNetwork, image: Tensor) -> Mapping[str, Tensor]:
    mean, std = (image.new_tensor(values).view(1, 3, 1, 1) for values in (network.mean, network.std))
    taps, features = {}, (image - mean) / std
    with torch.no_grad():
        for name, layer in network.layers.named_children():
            features = layer(features)
            if name in network.taps:
                taps[name] = features.clone()  # the next layer may work in place
    return taps


def first_image(content: Tensor, style: Tensor, seed: int) -> Tensor:
    """What the coarsest size starts from: the content in the colours of the style, in [0, 1].

    Mean and covariance of its colours become the style's by a linear map, which Gatys et al. 2017, section 5.2, use the
    other way round: to match the first layer's Gram matrix does the same in many iterations. Coarse noise on it is what
    dabs grow from where the content is smooth: there its gradient is smooth as well.
    """
    height, width = content.shape[2:]
    grains = (1, 3, max(1, height // _GRAIN_PX), max(1, width // _GRAIN_PX))
    noise = _NOISE * torch.randn(grains, generator=torch.Generator().manual_seed(seed))
    grained = content + interpolate(noise, size=(height, width), mode="bicubic").to(content)
    (mean, spread), (wanted_mean, wanted_spread) = _colours(grained), _colours(style)
    mapped = torch.einsum("ij,njhw->nihw", (wanted_spread @ spread.inverse()).to(content), grained - mean.to(content))
    return (mapped + wanted_mean.to(content)).clamp_(0, 1)


def _colours(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the colours, shape (1, 3, 1, 1), and the root of their covariance, shape (3, 3), in float64 on cpu."""
    flat = image.detach().flatten(2).squeeze(0).cpu().double()
    variances, axes = torch.linalg.eigh(flat.cov())
    root = axes @ torch.diag(variances.clamp(min=_LEAST_VARIANCE).sqrt()) @ axes.T
    return flat.mean(1).view(1, 3, 1, 1), root


def smoothed(gradient: Tensor, sizes: int = _GRADIENT_SIZES) -> Tensor:
    """The gradient and what it is at each halving of its size, added up; same shape.

    A step along it changes structure before single pixels: the gradient of an untrained network is mostly speckle, and
    Adam, which scales each pixel's step by itself, would paint that. Preconditioned so, it still leads downhill: Olah
    et al. 2017, "Feature Visualization", section "Preconditioning and Parameterization".
    """
    if sizes == 1 or min(gradient.shape[2:]) < 2:
        return gradient
    coarse = smoothed(avg_pool2d(gradient, 2, ceil_mode=True), sizes - 1)
    return gradient + interpolate(coarse, size=gradient.shape[2:], mode="bilinear")


def rate(done_share: float) -> float:
    """Adam's learning rate when that share of a size's iterations is done."""
    return _FIRST_RATE * (1 - (1 - _LAST_RATE_SHARE) * done_share)


class Generation(Step):
    """A picture in the making; calling it is one iteration at the size in hand.

    Goes on with `workload.unfinished`, if there is such a file. `prepare` comes before the first iteration of a size,
    `count` after each.

    Attributes:
        scales: the sizes, from coarse to fine, with what is done of each.
    """

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        network = resolve(workload.model)()
        least_px = smallest_side(network)
        network = looked_at(network, workload.weights)
        weights.load(network, workload.weights, torch.device(workload.device), workload.seed)
        self.scales = coarse_to_fine(workload.width, workload.height, workload.iterations, least_px)
        coarsest = self.scales[0]
        self._network = balanced(network, *(self._picture(path, coarsest) for path in self._paths))
        self._image: Tensor | None = None
        self._objective: Objective | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._optimizer_state: dict[str, Any] | None = None
        self._report: Callable[[int, int], None] | None = None
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
        if self._image is None:
            self._image = first_image(content, style, self._workload.seed)
        elif not self._has_size(scale):
            self._image = resize(self._image.detach(), [scale.height, scale.width], antialias=True).clamp_(0, 1)
        self._image = self._image.detach().requires_grad_(True)
        task = StyleTask(self._network, content, style, self._workload.precision, self._workload.tile_px)
        self._objective = STRATEGIES[self._workload.strategy](task)
        self._optimizer = OPTIMIZERS[self._workload.optimizer](self._image)
        if self._optimizer_state is not None:
            self._optimizer.load_state_dict(self._optimizer_state)
            self._optimizer_state = None
        if self._report is not None:
            self._objective.on_progress(self._report)

    def __call__(self) -> None:
        assert self._optimizer is not None, "prepare comes first"
        assert self._image is not None
        if self._smooths:
            for group in self._optimizer.param_groups:
                group["lr"] = rate(len(self.scale.durations_seconds) / self.scale.iterations)
        self._loss = self._optimizer.step(self._evaluate)  # type: ignore[arg-type, assignment]
        with torch.no_grad():
            self._image.clamp_(0, 1)

    def count(self, seconds: float) -> None:
        """Note that an iteration took that long."""
        self.scale.durations_seconds.append(seconds)

    def note_loss(self, loss: float) -> None:
        """Note the loss of the latest iteration, of the size that it belongs to."""
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
        return None if self._loss is None else float(self._loss)

    def save(self, path: Path, command: Mapping[str, Any]) -> None:
        """Write all that it takes to go on.

        Args:
            command: what the picture is made from; who goes on must have the same.
        """
        assert self._optimizer is not None, "prepare comes first"
        assert self._image is not None
        facts = {"command": dict(command), "scales": [dataclasses.asdict(scale) for scale in self.scales]}
        tensors = {"image": self._image.detach(), "optimizer": self._optimizer.state_dict()}
        generation_state.save(path, facts, tensors)

    def _go_on_with(self, path: Path) -> None:
        self.scales = [Scale(**scale) for scale in generation_state.read_facts(path)["scales"]]
        tensors = generation_state.read_tensors(path, torch.device(self._workload.device))
        self._image = tensors["image"]
        if self._has_size(self.scale):
            self._optimizer_state = tensors["optimizer"]

    def _evaluate(self) -> Tensor:
        assert self._objective is not None
        assert self._image is not None
        loss = self._objective(self._image)
        if self._smooths and self._image.grad is not None:
            self._image.grad = smoothed(self._image.grad)
        return loss

    @property
    def _smooths(self) -> bool:
        # L-BFGS finds its own metric, from gradients that must be those of the loss.
        return self._workload.optimizer == "adam"

    @property
    def _paths(self) -> tuple[str, str]:
        return self._workload.content, self._workload.style

    def _picture(self, path: str, scale: Scale) -> Tensor:
        return images.fit(images.read(path), scale.width, scale.height).to(self._workload.device)

    def _has_size(self, scale: Scale) -> bool:
        return self._image is not None and self._image.shape[2:] == (scale.height, scale.width)
