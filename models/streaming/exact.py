"""Decode at any size, exactly, with the network that you have: for programs that run out of memory at large sizes.

```python
from models.streaming.exact import decode_exactly

image = decode_exactly(vae, latents, memory_bytes=6 * 2**30, decode=lambda z: vae.decode(z).sample)
```

The image is the network's own, to rounding: normalisation and attention span the whole image, unlike in tiles. Needs
torch alone.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from models.errors import InputError
from models.streaming.decoder import StreamedDecoder
from models.streaming.offloading import OffloadedDecoder
from models.streaming.operations import Chain
from models.streaming.trace import trace
from models.streaming.work import no_progress

# Sides of the latents on which the streams are compared with the network before the decode. Not square, on purpose.
_EXAMPLE_SIDES = (3, 5)
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
_TOLERANCE_16_BITS = 0.1


def decode_exactly(
    network: nn.Module,
    latents: Tensor,
    memory_bytes: int | None = None,
    decode: Callable[[Tensor], Any] | None = None,
    progress: Callable[[float], None] = no_progress,
    maps_on_host: bool = False,
) -> Tensor:
    """The image of latents, by strips of rows, within a memory budget.

    Args:
        network: maps latents to images by convolutions of 1x1 and 3x3, group normalisation, SiLU or ReLU, residual
            sums, nearest upsampling and attention with one head. It is not changed.
        latents: shape (batch, channels, height, width), with the type and device of the network's weights.
        memory_bytes: for everything but weights and latents; None computes every convolution once. The less there is,
            the more is computed again (`docs/exact-decoding.md`).
        decode: what to compute, if it is not `network(latents)`, e.g. `lambda z: vae.decode(z).sample`.
        progress: called with the share of the work that is done.
        maps_on_host: of an accelerator's decode, all maps are kept in pinned memory of the host, and every convolution
            is computed once (`models/streaming/offloading.py`).

    Returns: shape (batch, channels, scale x height, scale x width).

    Raises:
        InputError: the network does something that cannot be computed by strips, which is named with its place; the
            latents do not fit it, or are on the host themselves; or the budget is too small, and then the message says
            what is needed.
    """
    if maps_on_host and latents.device.type == "cpu":
        raise InputError("the latents are on a cpu, whose maps are on the host anyway; leave maps_on_host out")
    chain = _checked_chain(network, latents, decode)
    kind = OffloadedDecoder if maps_on_host else StreamedDecoder
    decoder = kind(chain, latents.shape[2], latents.shape[3], latents, memory_bytes)
    images = _images(chain, latents)
    for index, image in enumerate(images.split(1)):
        decoder.decode(latents[index : index + 1], image, _progress_of(index, len(latents), progress))
    return images


def gradient_exactly(
    network: nn.Module,
    latents: Tensor,
    gradient_of: Callable[[Tensor], Tensor],
    memory_bytes: int | None = None,
    decode: Callable[[Tensor], Any] | None = None,
    progress: Callable[[float], None] = no_progress,
) -> tuple[Tensor, Tensor]:
    """The images of latents, and the gradient of a loss of each image with respect to its latents.

    Args:
        gradient_of: from an image, shape (1, channels, height, width), to the gradient of its loss with respect to it.
        network, latents, memory_bytes, decode, progress: as in `decode_exactly`.

    Raises:
        InputError: as in `decode_exactly`.
    """
    chain = _checked_chain(network, latents, decode)
    decoder = StreamedDecoder(chain, latents.shape[2], latents.shape[3], latents, memory_bytes, gradient=True)
    images = _images(chain, latents)
    gradients = [
        decoder.gradient(latents[index : index + 1], image, gradient_of, _progress_of(index, len(latents), progress))
        for index, image in enumerate(images.split(1))
    ]
    return images, torch.cat(gradients)


def _progress_of(index: int, images: int, progress: Callable[[float], None]) -> Callable[[float], None]:
    """What takes the share of one image, and reports that of all."""
    return lambda share: progress((index + share) / images)


def _images(chain: Chain, latents: Tensor) -> Tensor:
    height, width = (chain.scales[-1] * side for side in latents.shape[2:])
    return latents.new_empty(len(latents), chain.channels[-1], height, width)


def _checked_chain(network: nn.Module, latents: Tensor, decode: Callable[[Tensor], Any] | None) -> Chain:
    """The network's chain, after a comparison of both on a small example."""
    if latents.dim() != 4 or not latents.numel():
        raise InputError(
            f"latents have the shape {tuple(latents.shape)}; give (batch, channels, height, width), none of them 0"
        )
    weight = next(network.parameters(), latents)
    if (weight.dtype, weight.device) != (latents.dtype, latents.device):
        raise InputError(
            f"latents are {latents.dtype} on {latents.device}, weights {weight.dtype} on {weight.device}; convert the"
            " latents with latents.to(weight)"
        )
    chain = trace(network, latents.shape[1], decode)
    generator = torch.Generator(device="cpu").manual_seed(0)
    example = torch.randn(1, latents.shape[1], *_EXAMPLE_SIDES, generator=generator).to(latents)
    decoder, image = StreamedDecoder(chain, *_EXAMPLE_SIDES, example, strip_positions=1), _images(chain, example)
    decoder.decode(example, image)
    with torch.no_grad():
        expected = _first_tensor((decode or network)(example))
    tolerance = _TOLERANCE.get(latents.dtype, _TOLERANCE_16_BITS)
    if expected.shape != image.shape or (image - expected).norm() > tolerance * expected.norm():
        raise InputError(
            "the streams compute something else than the network on a small example, so that the network depends on"
            " more than its latents, or on their size; put it into eval mode, or pass what it computes as `decode`"
        )
    return chain


def _first_tensor(output: Any) -> Tensor:
    """The image in what a network returns: itself, the first of a tuple, or the first of diffusers' output."""
    if isinstance(output, Tensor):
        return output
    first = next(iter(output.values() if hasattr(output, "values") else output))
    assert isinstance(first, Tensor)
    return first
