"""What all compiled steps share: the time that compiling takes, and which errors are the compiler's."""

import time
from collections.abc import Callable

import torch

from models.errors import Unsupported

# Modules of exceptions that only compilers raise. Triton builds its launcher with a C compiler, and says in a plain
# RuntimeError that there is none.
_COMPILERS = ("torch._dynamo", "torch._inductor", "torch._functorch", "triton")
_COMPILER_TEXTS = ("c compiler", "c++ compiler", "triton")


class Compilation:
    """Runs compiled code for the first time, which compiles it.

    Attributes:
        seconds: what compiling took; None before.
    """

    def __init__(self) -> None:
        self.seconds: float | None = None

    def finish(self, run: Callable[[], None]) -> None:
        """Compile, unless that is done: what the first run takes longer than the second one is the time for it.

        Args:
            run: runs the code and waits for the device.

        Raises:
            Unsupported: there is no compiler, or it cannot compile this code.
        """
        if self.seconds is None:
            first, second = (_seconds_of(run) for _ in range(2))
            self.seconds = max(0.0, first - second)


def _seconds_of(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    try:
        run()
    except Exception as error:
        if _is_compiler_error(error):
            raise Unsupported(f"torch.compile does not work here ({_reason(error)}); use another --strategy") from error
        raise
    return time.perf_counter() - start


def _is_compiler_error(error: BaseException) -> bool:
    """Whether the error is the compiler's, not that of the compiled code, nor lack of memory while it compiles."""
    chain = _chain(error)
    if any(isinstance(one, MemoryError | torch.OutOfMemoryError) for one in chain):
        return False
    types = {base for one in chain for base in type(one).__mro__}
    return any(kind.__module__.startswith(_COMPILERS) for kind in types) or any(
        text in str(one).lower() for one in chain if type(one) is RuntimeError for text in _COMPILER_TEXTS
    )


def _chain(error: BaseException) -> list[BaseException]:
    """The error, and those that caused it."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        # What torch's compiler wraps a backend's error in keeps it in an attribute.
        current = getattr(current, "inner_exception", None) or current.__cause__
    return chain


def _reason(error: BaseException) -> str:
    """The first line of the innermost error that has a text, else the name of its type."""
    chain = _chain(error)
    texts = [str(one).strip() for one in reversed(chain)]
    return next((text.splitlines()[0] for text in texts if text), type(chain[-1]).__name__)
