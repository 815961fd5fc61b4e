import pytest
import torch
import torchvision
from torch import nn

from models import weights
from models.errors import InputError
from models.network import Normalisation, StyleNetwork, smallest_side
from models.nin import nin
from models.vgg import vgg16, vgg19
from models.workload import resolve


@pytest.mark.parametrize(("ours", "theirs"), [(vgg16, torchvision.models.vgg16), (vgg19, torchvision.models.vgg19)])
def test_vgg_computes_the_same_as_the_first_layers_of_torchvisions_network(ours, theirs):
    network, original = ours(), theirs(weights=None)
    network.layers.load_state_dict(
        {key: value for (key, _), value in zip(network.layers.state_dict().items(), original.features.state_dict().values(), strict=False)},
        assign=True,
    )  # fmt: skip
    image = torch.rand(1, 3, 40, 40)
    expected = original.features[: len(network.layers)](image)
    assert torch.equal(network.layers(image), expected)


def test_vgg_ends_at_the_last_loss_layer():
    assert [name for name, _ in vgg19().layers.named_children()][-2:] == ["conv5_1", "relu5_1"]


def test_nin_has_the_shapes_of_the_model_zoo():
    layers = nin().layers
    image, shapes = torch.empty(1, 3, 224, 224, device="meta"), {}
    for name, layer in layers.named_children():
        image = shapes[name] = layer(image)
    shapes = {name: tuple(output.shape[1:]) for name, output in shapes.items()}
    assert shapes["conv1"] == (96, 54, 54)
    assert shapes["pool1"] == (96, 27, 27)
    assert shapes["pool2"] == (256, 13, 13)
    assert shapes["cccp6"] == (384, 13, 13)
    assert shapes["pool3"] == (384, 6, 6)
    assert shapes["cccp8"] == (1000, 6, 6)


@pytest.mark.parametrize("factory", [vgg16, vgg19, nin])
def test_the_smallest_side_is_accepted_and_one_pixel_less_is_not(factory):
    network = factory()
    side = smallest_side(network)
    weights.load(network, "random", torch.device("cpu"))
    assert network.layers(torch.rand(1, 3, side, side)).numel() > 0
    with pytest.raises((RuntimeError, ValueError)):
        network.layers(torch.rand(1, 3, side - 1, side - 1))


def test_a_network_in_another_type_is_a_frozen_copy_and_one_in_its_own_type_is_itself():
    network = StyleNetwork(chain(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), relu=nn.ReLU()).eval(), "relu", {})
    half = network.in_type(torch.bfloat16)
    assert (half.stored_as, network.stored_as) == (torch.bfloat16, torch.float32)
    assert torch.equal(half.layers.conv.weight, network.layers.conv.weight.bfloat16())
    assert (half.layers.norm.running_var.dtype, half.layers.norm.num_batches_tracked.dtype) == (
        torch.bfloat16,
        torch.int64,
    )
    assert not any(weight.requires_grad for weight in half.layers.parameters())
    assert half.in_type(torch.bfloat16) is half
    assert half.layers(torch.rand(1, 3, 4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_pixels_are_normalised_in_their_type_and_have_that_of_the_weights_afterwards():
    network = nin()
    weights.load(network, "random", torch.device("cpu"), dtype=torch.bfloat16)
    pixels = torch.rand(1, 3, 5, 4)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (network.mean, network.std))
    normalisation = Normalisation(network, pixels)
    assert torch.equal(normalisation(pixels), ((pixels - mean) / std).bfloat16())
    gradient = torch.rand(1, 3, 5, 4).bfloat16()
    assert torch.equal(normalisation.backward(gradient), gradient.float() / std)


def chain(**layers):
    network = nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    return network


def test_a_loss_at_an_unknown_layer_is_rejected_with_the_names_of_the_layers():
    with pytest.raises(InputError, match="'relu9'.*there are: conv, relu"):
        StyleNetwork(chain(conv=nn.Conv2d(3, 4, 3), relu=nn.ReLU()), "relu9", {"relu": 1.0})


def test_a_loss_at_a_layer_that_is_overwritten_in_place_is_rejected():
    with pytest.raises(InputError, match="'relu' overwrites it in place"):
        StyleNetwork(chain(conv=nn.Conv2d(3, 4, 3), relu=nn.ReLU(inplace=True)), "conv", {"relu": 1.0})


@pytest.mark.parametrize("wrong", ["models.vgg:vgg91", "models.nowhere:vgg19", "/nowhere/conftest.py:tiny"])
def test_a_reference_to_nothing_is_reported_in_one_sentence(wrong):
    with pytest.raises(InputError, match="cannot import"):
        resolve(wrong)
