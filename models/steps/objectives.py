"""The loss of an image, its plain computation, and what every strategy shares: precision, loss scale, memory layout.

Content and style loss of neural style generation (Gatys, Ecker & Bethge 2016, "Image Style Transfer Using
Convolutional Neural Networks", section 2). Features have shape (1, channels, height, width).
"""

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.network import Normalisation, StyleNetwork
from models.steps.loss_scale import LossScale, first_scale, is_finite

_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@contextlib.contextmanager
def arithmetic(precision: str, device_type: str, exact_products: bool = False) -> Iterator[None]:
    """Within the context, torch computes with `precision`: sets the backends' float32 precision and autocast.

    For weights that are trained, which stay in float32; for a frozen network see `frozen_arithmetic`. TF32, which is
    cuDNN's default for convolutions, is off under `float32`.

    Args:
        exact_products: matrix products of float32 keep its precision under `tf32` too. Those of a style network are
            Gram matrices and their gradients.
    """
    tf32 = "tf32" if precision == "tf32" else "ieee"
    cudnn: Any = torch.backends.cudnn
    # Recurrent layers are not used, but torch refuses to answer for cuDNN as a whole if they differ from convolutions.
    settings = ((torch.backends.cuda.matmul, "ieee" if exact_products else tf32), (cudnn.conv, tf32), (cudnn.rnn, tf32))
    before = [(backend, backend.fp32_precision) for backend, _ in settings]
    for backend, value in settings:
        backend.fp32_precision = value
    try:
        if precision in _HALF:
            with torch.autocast(device_type, dtype=_HALF[precision]):
                yield
        else:
            yield
    finally:
        for backend, value in before:
            backend.fp32_precision = value


def frozen_type(precision: str) -> torch.dtype:
    """The type in which weights and features of a frozen network are stored.

    Autocast would keep the weights in float32, and convert them anew at each use.
    """
    return _HALF.get(precision, torch.get_default_dtype())


def frozen_arithmetic(precision: str, device_type: str, exact_products: bool = False) -> AbstractContextManager[None]:
    """`arithmetic` of a frozen network: numbers of 16 bits are computed as they are stored, without autocast."""
    return arithmetic("float32" if precision in _HALF else precision, device_type, exact_products)


def style_arithmetic(precision: str, image: Tensor) -> AbstractContextManager[None]:
    """`arithmetic` of a style iteration: convolutions in `precision`, Gram matrices in at least float32."""
    return frozen_arithmetic(precision, image.device.type, exact_products=True)


def gram_matrix(features: Tensor) -> Tensor:
    """Gram matrix of features, divided by the number of positions; shape (channels, channels).

    Equation 3 of the paper divided by M, so that a target may come from a picture of another size, and float16 features
    do not overflow the sum. Equation 4 then has no factor 1/M^2; the loss is that of the paper.
    """
    flat = features.flatten(2).squeeze(0)
    return flat @ flat.T / flat.shape[1]


def style_loss(gram: Tensor, target: Tensor) -> Tensor:
    """E_l, equation 4: squared difference of Gram matrices over (2 x channels)^2; shape ()."""
    return (gram - target).square().sum() / (2 * gram.shape[0]) ** 2


def content_loss(features: Tensor, target: Tensor) -> Tensor:
    """Half the mean squared difference of features; shape ().

    Departure from equation 1, a sum, with which the balance of content and style depends on the image's size.
    """
    return (features - target).square().mean() / 2


def full_precision(features: Tensor) -> Tensor:
    """Features in at least float32: 8 bits of mantissa do not suffice for sums over a million positions."""
    return features.float() if features.dtype in (torch.bfloat16, torch.float16) else features


class Objective(ABC):
    """The function that an optimiser minimises. Every strategy is an objective; all compute the same loss.

    Attributes:
        loss_scale: scales the loss in the backward pass of float16.
    """

    loss_scale: LossScale

    @abstractmethod
    def __call__(self, image: Tensor) -> Tensor:
        """Loss at `image`, detached, shape (); sets `image.grad` to the gradient, shape of the image."""

    def gradient_is_finite(self, image: Tensor) -> bool:
        """Whether the latest gradient was finite. Waits for the device."""
        return self.loss_scale.was_finite() and (image.grad is None or bool(is_finite(image.grad)))

    def on_progress(self, report: Callable[[int, int], None]) -> None:
        """Call `report(done, total)` after each tile; does nothing for objectives without tiles."""
        del report

    def algorithms(self) -> Mapping[str, Any]:
        """Algorithms that the objective chose in place of the library's, for the record; empty if there are none."""
        return {}

    def compile_seconds(self) -> float | None:
        """Time that the first evaluation spent on compilation; None if nothing is compiled."""
        return None


