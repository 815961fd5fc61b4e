"""Builds the chain of a network by running it once on features without data, and recording what it computes.

The network runs as it is, with its own control flow; every function of torch that it calls on features is seen,
and computes nothing. What cannot be computed by strips of rows is refused with its place. Attention is recognised as a
module with the parts of diffusers' attention, `group_norm`, `to_q`, `to_k`, `to_v` and `to_out`, and checked by a small
example.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves

from models.errors import InputError
from models.streaming.attention import attend, tokens_of
from models.streaming.operations import (
    Activation,
    Attention,
    Chain,
    Convolution,
    Nearest,
    Normalisation,
    Operation,
    chain_of,
)
from models.streaming.statistics import NormStatistics
from models.streaming.structure import Node, sequence, sum_of

WHAT_CAN = (
    "convolutions of 1x1 and 3x3 with stride 1 and zeros around, group normalisation, SiLU, ReLU, sums, nearest"
    " upsampling by two, and self-attention with one head can"
)
_PROBE_SIDE = 4
_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out")
_SUMS = (torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__, Tensor.__radd__)
_IN_PLACE = (Tensor.add_, Tensor.__iadd__, Tensor.relu_, torch.relu_)
_ACTIVATIONS: Mapping[Any, Any] = {
    functional.silu: "silu",
    **dict.fromkeys((functional.relu, torch.relu, Tensor.relu, Tensor.relu_, torch.relu_), "relu"),
}


def _is_one(_: Tensor, factor: Any, **options: Any) -> bool:
    return isinstance(factor, int | float) and factor == 1 and not options


def _keeps_type(features: Tensor, *args: Any, **kwargs: Any) -> bool:
    types = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.dtype)]
    return all(dtype == features.dtype for dtype in types)


def _drops_nothing(_: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> bool:
    del inplace
    return not training or p == 0


# Functions that leave features as they are, if this is true of their arguments.
_UNCHANGED: Mapping[Any, Callable[..., bool]] = {
    **dict.fromkeys((torch.div, Tensor.div, Tensor.__truediv__, torch.mul, Tensor.mul, Tensor.__mul__), _is_one),
    **dict.fromkeys((Tensor.to, Tensor.contiguous, Tensor.clone, torch.clone), _keeps_type),
    functional.dropout: _drops_nothing,
}


def trace(network: nn.Module, in_channels: int, forward: Callable[[Tensor], Any] | None = None) -> Chain:
    """The chain that a network computes from latents.

    Args:
        in_channels: of the latents.
        forward: the computation, if it is not the network's own call; it uses modules of the network.

    Raises:
        InputError: something cannot be computed by strips of rows; the sentence names the place.
    """
    dtype = next((parameter.dtype for parameter in network.parameters()), torch.float32)
    latents = torch.empty(1, in_channels, _PROBE_SIDE, _PROBE_SIDE, device="meta", dtype=dtype)
    recording = _Recording(network, latents)
    with recording.modules_watched(), torch.no_grad(), recording:
        output = (forward or network)(latents)
    end = next((node for leaf in tree_leaves(output) if (node := recording.node_of(leaf))), None)
    if end is None or end is recording.start:
        raise InputError("the network computes nothing from its latents; pass a network that maps latents to an image")
    chain = chain_of(sequence(recording.start, end), in_channels)
    for operation in chain.operations:
        if isinstance(operation, Attention):
            _check_attention(operation, network.get_submodule(operation.place))
    return chain


class _Recording(TorchFunctionMode):
    """While active, notes what is computed from the latents."""

    def __init__(self, network: nn.Module, latents: Tensor) -> None:
        super().__init__()
        self._network = network
        self._stack: list[str] = []
        self.start = Node("the latents")
        self._nodes: dict[int, Node] = {}
        self._tensors: list[Tensor] = []  # alive, so that no identity is used twice
        self._note(latents, self.start)

    def node_of(self, value: Any) -> Node | None:
        return self._nodes.get(id(value)) if isinstance(value, Tensor) else None

    @property
    def place(self) -> str:
        return next((name for name in reversed(self._stack) if name), "the network")

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if not any(self.node_of(leaf) for leaf in (*tree_leaves(args), *tree_leaves(kwargs))):
            return func(*args, **kwargs)
        result = self._recorded(func, args, kwargs)
        if result is not None:
            return result
        try:
            result = func(*args, **kwargs)
        except Exception as error:
            raise self._refused(func) from error
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            raise self._refused(func)
        return result  # a shape, a type or the like

    def _recorded(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
        """The output of a function that can be streamed; None for any other."""
        if func in _SUMS:
            return self._sum(func, *args, **kwargs)
        if not args or not self.node_of(args[0]):
            return None
        if func in _UNCHANGED:
            return args[0] if _UNCHANGED[func](*args, **kwargs) else None
        if func in _ACTIVATIONS:
            in_place = func in _IN_PLACE or bool(kwargs.get("inplace"))
            output = args[0] if in_place else torch.empty_like(args[0])
            return self._append(args[0], output, Activation(self.place, _ACTIVATIONS[func]))
        layers: Mapping[Any, Callable[..., Tensor | None]] = {
            functional.group_norm: self._group_norm,
            functional.interpolate: self._upsampling,
            torch.conv2d: self._convolution,
        }
        return layers[func](*args, **kwargs) if func in layers else None

    def _sum(self, func: Any, left: Any, right: Any, **options: Any) -> Tensor | None:
        first, second = self.node_of(left), self.node_of(right)
        if first is None or second is None or left.shape != right.shape or options:
            return None
        return self._note(left if func in _IN_PLACE else torch.empty_like(left), sum_of(self.place, first, second))

    def _group_norm(
        self, features: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
    ) -> Tensor:
        like = next(iter(self._network.parameters()))
        weight = like.new_ones(features.shape[1]) if weight is None else weight.detach()
        bias = like.new_zeros(features.shape[1]) if bias is None else bias.detach()
        norm = Normalisation(self.place, groups, eps, weight, bias)
        return self._append(features, torch.empty_like(features), norm)

    def _convolution(
        self, features: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1,
    ) -> Tensor | None:  # fmt: skip
        side = weight.shape[2]
        around = side // 2 if padding == "same" else padding
        if (
            weight.shape[2:] not in ((1, 1), (3, 3))
            or groups != 1
            or not _are(stride, 1)
            or not _are(around, side // 2)
        ):
            return None
        if side == 3 and not _are(dilation, 1):
            return None
        output = features.new_empty(1, weight.shape[0], *features.shape[2:])
        convolution = Convolution(self.place, weight.detach(), None if bias is None else bias.detach())
        return self._append(features, output, convolution)

    def _upsampling(
        self, features: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", **others: Any
    ) -> Tensor | None:
        height, width = features.shape[2:]
        twice = _are(scale_factor, 2) if size is None else tuple(tree_leaves(size)) == (2 * height, 2 * width)
        if mode not in ("nearest", "nearest-exact") or not twice:
            return None
        del others
        return self._append(
            features, features.new_empty(1, features.shape[1], 2 * height, 2 * width), Nearest(self.place)
        )

    def _append(self, features: Tensor, output: Tensor, operation: Operation) -> Tensor:
        return self._note(output, Node(self.place, operation, before=self._nodes[id(features)]))

    def _note(self, tensor: Tensor, node: Node) -> Tensor:
        self._nodes[id(tensor)] = node
        self._tensors.append(tensor)
        return tensor

    def _refused(self, func: Any) -> InputError:
        name = resolve_name(func) or getattr(func, "__name__", str(func))
        return InputError(f"{name} in {self.place} cannot be computed by strips of rows; {WHAT_CAN}")

    @contextlib.contextmanager
    def modules_watched(self) -> Iterator[None]:
        """Within the context, the running module is known, and modules of attention are noted as one operation."""
        with contextlib.ExitStack() as stack:
            for name, module in self._network.named_modules():
                stack.callback(module.register_forward_pre_hook(partial(self._entered, name)).remove)
                stack.callback(module.register_forward_hook(self._left, always_call=True).remove)
                if all(hasattr(module, part) for part in _PROJECTIONS):
                    # On the instance: a class's method is not touched.
                    module.forward = partial(self._attention, module, name)
                    stack.callback(delattr, module, "forward")
            yield

    def _entered(self, name: str, *_: Any) -> None:
        self._stack.append(name)

    def _left(self, *_: Any) -> None:
        self._stack.pop()

    def _attention(self, module: nn.Module, name: str, features: Tensor, *others: Any, **options: Any) -> Tensor:
        """The output of a module of attention, as one operation."""
        del others, options  # diffusers passes conditions that are None; the example shows whether they matter
        out: Any = module.to_out if isinstance(module.to_out, nn.Linear) else cast(Any, module.to_out)[0]
        layers: list[Any] = [module.to_q, module.to_k, module.to_v, out]
        if not all(isinstance(layer, nn.Linear) for layer in layers) or not self.node_of(features):
            raise self._refused(type(module).forward)
        norm: Any = getattr(module, "group_norm", None)
        normalised = norm and Normalisation(
            f"{name}.group_norm", norm.num_groups, norm.eps, norm.weight.detach(), norm.bias.detach()
        )
        query, key, value, out = layers
        output = torch.empty(features.shape, dtype=features.dtype, device="meta")
        return self._append(features, output, Attention(name, normalised, query, key, value, out))


def _check_attention(operation: Attention, module: nn.Module) -> None:
    """Compare an operation with its module on a few positions.

    Raises:
        InputError: the module computes something else.
    """
    weight = operation.query.weight
    generator = torch.Generator(device="cpu").manual_seed(0)
    features = torch.randn(1, 2, 3, weight.shape[1], generator=generator).to(weight).permute(0, 3, 1, 2)
    if weight.device.type == "meta" or type(features) is not Tensor:
        return  # numbers that are not there cannot be compared
    with torch.no_grad():
        # Without channels last, which not every device's normalisation takes.
        expected = module(features.contiguous())
        statistics: dict[Normalisation, NormStatistics] = {}
        if operation.norm is not None:
            statistics[operation.norm] = NormStatistics(operation.norm)
            statistics[operation.norm].add(features)
            statistics[operation.norm].finish()
        keys, values = torch.empty_like(tokens_of(features)), torch.empty_like(tokens_of(features))
        attend(operation, features, keys, values, statistics)
    tolerance = 0.05 if weight.dtype.itemsize == 2 else 1e-3
    if not torch.allclose(features.float(), expected.float(), rtol=tolerance, atol=tolerance):
        raise InputError(
            f"{operation.place} has the parts of attention with one head, but computes something else, so that it"
            f" cannot be computed by strips of rows; {WHAT_CAN}"
        )


def _are(values: Any, expected: int) -> bool:
    return values is not None and all(value == expected for value in tree_leaves(values))
