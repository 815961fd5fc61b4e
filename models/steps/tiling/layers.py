"""Layers that can be computed piece by piece: their geometry, and how to run one on padding that is laid on already."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from models.errors import InputError
from models.network import StyleNetwork
from models.steps.tiling.geometry import Window

# Padding within a piece, in the order of torch's `pad`: left, right, top, bottom.
Padding = tuple[int, int, int, int]


@dataclass(frozen=True)
class Layer:
    """One layer of a chain.

    Attributes:
        rows, columns: its geometry down and across.
        run: the layer without padding of its own, on a piece that carries the given padding.
        padding_value: what the piece is padded with.
        pointwise: each output depends on the input at the same place alone, and zero stays zero.
        products: multiplications for all channels of one position of the output, where these are worth counting.
    """

    rows: Window
    columns: Window
    run: Callable[[Tensor, Padding], Tensor]
    padding_value: float = 0.0
    pointwise: bool = False
    products: int = 0


def layers_of(network: StyleNetwork, count: int, strategy: str) -> tuple[Layer, ...]:
    """The network's first `count` layers.

    Raises:
        InputError: one of them needs the whole image at once, or is of a kind that is not known.
    """
    layers = []
    for name, module in list(network.layers.named_children())[:count]:
        try:
            layers.append(_layer(module))
        except InputError as error:
            raise InputError(
                f"strategy {strategy!r} cannot run layer {name!r} ({error}); it takes convolutions padded with zeros,"
                " ReLU, max and average pooling, so use --strategy=plain for this model"
            ) from None
    return tuple(layers)


def _layer(module: nn.Module) -> Layer:
    for kind, read in _KINDS.items():
        # A subclass may compute something else: only torch's own forward is known.
        if isinstance(module, kind) and type(module).forward is kind.forward:
            layer = read(module)
            if any(max(axis.before, axis.after) >= axis.reach for axis in (layer.rows, layer.columns)):
                raise InputError("its padding is as wide as its kernel")
            return layer
    raise InputError(type(module).__name__)


def _pointwise(module: nn.Module) -> Layer:
    return Layer(Window(), Window(), lambda piece, _: module(piece), pointwise=True)


def _convolution(module: nn.Module) -> Layer:
    assert isinstance(module, nn.Conv2d)
    if module.padding_mode != "zeros":
        raise InputError(f"Conv2d with padding_mode={module.padding_mode!r}")

    def axis(place: int) -> Window:
        kernel, dilation = module.kernel_size[place], module.dilation[place]
        match module.padding:
            case "valid":
                before = after = 0
            case "same":  # an odd one goes behind, as in torch
                both = dilation * (kernel - 1)
                before, after = both // 2, both - both // 2
            case (*amounts,):
                before = after = int(amounts[place])
        return Window(kernel, module.stride[place], before, after, dilation)

    def run(piece: Tensor, _: Padding) -> Tensor:
        return functional.conv2d(piece, module.weight, module.bias, module.stride, 0, module.dilation, module.groups)

    return Layer(axis(0), axis(1), run, products=module.weight.numel())


def _max_pooling(module: nn.Module) -> Layer:
    assert isinstance(module, nn.MaxPool2d)
    if module.return_indices:
        raise InputError("MaxPool2d with return_indices=True")
    kernel, stride, padding, dilation = map(_pair, (module.kernel_size, module.stride, module.padding, module.dilation))

    def run(piece: Tensor, _: Padding) -> Tensor:
        return functional.max_pool2d(piece, kernel, stride, 0, dilation, module.ceil_mode)

    rows, columns = (
        Window(kernel[place], stride[place], padding[place], padding[place], dilation[place], module.ceil_mode)
        for place in (0, 1)
    )
    return Layer(rows, columns, run, padding_value=-math.inf)


def _average_pooling(module: nn.Module) -> Layer:
    assert isinstance(module, nn.AvgPool2d)
    kernel, stride, padding = map(_pair, (module.kernel_size, module.stride, module.padding))

    def pool(piece: Tensor) -> Tensor:
        return functional.avg_pool2d(
            piece, kernel, stride, 0, module.ceil_mode, divisor_override=module.divisor_override
        )

    def run(piece: Tensor, laid: Padding) -> Tensor:
        pooled = pool(piece)
        if not any(laid) or module.count_include_pad or module.divisor_override:
            return pooled
        # The mean over what is no padding: the same mean of ones tells which share of a window that is.
        left, right, top, bottom = laid
        height, width = piece.shape[-2:]
        real = functional.pad(piece.new_ones(1, 1, height - top - bottom, width - left - right), laid)
        return pooled / pool(real)

    rows, columns = (
        Window(kernel[place], stride[place], padding[place], padding[place], 1, module.ceil_mode) for place in (0, 1)
    )
    return Layer(rows, columns, run)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


# Dropout does nothing in a frozen network.
_KINDS: dict[type[nn.Module], Callable[[nn.Module], Layer]] = {
    nn.Conv2d: _convolution,
    nn.ReLU: _pointwise,
    nn.MaxPool2d: _max_pooling,
    nn.AvgPool2d: _average_pooling,
    nn.Dropout: _pointwise,
    nn.Identity: _pointwise,
}


def pad(piece: Tensor, amounts: Padding, value: float) -> Tensor:
    """The piece with padding laid on; the piece itself where there is none."""
    return functional.pad(piece, amounts, value=value) if any(amounts) else piece