@dataclass(frozen=True)
class StyleTask:
    """The input of an objective. Images have shape (1, 3, height, width), in [0, 1].

    Attributes:
        network: a precision of 16 bits stores its weights; given with others, it is copied.
        tile_px: side of the tiles, for strategies with tiles; 0 for the strategy's default.
    """

    network: StyleNetwork
    content: Tensor
    style: Tensor
    precision: str = "float32"
    tile_px: int = 0

    def __post_init__(self) -> None:
        if self.precision in _HALF:
            object.__setattr__(self, "network", self.network.in_type(frozen_type(self.precision)))


def loss_scale_of(task: StyleTask) -> LossScale:
    """The loss scale of the task's image."""
    return LossScale(first_scale(task.precision, task.content[0, 0].numel()), task.content)


def loss_value(objective: Objective, image: Tensor, loss: Tensor | None) -> float | None:
    """The latest loss as a number, NaN if its gradient was not finite; None before the first. Waits for the device."""
    if loss is None:
        return None
    return float(loss) if objective.gradient_is_finite(image) else math.nan


class PlainObjective(Objective):
    """The formulation of the paper, differentiated by autograd.

    A loop over a chain of layers with loss modules in it, the usual program, does the same operations, and turn by turn
    takes no less time (docs/results.md). What differs from process to process, in both, is how much memory glibc
    returns to the kernel: 0 to 33 000 page faults an iteration at 256 px, 4 to 5 microseconds each on a Zen 3, at most
    8 % of an iteration. `fastest` keeps its memory, and has none.
    """

    def __init__(self, task: StyleTask) -> None:
        self._network = network = task.network
        self._precision = task.precision
        self.loss_scale = loss_scale_of(task)
        self._normalisation = Normalisation(network, task.content)
        with torch.no_grad(), style_arithmetic(task.precision, task.content):
            for name, features in self._features(task.content):
                if name == network.content_layer:
                    self._content_target = full_precision(features)
            self._gram_targets = {
                name: gram_matrix(full_precision(features))
                for name, features in self._features(task.style)
                if name in network.style_layers
            }

    def __call__(self, image: Tensor) -> Tensor:
        return self.loss_scale.settle(lambda: self._evaluate(image))

    def _evaluate(self, image: Tensor) -> Tensor:
        image.grad = None
        with style_arithmetic(self._precision, image):
            loss = self.loss(image)
            (loss * self.loss_scale.factor).backward()
        if image.grad is not None:
            self.loss_scale.unscale(image.grad)
        return loss.detach()

    def loss(self, image: Tensor) -> Tensor:
        """Loss at `image` with its autograd graph, shape (); called within `arithmetic`.

        Each layer's loss is computed as soon as its features are. Autograd runs last what was computed last: after all
        layers, it would compute all gradients of losses first, and hold them, as large as features, until its turn.
        """
        terms = [self._loss_at(name, features) for name, features in self._features(image)]
        return torch.stack(terms).sum()

    def _loss_at(self, name: str, features: Tensor) -> Tensor:
        """Sum of the losses at layer `name`, shape ()."""
        network = self._network
        # In full precision, whatever the precision of the convolutions.
        exact = full_precision(features)
        loss = exact.new_zeros(())
        if name == network.content_layer:
            loss = loss + network.content_weight * content_loss(exact, self._content_target)
        if name in network.style_layers:
            weight = network.style_weight * network.style_layers[name]
            loss = loss + weight * style_loss(self._gram(exact), self._gram_targets[name])
        return loss

    def _gram(self, features: Tensor) -> Tensor:
        return gram_matrix(features)

    def _normalise(self, image: Tensor) -> Tensor:
        return self._normalisation(image)

    def _features(self, image: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Name and features of each loss layer, before the layers behind it are computed."""
        features = self._normalise(image)
        for name, layer in self._network.layers.named_children():
            features = layer(features)
            if name in self._network.loss_layers:
                yield name, features


def lay_out_channels_last(network: StyleNetwork) -> None:
    """Store the frozen weights channels last in memory, layer by layer, without a second copy of all weights."""
    for layer in network.layers.modules():
        if isinstance(layer, nn.Conv2d):
            # Not by Module.to, which swaps tensors: fake tensors do not support that.
            weight = layer.weight.detach().contiguous(memory_format=torch.channels_last)
            layer.weight = nn.Parameter(weight, requires_grad=False)
