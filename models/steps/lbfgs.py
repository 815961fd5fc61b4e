"""L-BFGS without a line search, for one image, whose host never waits for the device.

The steps are those of torch.optim.LBFGS with max_iter=1 (Liu & Nocedal 1989, "On the limited memory BFGS method for
large scale optimization"). torch reads eight numbers on the host per step, and makes four passes over vectors for each
pair of the history, one after the other. Here the direction comes from the compact representation of the inverse
Hessian (Byrd, Nocedal & Schnabel 1994, "Representations of quasi-Newton matrices and their use in limited memory
methods", theorem 2.2 and section 3.2):

    H = c I + [S  c Y] [ R^-T (D + c Y^T Y) R^-1   -R^-T ] [  S^T  ]
                       [        -R^-1                0   ] [ c Y^T ]

with pairs as the columns of S (steps) and Y (differences of gradients), R the upper triangle of S^T Y, D its diagonal,
and c = s^T y / y^T y of the newest pair. A step takes one pass over the history for all products with the gradient,
two triangular systems of the history's length, and one pass for the direction. Products of old pairs with the newest y
are differences of the products with two gradients; section 3.2 does so, too.

Every decision is taken on the device, so that a step queues the same operators always: places of the history that are
not filled yet take part as zeros. The first step takes as long as all others, and memory is complete after it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.linalg import solve_triangular

# Those of torch.optim.LBFGS: a pair enters the history if s^T y is larger; the image stays as it is if no element of
# the gradient is larger, or if the directional derivative is not smaller than minus the last one.
_SMALLEST_CURVATURE = 1e-10
_TOLERANCE_GRADIENT = 1e-7
_TOLERANCE_CHANGE = 1e-9

# Elements of a vector that are processed together: so many of every row of the history. On cpu they stay in a cache
# between the operators that read them; on an accelerator a launch must be worth its time.
_CPU_CHUNK, _ACCELERATOR_CHUNK = 1 << 16, 1 << 22
# Sums over pixels beside the products of all rows with the gradient.
_FURTHER_SUMS = 5


def history_images(history: int) -> int:
    """Number of images that a history of so many pairs takes: two for each, and two for the pair that may enter it."""
    return 2 * (history + 1)


def message_numbers(history: int) -> int:
    """Number of sums over pixels in a step; over ranks they are one message, in float64."""
    return history_images(history) + _FURTHER_SUMS


SumOverRanks = Callable[[Tensor], None]


def of_one_rank(sums: Tensor) -> None:
    """The sums over all ranks where there is only one: as they are."""
    del sums


class LBFGS(torch.optim.Optimizer):
    """L-BFGS with a fixed step length, evaluating its closure once per step.

    The history is a ring of pairs in memory that the first step allocates, with the pending pair behind it: the latest
    step s and minus its gradient, which becomes y with the next gradient. A pair that is accepted is copied over the
    oldest one.

    Memory beside the gradient: `history_images(history)` images, and less than one of workspace.

    Args:
        image: any shape; need not be contiguous.
        history: number of pairs, at least 1.
        lr: length of a step in units of the direction; the first is at most one in the 1-norm, as torch's.
        sum_over_ranks: replaces sums over the pixels of this rank by those over all ranks, in place. `image` is then
            this rank's part of an image.

    Raises:
        ValueError: the history is shorter than one pair.
    """

    def __init__(
        self, image: Tensor, history: int, lr: float = 1.0, sum_over_ranks: SumOverRanks = of_one_rank
    ) -> None:
        if history < 1:
            raise ValueError(f"a history of {history} pairs; L-BFGS needs at least 1")
        super().__init__([image], {"lr": lr, "history_size": history})
        self._sum_over_ranks = sum_over_ranks

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        """Evaluate the closure, which sets the image's gradient, and move the image; returns the closure's loss."""
        with torch.enable_grad():
            loss = closure()
        [group] = self.param_groups
        [image] = group["params"]
        if not self.state[image]:
            self.state[image] = _first_state(image, group["history_size"])
        rows, gradient = self.state[image]["rows"], image.grad.reshape(-1)
        sums = _sums(rows, gradient)
        self._sum_over_ranks(sums)
        place, factors, of_gradient, moves = _update(self.state[image], sums, group["lr"])
        _advance(rows, place, gradient, factors.to(gradient), of_gradient.to(gradient))
        image.addcmul_(rows[-2].view(image.shape), moves.to(gradient))
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but every tensor keeps its type; torch would turn all into that of the image."""
        super().load_state_dict(state_dict)
        [image] = self.param_groups[0]["params"]
        for key, value in state_dict["state"].get(0, {}).items():
            self.state[image][key] = value.to(image.device)


def _first_state(image: Tensor, history: int) -> dict[str, Tensor]:
    """The state before the first step.

    Keys, with n = history:
        rows: shape (2 n + 2, pixels): s and y of each place, and of the pending pair behind all places.
        oldest: place of the oldest pair, shape (1,).
        products: s^T g and y^T g by place, with the latest gradient, shape (n + 1, 2).
        steps_differences, differences: S^T Y and Y^T Y by place, shape (n + 1, n + 1).
        scale: c, shape ().
        steps_done: number of steps that were not stopped by the gradient's tolerance, shape ().
    """
    exact = _exact_type(image)
    return {
        "rows": image.new_zeros(history_images(history), image.numel()),
        "oldest": image.new_zeros(1, dtype=torch.int64),
        "products": image.new_zeros(history + 1, 2, dtype=exact),
        "steps_differences": image.new_zeros(history + 1, history + 1, dtype=exact),
        "differences": image.new_zeros(history + 1, history + 1, dtype=exact),
        "scale": image.new_ones((), dtype=exact),
        "steps_done": image.new_zeros((), dtype=torch.int64),
    }


