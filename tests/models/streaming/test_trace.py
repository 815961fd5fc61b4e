"""Networks become chains by being run once; what cannot be streamed is named with its place."""

import pytest
import torch
from torch import nn

from models.dit import DiT
from models.errors import InputError
from models.kl_decoder import kl_decoder_s
from models.streaming.operations import Attention, Convolution, Normalisation, Residual, UpsamplingConvolution
from models.streaming.trace import trace
from tests.models.streaming.networks import own_network


class Layers(nn.Module):
    """Some layers, and what is computed with them."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._computed = forward

    def forward(self, features):
        return self._computed(self, features)


def kinds(operations):
    return [type(operation) for operation in operations]


def test_the_chain_of_a_decoder_has_its_layers_in_order_with_their_places():
    chain = trace(kl_decoder_s(), 4)
    assert kinds(chain.operations) == [
        Convolution, Convolution, Residual, Attention, *[Residual] * 4, UpsamplingConvolution, *[Residual] * 3,
        UpsamplingConvolution, *[Residual] * 3, UpsamplingConvolution, *[Residual] * 3, Normalisation, Convolution,
    ]  # fmt: skip
    assert kinds(chain.operations[2].body) == [Normalisation, Convolution] * 2
    assert chain.operations[16].place == "decoder.up_blocks.2.upsamplers.0.conv"
    assert [one.shortcut is None for one in chain.operations if isinstance(one, Residual)].count(False) == 2
    assert (chain.channels[-1], chain.scales[-1]) == (3, 8)


def test_tracing_leaves_the_network_as_it_was():
    network = own_network()
    hooks = [len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in network.modules()]
    before = {name: set(vars(layer)) for name, layer in network.named_modules()}
    trace(network, 2)
    assert {name: set(vars(layer)) for name, layer in network.named_modules()} == before
    assert (
        sum(hooks) == sum(len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in network.modules()) == 0
    )


def conv(channels=2, out=2, side=3, **options):
    return nn.Conv2d(channels, out, side, **{"padding": side // 2} | options)


@pytest.mark.parametrize(
    ("network", "place"),
    [
        (nn.Sequential(conv(), nn.Sequential(conv(), nn.MaxPool2d(2))), "max_pool2d in 1.1 cannot"),
        (nn.Sequential(conv(stride=2)), "conv2d in 0 cannot"),
        (nn.Sequential(conv(side=5)), "conv2d in 0 cannot"),
        (nn.Sequential(conv(padding=0)), "conv2d in 0 cannot"),
        (nn.Sequential(conv(padding_mode="reflect")), "pad in 0 cannot"),
        (nn.Sequential(conv(groups=2)), "conv2d in 0 cannot"),
        (nn.Sequential(conv(), nn.Upsample(scale_factor=3)), "interpolate in 1 cannot"),
        (nn.Sequential(conv(), nn.Upsample(scale_factor=2, mode="bilinear")), "interpolate in 1 cannot"),
        (nn.Sequential(conv(), nn.BatchNorm2d(2).eval()), "batch_norm in 1 cannot"),
        (Layers(lambda net, x: net.a(x) * net.b(x), a=conv(), b=conv()), "mul in the network cannot"),
        (Layers(lambda net, x: net.a(x) + net.b(x), a=conv(), b=conv()), "the sum in the network cannot"),
        (Layers(lambda net, x: net.a(x).flip(3), a=conv()), "flip in the network cannot"),
        (Layers(lambda net, x: net.a(x).to(torch.float64), a=conv()), "to in the network cannot"),
    ],
)
def test_what_cannot_be_streamed_is_refused_with_its_place(network, place):
    with pytest.raises(InputError, match=place):
        trace(network, 2)


def test_a_transformer_is_refused():
    with torch.device("meta"):
        network = DiT(depth=1, width=96, heads=2)
    with pytest.raises(InputError, match="cannot be computed by strips of rows; convolutions of 1x1"):
        trace(network, 4, lambda latents: network(latents, torch.zeros(1), torch.zeros(1, dtype=torch.long)))


def test_attention_that_computes_something_else_is_refused_with_its_place():
    network = own_network()
    attention = network.second_attention
    attention.to_out.append(nn.Tanh())
    with pytest.raises(InputError, match="^second_attention has the parts of attention with one head, but computes"):
        trace(network, 2)


def test_a_network_without_effect_on_its_latents_is_refused():
    with pytest.raises(InputError, match="computes nothing from its latents"):
        trace(nn.Identity(), 2)
