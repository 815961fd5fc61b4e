"""A user's plugin whose models do to their worker, in `forward`, what models have been seen to do, and worse."""

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
# What a model has left behind in its worker: once is enough.
LEFT: list[str] = []


class Deadly(nn.Conv2d):
    """A convolution with an accident, which happens with real images only: sizes and memory are found without."""

    def __init__(self, accident: Callable[[], float | None]) -> None:
        super().__init__(3, 4, 3, padding=1)
        self._accident = accident

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if type(image) is not torch.Tensor or image.device.type != "cpu":
            return super().forward(image)
        factor = self._accident()
        return super().forward(image) * (1.0 if factor is None else factor)


def model(accident: Callable[[], float | None]) -> Callable[[], StyleNetwork]:
    """A model named like the accident."""

    @functools.wraps(accident)
    def network() -> StyleNetwork:
        layers = nn.Sequential()
        with torch.device("meta"):
            layers.add_module("conv1", Deadly(accident))
        return StyleNetwork(layers, "conv1", {"conv1": 1.0})

    MODELS[accident.__name__] = network
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
    re.match(r"(a+)+$", "a" * 60 + "b")  # for ever, and holds the interpreter lock


@model
def memory_balloon():
    held = []
    while True:
        held.append(torch.empty(2**26))  # not written to: a busy machine takes seconds to hand a GiB out


@model
def grandchildren():
    if LEFT:
        return
    for _ in range(3):
        LEFT.append("a process")
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
    if LEFT:
        return
    for _ in range(4):
        LEFT.append("a thread")
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
