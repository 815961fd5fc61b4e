"""The kernels of torch's attention by name: which one computes, and whether a device has it.

What kernels of a device take depends on the precision too: flash attention of CUDA takes numbers of 16 bits only.
Short because the kernels themselves are torch's.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from models.errors import Unsupported

_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
# torch's messages where no permitted kernel takes the tensors, in lower case: on a cpu, and elsewhere.
_NO_KERNEL_TEXTS = ("no viable backend for scaled_dot_product_attention", "no available kernel")
# Every kernel takes a head of this width.
_HEAD_WIDTH = 64


@contextlib.contextmanager
def attention_kernel(name: str) -> Iterator[None]:
    """Within the context, attention is computed by the kernel of that name; `auto` leaves the choice to torch.

    Raises:
        Unsupported: the kernel does not take the tensors.
    """
    if name == "auto":
        yield
        return
    try:
        with sdpa_kernel(_BACKENDS[name]):
            yield
    except RuntimeError as error:
        if not any(text in str(error).lower() for text in _NO_KERNEL_TEXTS):
            raise
        raise Unsupported(
            f"attention kernel {name!r} does not take this model's tensors on this device in this precision; use"
            " --attention=auto, or another --precision"
        ) from error


def runs_on(kernel: str, device: torch.device) -> bool:
    """Whether a kernel runs on a device, in float32 or bfloat16."""
    for precision in (torch.float32, torch.bfloat16):
        tokens = torch.zeros(1, 1, 8, _HEAD_WIDTH, device=device, dtype=precision)
        try:
            with attention_kernel(kernel), torch.no_grad():
                scaled_dot_product_attention(tokens, tokens, tokens)
        except Unsupported:
            continue
        return True
    return False
