"""Loading weights: seeded random ones, torchvision's ImageNet weights, or a file."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.errors import InputError
from models.network import StyleNetwork


class Uninitialised(TorchFunctionMode):
    """Within it `torch.nn.init` leaves tensors as they are, for a network whose weights are loaded next.

    Layers initialise themselves when they are made, a fifth of the time of a prediction of a small cell.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def load(
    network: StyleNetwork, weights: str, device: torch.device, seed: int = 0, dtype: torch.dtype | None = None
) -> None:
    """Load the network's weights and freeze them: only the image is optimised. Layers may be on the meta device.

    Args:
        weights: `random`, `imagenet`, or the path of a `.pth` or `.safetensors` state dict. Its keys are layer names
            (`conv1_1.weight`) or indices of layers as in torchvision (`features.0.weight`).

    Raises:
        InputError: the weights do not exist or cannot be read, or a tensor is missing or has another shape.
    """
    layers = network.layers
    if weights == "random":
        assign(layers, random_tensors(layers, seed), device, dtype)
    else:
        source = _download(network) if weights == "imagenet" else read_state(Path(weights))
        state = _by_layer_name(layers, source)
        check_shapes(layers, state, weights)
        assign(layers, state.items(), device, dtype)
    layers.requires_grad_(False).eval()


def assign(
    network: nn.Module, tensors: Iterable[tuple[str, Tensor]], device: torch.device, dtype: torch.dtype | None = None
) -> None:
    """Give a network, which may be on the meta device, tensors by key; each is moved or converted before the next.

    Args:
        dtype: of those of floating point; by default, torch's default type.
    """
    dtype = dtype or torch.get_default_dtype()
    state = {key: value.to(device, dtype if value.is_floating_point() else value.dtype) for key, value in tensors}
    network.load_state_dict(state, assign=True)


def random_tensors(network: nn.Module, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Key and value of each tensor of a network, which may be on the meta device: seeded random weights, one by one.

    Variance as in He et al. 2015, equation 10: activations of a ReLU network keep their scale, so that float16 neither
    overflows nor underflows. Drawn on the CPU, so that every device gets the same numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    for key, expected in network.state_dict().items():
        if expected.dim() > 1:
            # In place: a copy of a classifier's largest weight would raise the peak memory.
            yield key, torch.randn(expected.shape, generator=generator).mul_((2.0 / expected[0].numel()) ** 0.5)
        elif key.endswith(("weight", "running_var")):  # of a normalisation layer: scale and variance start at 1
            yield key, torch.ones(expected.shape, dtype=expected.dtype)
        else:
            yield key, torch.zeros(expected.shape, dtype=expected.dtype)


def _download(network: StyleNetwork) -> Mapping[str, Tensor]:
    if network.imagenet is None:
        raise InputError("this model has no ImageNet weights to download; use --weights=random or --weights=PATH")
    try:
        return network.imagenet()
    except (URLError, OSError, RuntimeError) as error:  # RuntimeError: torch's "invalid hash value"
        raise InputError(
            f"the ImageNet weights could not be downloaded ({error}); put them into torch's cache or use --weights=PATH"
        ) from error


def read_state(path: Path) -> Mapping[str, Tensor]:
    """The state dict of a file.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    remedy = "give a state dict saved as .pth or .safetensors"
    if not path.is_file():
        raise InputError(f"there is no weights file {str(path)!r}; {remedy}, or use --weights=random")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"the weights file {str(path)!r} cannot be read ({reason}); {remedy}") from error
    except Exception as error:
        # torch.load raises pickle.UnpicklingError for files that are no pickles or would run code.
        raise InputError(f"the weights file {str(path)!r} is no plain state dict; {remedy}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"the weights file {str(path)!r} holds no state dict; {remedy}")
    return state


def _by_layer_name(layers: nn.Sequential, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the layers by layer name; the file may also name them by index (`features.0.weight`)."""
    named = {}
    for index, (name, layer) in enumerate(layers.named_children()):
        for part in layer.state_dict():
            for key in (f"{name}.{part}", f"features.{index}.{part}", f"{index}.{part}"):
                if key in state:
                    named[f"{name}.{part}"] = state[key]
                    break
    return named


def check_shapes(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Check that a state dict has every tensor of a network, in its shape.

    Raises:
        InputError: one is missing or has another shape.
    """
    for key, expected in network.state_dict().items():
        if key not in state:
            raise InputError(f"the weights {source!r} have no {key!r}; give weights of the requested model")
        tensor = state[key]
        if tensor.shape != expected.shape:
            raise InputError(
                f"the weights {source!r} have {key!r} of shape {tuple(tensor.shape)}, where the model has"
                f" {tuple(expected.shape)}; give weights of the requested model"
            )
