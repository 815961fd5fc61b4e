"""A user's plugin whose models end or disturb their worker in `forward`, in ways that models have been seen to."""

import ctypes
import errno
import functools
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable

import torch
from torch import nn

from models.network import StyleNetwork

MODELS: dict[str, Callable[[], StyleNetwork]] = {}
# Processes and threads that a model has started in its worker: it starts them only once.
STARTED: list[str] = []


class FailingConvolution(nn.Conv2d):
    """A convolution that fails with real images only, not when sizes are determined or memory is predicted."""

    def __init__(self, failure: Callable[[], float | None]) -> None:
        super().__init__(3, 4, 3, padding=1)
        self._failure = failure

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if type(image) is not torch.Tensor or image.device.type != "cpu":
            return super().forward(image)
        factor = self._failure()
        return super().forward(image) * (1.0 if factor is None else factor)


def model(failure: Callable[[], float | None]) -> Callable[[], StyleNetwork]:
    """A model with the name of the failure."""

    @functools.wraps(failure)
    def network() -> StyleNetwork:
        layers = nn.Sequential()
        with torch.device("meta"):
            layers.add_module("conv1", FailingConvolution(failure))
        return StyleNetwork(layers, "conv1", {"conv1": 1.0})

    MODELS[failure.__name__] = network
    return network


def pytest_goghmark_models(add):
    for name, network in MODELS.items():
        add(name, network)


@model
def sigkill():
    os.kill(os.getpid(), signal.SIGKILL)


@model
def sigterm():
    os.kill(os.getpid(), signal.SIGTERM)


@model
def sigint():
    os.kill(os.getpid(), signal.SIGINT)


@model
def sigstop():
    os.kill(os.getpid(), signal.SIGSTOP)


@model
def segfault():
    ctypes.string_at(0)


@model
def abort():
    os.abort()


@model
def exit_0():
    os._exit(0)


@model
def exit_7():
    os._exit(7)


@model
def system_exit():
    raise SystemExit(3)


@model
def keyboard_interrupt():
    raise KeyboardInterrupt


@model
def nan():
    return float("nan")


@model
def sleep():
    time.sleep(1000)


@model
def regular_expression():
    re.match(r"(a+)+$", "a" * 60 + "b")  # never ends, and holds the interpreter lock


@model
def memory_balloon():
    tensors = []
    while True:
        tensors.append(torch.empty(2**26))  # not written to: on a busy machine that takes seconds per GiB


@model
def grandchildren():
    if STARTED:
        return
    for _ in range(3):
        STARTED.append("a process")
        if os.fork() == 0:
            time.sleep(1000)


@model
def recursion():
    return recursion_without_end(0)


def recursion_without_end(depth):
    return recursion_without_end(depth + 1)


@model
def closed_descriptors():
    os.closerange(0, 1024)


@model
def flood_on_stdout():
    for _ in range(20):
        sys.stdout.write("o" * 2**20)
    os._exit(7)


@model
def flood_on_stderr():
    for _ in range(200_000):
        sys.stderr.write("a line of no interest\n")
    os._exit(7)


@model
def threads():
    if STARTED:
        return
    for _ in range(4):
        STARTED.append("a thread")
        threading.Thread(target=time.sleep, args=(1000,)).start()


@model
def no_space():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@model
def surrogate():
    raise RuntimeError("\ud800 is no character")


@model
def long_text():
    raise RuntimeError("head " + "x" * 50_000_000 + " tail")
