"""`compiled`: the plain formulation through torch.compile, forward and backward."""

import time

import torch
from torch import Tensor

from models.errors import Unsupported
from models.steps.objective import PlainObjective, StyleTask


class CompiledObjective(PlainObjective):
    """Compiles in its first call, which runs twice: what the first run takes longer than the second is compilation.

    torch keeps compiled code on disk, so that a second worker finds most of it there.

    Attributes:
        compile_seconds: how long the compilation took; None before the first call.

    Raises:
        Unsupported: there is no compiler here, or it cannot compile this network.
    """

    def __init__(self, task: StyleTask) -> None:
        super().__init__(task)
        self._compiled = torch.compile(super().loss, dynamic=False)
        self.compile_seconds: float | None = None

    def __call__(self, image: Tensor) -> Tensor:
        if self.compile_seconds is None:
            first, second = (self._timed(image) for _ in range(2))
            self.compile_seconds = max(0.0, first - second)
        return super().__call__(image)

    def loss(self, image: Tensor) -> Tensor:
        return self._compiled(image)

    def _timed(self, image: Tensor) -> float:
        start = time.perf_counter()
        try:
            loss = super().__call__(image)
        except Exception as error:
            if _of_compiler(error):
                reason = str(error).strip().splitlines()[0]
                raise Unsupported(f"torch.compile does not work here ({reason}); use another --strategy") from error
            raise
        float(loss)  # waits for the device
        return time.perf_counter() - start


def _of_compiler(error: Exception) -> bool:
    """Whether the compiler failed, rather than what it made."""
    return any(kind.__module__.startswith(("torch._dynamo", "torch._inductor")) for kind in type(error).__mro__)