def _exact_type(tensor: Tensor) -> torch.dtype:
    """The type of sums over pixels and of the small matrices: float64, which Apple's GPUs lack."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def _chunks(vector: Tensor) -> Iterator[slice]:
    length = _CPU_CHUNK if vector.device.type == "cpu" else _ACCELERATOR_CHUNK
    return (slice(start, start + length) for start in range(0, vector.numel(), length))


def _sums(rows: Tensor, gradient: Tensor) -> Tensor:
    """Complete the pending pair, and compute all sums over pixels that a step needs, shape (`message_numbers`,).

    Products of all rows with the gradient g; of the pending pair s^T y and y^T y; then g^T g, the 1-norm of g, and in
    how many chunks the gradient exceeds the tolerance, or is NaN.
    """
    sums = torch.zeros(len(rows) + _FURTHER_SUMS, dtype=_exact_type(rows), device=rows.device)
    for chunk in _chunks(gradient):
        part, g = rows[:, chunk], gradient[chunk]
        s, y = part[-2], part[-1].add_(g)
        sizes = g.abs()
        # Not `>`, which is false for NaN: torch does not stop there.
        large = (sizes.amax() <= _TOLERANCE_GRADIENT).logical_not()
        sums += torch.cat([part.mv(g), torch.stack([s.dot(y), y.dot(y), g.dot(g), sizes.sum(), large.to(g)])])
    return sums


def _update(state: dict[str, Tensor], sums: Tensor, lr: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Decide on the pending pair, update the small matrices, and solve for the step.

    Returns: the place that the pending pair gets, its own if it is refused, shape (1,); factors of the rows of all
    places, and of the gradient, whose sum is the step, shapes (2 n,) and (); and whether the image moves, 0 or 1, shape
    ().
    """
    oldest, matrix, squares = state["oldest"], state["steps_differences"], state["differences"]
    history = len(matrix) - 1
    curvature, y_y, g_g, norm, large = sums[-_FURTHER_SUMS:].unbind()
    accepted = curvature > _SMALLEST_CURVATURE
    place = torch.where(accepted, oldest, history)

    products = sums[:-_FURTHER_SUMS].view(-1, 2)
    of_y = (products - state["products"]).index_copy_(0, place, torch.stack([curvature, y_y]).unsqueeze(0))
    products = state["products"].copy_(products).index_copy_(0, place, products[-1:])
    matrix.index_copy_(1, place, of_y[:, :1])
    squares.index_copy_(1, place, of_y[:, 1:]).index_copy_(0, place, of_y[:, 1:].T)
    scale = state["scale"].copy_(torch.where(accepted, curvature / y_y, state["scale"]))
    oldest.copy_((oldest + accepted) % history)

    ordered = (torch.arange(history, device=sums.device) + oldest) % history
    grid = ordered.unsqueeze(1), ordered
    triangle, gram = matrix[grid].triu_(), squares[grid]
    diagonal = triangle.diagonal().clone()
    # A place that is not filled has zeros everywhere but here: its equation has the solution 0.
    triangle.diagonal().add_(diagonal == 0)
    of_steps, of_differences = products[ordered].unbind(1)
    first = solve_triangular(triangle, of_steps.unsqueeze(1), upper=True).squeeze(1)
    right = diagonal * first + scale * (gram.mv(first) - of_differences)
    second = solve_triangular(triangle.T, right.unsqueeze(1), upper=False).squeeze(1)

    # The direction is -H g.
    slope = (scale * first * of_differences - second * of_steps).sum() - scale * g_g
    factors = torch.stack([-second, scale * first], 1)
    factors = torch.empty_like(factors).index_copy_(0, ordered, factors).flatten()
    # The first direction is minus the gradient, of which a whole step would be too far.
    length = lr * torch.where(state["steps_done"] == 0, (1 / norm).clamp(max=1), 1.0)
    # With a small gradient torch returns at once, and decides on the pending pair later. Here the state goes on, with
    # the same images: without a move the next gradient is the same, y = 0, and that pair is refused.
    continues = large > 0
    state["steps_done"] += continues
    return place, factors * length, -scale * length, continues & ~(slope > -_TOLERANCE_CHANGE)


def _advance(rows: Tensor, place: Tensor, gradient: Tensor, factors: Tensor, of_gradient: Tensor) -> None:
    """Copy the pending pair to its place; then the step and minus the gradient are the pending pair."""
    both = torch.cat([2 * place, 2 * place + 1])
    for chunk in _chunks(gradient):
        part, g = rows[:, chunk], gradient[chunk]
        part.index_copy_(0, both, part[-2:].clone())
        step = torch.mul(g, of_gradient, out=part[-2])
        step.addmv_(part[:-2].T, factors)
        torch.neg(g, out=part[-1])
