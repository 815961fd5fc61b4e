"""Statistics of a group normalisation over a whole image, summed strip by strip, and what is computed with them.

Mean and sum of squared deviations of a strip are merged into those of the strips before it (Chan, Golub & LeVeque 1983,
"Algorithms for computing the sample variance", equations 1.5) in float64. A strip's own sums are in float32, or in
float64 for numbers in float64.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import relu, silu

from models.streaming.operations import Normalisation

# Numbers whose copies in float32, or deviations, are there at a time: 2 MiB, which stay in a core's cache.
_VALUES_AT_A_TIME = 2**19


class NormStatistics:
    """Mean and variance of each group of one normalisation, then its output and gradient.

    Call `add` with every row of the input once, then `finish`, then `apply`. For the gradient, call `add_gradient` with
    every row once, then `finish_gradient`, then `input_gradient`.
    """

    def __init__(self, norm: Normalisation) -> None:
        self._norm = norm
        self._count = 0
        self._mean = self._squares = torch.zeros(0)
        self._gradient_sums: Tensor | None = None
        self.finished = self.gradient_finished = False

    def add(self, rows: Tensor) -> None:
        """Merge rows, shape (1, channels, rows, width)."""
        for positions in rows.permute(0, 2, 3, 1).flatten(0, 2).split(_VALUES_AT_A_TIME // rows.shape[1]):
            values = wide(positions)
            count, per_group = values.shape[0], values.shape[1] // self._norm.groups
            means = values.mean(0)
            # A copy in float32 is this function's own.
            deviations = values - means if values is positions else values.sub_(means)
            squares = deviations.mul_(deviations).sum(0)
            means, squares = (sums.double().view(self._norm.groups, -1) for sums in (means, squares))
            mean = means.mean(1)
            squares = squares.sum(1) + count * (means - mean[:, None]).square().sum(1)
            self._merge(count * per_group, mean, squares)

    def sums(self) -> tuple[int, Tensor]:
        """The count of each group, and means and sums of squared deviations, shape (2, groups), in float64."""
        return self._count, torch.stack((self._mean, self._squares))

    def replace(self, counts: Sequence[int], sums: Iterable[Tensor]) -> None:
        """Take the place of several parts' counts and `sums`, in their order."""
        self._count = 0
        for count, (mean, squares) in zip(counts, sums, strict=True):
            self._merge(count, mean, squares)

    def finish(self) -> None:
        """All rows were added."""
        norm, self.finished = self._norm, True
        deviation = (self._squares / self._count + norm.epsilon).rsqrt()
        self._deviation, self._center = self._by_channel(deviation), self._by_channel(self._mean)
        self._gain = norm.weight.view(1, -1, 1, 1).to(self._center.dtype)
        self._scale = self._deviation * self._gain
        # In float64: the two terms may be large and nearly cancel.
        exact = deviation.repeat_interleave(norm.weight.numel() // norm.groups) * norm.weight.double()
        offset = norm.bias.double() - self._mean.repeat_interleave(norm.weight.numel() // norm.groups) * exact
        self._offset = offset.view(1, -1, 1, 1).to(self._center.dtype)

    def apply(self, rows: Tensor) -> Tensor:
        """The normalised rows, behind the activation, as a new tensor."""
        if rows.dtype == self._scale.dtype:
            return self._activated(self._normalised(rows))
        out = torch.empty_like(rows)
        height = max(1, _VALUES_AT_A_TIME // (rows.shape[1] * rows.shape[3]))
        for source, target in zip(rows.split(height, 2), out.split(height, 2), strict=True):
            target.copy_(self._activated(self._normalised(source)))
        return out

    def _activated(self, normalised: Tensor) -> Tensor:
        if self._norm.activation == "silu":
            return silu(normalised, inplace=True)
        return relu(normalised, inplace=True) if self._norm.activation == "relu" else normalised

    def add_gradient(self, gradient: Tensor, rows: Tensor) -> None:
        """Add to the two sums of each group that the gradient needs.

        Args:
            gradient: at the output, shape (1, channels, rows, width).
            rows: of the input, of the same shape.
        """
        direct, standard = self._direct(gradient, rows)
        sums = torch.stack((_positions(direct).sum(0), _positions(direct.mul_(standard)).sum(0))).double()
        self._gradient_sums = sums if self._gradient_sums is None else self._gradient_sums + sums

    def finish_gradient(self) -> None:
        """The gradient of all rows was added."""
        assert self._gradient_sums is not None
        groups = self._gradient_sums.view(2, self._norm.groups, -1).sum(2) / self._count
        self._mean_direct, self._mean_product = (self._by_channel(mean) for mean in groups)
        self._gradient_sums, self.gradient_finished = None, True

    def input_gradient(self, gradient: Tensor, rows: Tensor) -> Tensor:
        """The gradient at the input (Wu & He 2018, as batch normalisation of Ioffe & Szegedy 2015, section 3).

        With x' the standardised input and d the gradient at it: (d - mean(d) - x' mean(d x')) / deviation.
        """
        direct, standard = self._direct(gradient, rows)
        through = direct.sub_(self._mean_direct).addcmul_(standard, self._mean_product, value=-1)
        return through.mul_(self._deviation).to(gradient.dtype)

    def _merge(self, count: int, mean: Tensor, squares: Tensor) -> None:
        if not self._count:
            self._count, self._mean, self._squares = count, mean, squares
            return
        delta, total = mean - self._mean, self._count + count
        self._mean = self._mean + delta * (count / total)
        self._squares = self._squares + squares + delta.square() * (self._count * count / total)
        self._count = total

    def _normalised(self, rows: Tensor) -> Tensor:
        return torch.addcmul(self._offset, wide(rows), self._scale)

    def _direct(self, gradient: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient at the standardised input, and that input."""
        gradient = wide(gradient)
        if self._norm.activation == "silu":
            gradient = torch.ops.aten.silu_backward(gradient, self._normalised(rows))
        elif self._norm.activation == "relu":
            gradient = gradient * (self._normalised(rows) > 0)
        return gradient * self._gain, (wide(rows) - self._center) * self._deviation

    def _by_channel(self, values: Tensor) -> Tensor:
        """Values of groups as those of channels, shape (1, channels, 1, 1), in float64 or float32."""
        wide = torch.float64 if self._norm.weight.dtype == torch.float64 else torch.float32
        return values.repeat_interleave(self._norm.weight.numel() // self._norm.groups).view(1, -1, 1, 1).to(wide)


def wide(rows: Tensor) -> Tensor:
    """The same numbers, in float32 if they have 16 bits."""
    return rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows


def _positions(rows: Tensor) -> Tensor:
    """Shape (positions, channels)."""
    return wide(rows).permute(0, 2, 3, 1).flatten(0, 2)
