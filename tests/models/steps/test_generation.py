import dataclasses
import subprocess
import sys
import zipfile

import pytest
import torch

from models import generation_state, images, weights
from models.errors import InputError
from models.nin import nin
from models.steps import generation
from models.steps.generation import Generation
from models.steps.objectives import gram_matrix, style_loss
from models.vgg import vgg16
from models.workload import Workload
from tests.paths import PICTURES


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setattr("models.generation_state.COARSEST_PX", 40)


def workload(side=80, iterations=8, **further):
    pictures = {"content": str(PICTURES / "content.jpg"), "style": str(PICTURES / "style.jpg")}
    defaults = {"step": "x", "model": "models.nin:nin", "device": "cpu", "width": side, "height": side}
    return Workload(**{**defaults, **pictures, "iterations": iterations, **further})


def iterate(generation, times):
    for _ in range(times):
        if not generation.prepared:
            generation.prepare()
        generation()
        generation.record_duration(0.01)
        generation.record_loss(generation.loss())
    return generation


def test_a_picture_is_generated_from_coarse_to_fine_and_its_loss_falls_at_each_size():
    generation = iterate(Generation(workload(iterations=24)), 24)
    assert [(scale.width, scale.done) for scale in generation.scales] == [(40, True), (80, True)]
    assert generation.image().shape == (1, 3, 80, 80)
    assert all(scale.last_loss < scale.first_loss for scale in generation.scales)
    assert 0 <= generation.image().min() <= generation.image().max() <= 1


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
@pytest.mark.parametrize("done", [3, 4, 7])
def test_a_resumed_picture_is_identical_to_an_uninterrupted_one(tmp_path, optimizer, done):
    whole = iterate(Generation(workload(optimizer=optimizer)), 8)
    iterate(first := Generation(workload(optimizer=optimizer)), done).save(tmp_path / "kept", {})
    second = Generation(workload(optimizer=optimizer, unfinished=str(tmp_path / "kept")))
    assert [len(scale.durations_seconds) for scale in second.scales] == [len(scale.durations_seconds) for scale in first.scales]  # fmt: skip
    iterate(second, 8 - done)
    assert torch.equal(second.image(), whole.image())
    assert [scale.last_loss for scale in second.scales] == [scale.last_loss for scale in whole.scales]


def test_plain_and_streamed_make_the_same_picture():
    plain, streamed = (
        iterate(Generation(workload(strategy=strategy)), 8).image() for strategy in ("plain", "streamed")
    )
    assert (plain - streamed).abs().mean() < 0.01
    assert (plain - images.fit(images.read(PICTURES / "content.jpg"), 80, 80)).abs().mean() > 0.03


def test_random_weights_use_the_first_style_layers_and_other_weights_those_of_the_network():
    network = vgg16()
    assert generation.select_layers(network, "weights.pth") is network
    chosen = generation.select_layers(network, "random")
    assert list(chosen.style_layers) == ["relu1_1", "relu2_1", "relu3_1", "relu4_1"]
    assert chosen.content_layer == [name for name, _ in chosen.layers.named_children()][-1] == "relu4_1"
    assert not any(isinstance(layer, torch.nn.MaxPool2d) for layer in chosen.layers)


def test_a_picture_is_generated_with_weights_from_a_file(tmp_path):
    layers = nin().layers
    state = {key: torch.full(value.shape, 0.01) for key, value in layers.state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    generation = iterate(Generation(workload(weights=str(tmp_path / "weights.pth"), iterations=2)), 2)
    assert generation.loss() == generation.loss()
    assert generation.image().shape[-1] == 80


def test_balanced_losses_of_features_that_are_zero_are_the_weights_of_the_layers():
    network = generation.select_layers(nin(), "random")
    weights.load(network, "random", torch.device("cpu"))
    content, style = torch.rand(2, 1, 3, 40, 40)
    network = generation.balance_losses(dataclasses.replace(network, style_weight=7.0), content, style)
    grams = {name: gram_matrix(output) for name, output in generation._loss_layer_outputs(network, style).items()}
    loss_of_zeros = sum(weight * style_loss(torch.zeros_like(grams[name]), grams[name]) for name, weight in network.style_layers.items())  # fmt: skip
    assert network.style_weight * float(loss_of_zeros) == pytest.approx(4 * 0.2)


def test_the_first_image_is_the_content_in_the_colours_of_the_style():
    generator = torch.Generator().manual_seed(6)
    content, style = (0.5 + 0.1 * torch.randn(1, 3, 40, 60, generator=generator) * torch.tensor(scales).view(1, 3, 1, 1) for scales in ((1.0, 0.2, 0.5), (0.3, 1.0, 0.7)))  # fmt: skip
    style = style - torch.tensor([0.1, 0.0, -0.1]).view(1, 3, 1, 1)
    image = generation.first_image(content, style, seed=0)
    torch.testing.assert_close(image.mean((2, 3)), style.mean((2, 3)), atol=0.003, rtol=0)
    torch.testing.assert_close(image.flatten(2)[0].cov(), style.flatten(2)[0].cov(), atol=0.0003, rtol=0)
    assert torch.equal(image, generation.first_image(content, style, seed=0))
    assert not torch.equal(image, generation.first_image(content, style, seed=1))


def test_a_grey_picture_gets_no_coloured_noise():
    grey = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(7)).expand(1, 3, 40, 40)
    image = generation.first_image(grey.clone(), grey.clone(), seed=0)
    assert float((image - grey).abs().mean()) < 0.05


@pytest.mark.parametrize("shape", [(1, 3, 1, 9), (1, 3, 33, 20), (1, 3, 64, 64)])
def test_coarse_gradients_keep_a_descent_direction_and_a_constant_gradient_constant(shape):
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    total = generation.add_coarse_gradients(gradient)
    assert total.shape == gradient.shape
    assert (total * gradient).sum() > 0
    assert torch.allclose(generation.add_coarse_gradients(torch.ones(shape)).std(), torch.tensor(0.0), atol=1e-5)


def test_facts_of_a_checkpoint_file_are_read_without_torch(tmp_path):
    generation_state.save(tmp_path / "kept", {"command": {"iterations": 3}}, {"image": torch.ones(2)})
    code = (
        "import sys; from pathlib import Path; from models import generation_state;"
        f"print(generation_state.read_facts(Path({str(tmp_path / 'kept')!r}))['command'], 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PICTURES.parents[1], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "{'iterations': 3} False"
    assert torch.equal(generation_state.read_tensors(tmp_path / "kept", "cpu")["image"], torch.ones(2))


@pytest.mark.parametrize("contents", [b"", b"no archive", None])
def test_a_file_that_is_no_checkpoint_is_reported_in_one_sentence(tmp_path, contents):
    if contents is None:
        with zipfile.ZipFile(tmp_path / "kept", "w") as archive:
            archive.writestr("other", "")
    else:
        (tmp_path / "kept").write_bytes(contents)
    with pytest.raises(InputError, match="no unfinished picture; remove it"):
        generation_state.read_facts(tmp_path / "kept")
