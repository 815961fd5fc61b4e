"""Graphs of an accelerator: an iteration is captured once, and replayed with a single launch (torch.cuda.graph).

A replay runs the same kernels on the same addresses. What is captured must therefore not read a number on the host, not
copy from pageable memory, and not depend on anything but the contents of tensors that stay where they are. On CUDA a
capture runs nothing: it only notes what is queued, and memory comes from a pool that the graph keeps. See "CUDA graphs"
in torch's notes on CUDA semantics. The calls before the capture choose algorithms and allocate workspaces; they are on
a stream of their own, because work on the default stream cannot be captured.

Any device whose module in torch follows the naming of `torch.cuda` has graphs: `CUDAGraph` and `graph`, `XPUGraph` and
`graph`.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from models.errors import Unsupported

# As in torch's notes. The loss scale of float16 is settled in the first one.
CALLS_BEFORE_CAPTURE = 3


@dataclass(frozen=True)
class GraphApi:
    """The graphs of a device.

    Attributes:
        create: makes an empty graph, with a method `replay`.
        capturing: a context in which work is captured into the given graph; an error inside, or at its end, refuses it.
        side_stream: a context whose work is on a stream of its own, after all earlier work and before all later work.
    """

    create: Callable[[], Any]
    capturing: Callable[[Any], AbstractContextManager[None]]
    side_stream: Callable[[], AbstractContextManager[None]]


def graph_api(device: torch.device) -> GraphApi:
    """The graphs of a device.

    Raises:
        Unsupported: it has none.
    """
    module = getattr(torch, device.type, None)
    create = getattr(module, f"{device.type.upper()}Graph", None)
    capturing = getattr(module, "graph", None)
    if create is None or capturing is None:
        raise Unsupported(
            f"strategy 'graphed' needs a device with graphs, as cuda has them; {device.type} has none: use another"
            " --strategy"
        )
    return GraphApi(create, capturing, lambda: _side_stream(device))


@contextlib.contextmanager
def _side_stream(device: torch.device) -> Iterator[None]:
    stream, current = torch.Stream(device), torch.accelerator.current_stream(device)
    stream.wait_stream(current)
    with stream:
        yield
    current.wait_stream(stream)


class GraphedCall:
    """A function that is captured in its first call; each call, the first one too, replays it once.

    Args:
        device: on which it runs.

    Raises:
        Unsupported: the device has no graphs.
    """

    def __init__(self, device: torch.device) -> None:
        self._api = graph_api(device)
        self._graph: Any = None

    def __call__(self, run: Callable[[], None]) -> None:
        """Replay the function.

        Args:
            run: the function, the same in every call. Later calls get it again instead of an attribute, which would
                keep the owner of a method alive.

        Raises:
            Unsupported: it cannot be captured; the message has the reason.
        """
        if self._graph is None:
            with self._api.side_stream():
                for _ in range(CALLS_BEFORE_CAPTURE):
                    run()
            self._graph = self._captured(run)
        self._graph.replay()

    def _captured(self, run: Callable[[], None]) -> Any:
        graph = self._api.create()
        try:
            with self._api.capturing(graph):
                run()
        except RuntimeError as error:
            # The end of a capture that failed raises an error of its own, which has no reason.
            first = _first_of(error)
            if isinstance(first, torch.OutOfMemoryError):
                raise first from None
            reason = (str(first).strip().splitlines() or [type(first).__name__])[0]
            raise Unsupported(f"strategy 'graphed': the iteration cannot be captured ({reason})") from error
        return graph


def _first_of(error: BaseException) -> BaseException:
    """The error that was raised first among those that were raised while it was handled."""
    while error.__context__ is not None:
        error = error.__context__
    return error
