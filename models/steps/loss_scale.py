"""The factor of the loss in the backward pass of float16, which follows the range of the gradients.

Micikevicius et al. 2018, section 3.2, "Mixed Precision Training". A factor that is too small lets gradients underflow,
one that is too large lets them overflow. The first evaluation is repeated with smaller factors until its gradient is
finite. Later ones never wait for the device: it decides by itself, and an overflow gives a gradient of zero, so that
the optimiser's state stays valid.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

T = TypeVar("T")

# Powers of two cause no rounding. Growth as in torch.amp.GradScaler.
_FIRST_BACKOFF, _BACKOFF, _GROWTH, _GROWTH_INTERVAL = 1 / 16, 1 / 2, 2.0, 2000
_LEAST, _LARGEST = 2.0**-14, 2.0**24


def first_scale(precision: str, pixels: int) -> float:
    """The factor of the first evaluation; 1 for a precision with the range of float32.

    The losses are means over positions, so gradients are proportional to 1 / pixels and underflow float16 (below 6e-8)
    from about 512 px on. Hence the number of pixels, rounded to a power of two.
    """
    return 2.0 ** (pixels.bit_length() - 1) if precision == "float16" else 1.0


class LossScale:
    """The factor of one image's loss.

    Args:
        first: the factor to begin with; 1 for none.
        image: the factor gets its device and type.
    """

    def __init__(self, first: float, image: Tensor) -> None:
        self._scales = first != 1.0
        self._settled = not self._scales
        if self._scales:
            self._factor = image.new_full((), first)
            # Finite gradients since the last change of the factor, and gradients in a row that were not finite.
            self._streak, self._failures = image.new_zeros(2, dtype=torch.int64).unbind()

    @property
    def factor(self) -> float | Tensor:
        """For the next evaluation: 1, or a tensor of shape ()."""
        return self._factor if self._scales else 1.0

    def unscale(self, *gradients: Tensor) -> None:
        """Divide gradients by the factor, in place; all become zero if one is not finite. Then adapt the factor."""
        if not self._scales:
            return
        with torch.no_grad():
            finite = torch.stack([is_finite(gradient) for gradient in gradients]).all()
            for gradient in gradients:
                gradient.div_(self._factor).masked_fill_(~finite, 0.0)
            self._streak.add_(1).mul_(finite)
            self._failures.add_(1).mul_(~finite)
            grows = self._streak >= _GROWTH_INTERVAL
            self._streak.mul_(~grows)
            backoff = _BACKOFF if self._settled else _FIRST_BACKOFF
            change = torch.where(finite, torch.where(grows, _GROWTH, 1.0), backoff)
            self._factor.mul_(change).clamp_(_LEAST, _LARGEST)

    def settle(self, evaluate: Callable[[], T]) -> T:
        """The result of `evaluate`, which calls `unscale`; the first time repeated until its gradient is finite."""
        result = evaluate()
        while not self._settled:
            # Fake tensors, which predict memory, have no values.
            if isinstance(self._factor, FakeTensor) or int(self._failures) == 0 or float(self._factor) <= _LEAST:
                self._settled = True
            else:
                result = evaluate()
        return result

    def was_finite(self) -> bool:
        """Whether the latest gradients were finite; one overflow, after the factor has grown, is normal. Waits."""
        return not self._scales or int(self._failures) < 2


def is_finite(gradient: Tensor) -> Tensor:
    """Whether all numbers of a tensor are finite, shape (); without a temporary of its size."""
    if gradient.numel() == 0:  # of a rank without tiles; an empty tensor has no largest number
        return gradient.new_ones((), dtype=torch.bool)
    return torch.linalg.vector_norm(gradient, math.inf).isfinite()
