import dataclasses
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models import weights
from models.errors import InputError
from models.network import StyleNetwork

CPU = torch.device("cpu")


def tiny(imagenet=None):
    layers = nn.Sequential()
    with torch.device("meta"):
        for name, layer in (("conv1", nn.Conv2d(3, 4, 3)), ("relu1", nn.ReLU()), ("conv2", nn.Conv2d(4, 5, 3))):
            layers.add_module(name, layer)
    return StyleNetwork(layers, "relu1", {"conv2": 1.0}, imagenet=imagenet)


def tiny_state():
    torch.manual_seed(1)
    return {
        "conv1.weight": torch.randn(4, 3, 3, 3), "conv1.bias": torch.randn(4),
        "conv2.weight": torch.randn(5, 4, 3, 3), "conv2.bias": torch.randn(5),
    }  # fmt: skip


def by_index(state):
    return {
        f"features.{0 if key.startswith('conv1') else 2}.{key.split('.')[1]}": value for key, value in state.items()
    }


def holds(network, state):
    return all(torch.equal(network.layers.state_dict()[key], value) for key, value in state.items())


@pytest.mark.parametrize("naming", [dict, by_index])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_state_dict_is_loaded_by_layer_name_or_by_index(tmp_path, naming, suffix):
    path = tmp_path / f"weights{suffix}"
    state = naming(tiny_state()) | {"classifier.weight": torch.zeros(2)}
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    network = tiny()
    weights.load(network, str(path), CPU)
    assert holds(network, tiny_state())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"conv2.weight": torch.zeros(5, 4, 1, 1)}, r"'conv2.weight' of shape \(5, 4, 1, 1\).*has \(5, 4, 3, 3\)"),
        ({"conv2.weight": None}, "no 'conv2.weight'"),
    ],
)
def test_weights_of_another_model_are_rejected_with_the_name_of_the_tensor(tmp_path, change, sentence):
    state = {key: value for key, value in (tiny_state() | change).items() if value is not None}
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=sentence):
        weights.load(tiny(), str(tmp_path / "weights.pth"), CPU)


class MaliciousPickle:
    def __reduce__(self):
        return print, ("code was run",)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: None,
        lambda path: path.write_bytes(b"no weights at all"),
        lambda path: torch.save([1, 2], path),
        lambda path: torch.save({"conv1.weight": MaliciousPickle()}, path),
    ],
    ids=["missing", "garbage", "a list", "code"],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_is_no_state_dict_is_reported_in_one_sentence_and_runs_no_code(tmp_path, capsys, spoil, suffix):
    path = tmp_path / f"weights{suffix}"
    spoil(path)
    with pytest.raises(InputError) as caught:
        weights.load(tiny(), str(path), CPU)
    assert "state dict" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "code was run" not in capsys.readouterr().out


def test_a_failed_download_is_reported_in_one_sentence():
    def no_network():
        raise URLError("no route to host")

    with pytest.raises(InputError, match="could not be downloaded .*no route to host.*--weights=PATH"):
        weights.load(tiny(imagenet=no_network), "imagenet", CPU)


def test_downloaded_weights_are_loaded():
    network = tiny(imagenet=lambda: by_index(tiny_state()))
    weights.load(network, "imagenet", CPU)
    assert holds(network, tiny_state())


def test_a_model_without_imagenet_weights_names_the_alternatives():
    with pytest.raises(InputError, match="--weights=random"):
        weights.load(tiny(), "imagenet", CPU)


@pytest.mark.parametrize("source", ["random", "a file"])
def test_weights_are_stored_in_the_requested_type(tmp_path, source):
    torch.save(tiny_state(), tmp_path / "weights.pth")
    single, half = tiny(), tiny()
    path = "random" if source == "random" else str(tmp_path / "weights.pth")
    weights.load(single, path, CPU)
    weights.load(half, path, CPU, dtype=torch.bfloat16)
    assert {weight.dtype for weight in half.layers.parameters()} == {torch.bfloat16}
    assert holds(half, {key: value.bfloat16() for key, value in single.layers.state_dict().items()})


def test_random_weights_keep_the_scale_of_activations():
    network = dataclasses.replace(tiny())
    weights.load(network, "random", CPU)
    std = network.layers.state_dict()["conv2.weight"].std().item()
    assert std == pytest.approx((2 / 36) ** 0.5, rel=0.2)


def test_layers_that_are_made_uninitialised_are_left_as_they_are_and_later_ones_are_initialised():
    ones = torch.ones(2, 3)
    with weights.Uninitialised():
        assert nn.init.constant_(ones, 3.0) is ones
        assert nn.init.normal_(tensor=ones) is ones
        assert torch.equal(nn.Parameter(ones) * 2, torch.full((2, 3), 2.0))
    assert torch.equal(ones, torch.ones(2, 3))
    assert torch.equal(nn.init.constant_(ones, 3.0), torch.full((2, 3), 3.0))


def test_a_network_that_is_made_uninitialised_gets_all_its_weights():
    def layers():
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    with weights.Uninitialised():
        network = StyleNetwork(layers(), "1", {"0": 1.0})
    expected = StyleNetwork(layers(), "1", {"0": 1.0})
    for loaded in (network, expected):
        weights.load(loaded, "random", CPU, seed=3)
    for key, value in expected.layers.state_dict().items():
        assert torch.equal(network.layers.state_dict()[key], value), key
