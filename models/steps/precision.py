"""Floating-point precision of an iteration, as an axis that crosses with everything else."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@contextlib.contextmanager
def arithmetic(precision: str, device_type: str) -> Iterator[None]:
    """Run what is inside with `precision`: the backends' float32 products and torch's autocast are set for it.

    float32 means float32: cuDNN's default of TF32 inside convolutions is switched off.
    """
    tf32 = precision == "tf32"
    products = "tf32" if tf32 else "ieee"
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = products
    try:
        if precision in _AUTOCAST:
            with torch.autocast(device_type, dtype=_AUTOCAST[precision]):
                yield
        else:
            yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value


def loss_scale(precision: str, pixels: int) -> float:
    """What to multiply the loss with before the backward pass (Micikevicius et al. 2018, section 3.2).

    The losses are means over positions, so gradients shrink with the number of pixels and leave float16's range
    (6e-8) from about 512 px on. The nearest power of two undoes that and rounds nothing.
    """
    return 2.0 ** (pixels.bit_length() - 1) if precision == "float16" else 1.0
