import pytest
import torch
from torchvision import models as torchvision_models

from models import classifiers
from models.api import CLASSIFIERS
from models.classifiers import accepts, materialise, smallest_side
from models.nin import nin, nin_classifier
from models.weights import random_tensors
from models.workload import resolve

TORCHVISIONS = ("alexnet", "googlenet", "resnet50", "vgg16")


@pytest.mark.parametrize("name", TORCHVISIONS)
def test_the_timed_network_is_the_one_of_torchvision_with_that_name(name):
    ours = materialise(resolve(CLASSIFIERS[name])(), torch.device("cpu")).eval()
    keywords = {"init_weights": False} if name in ("googlenet", "vgg16") else {}
    with torch.device("meta"):
        theirs = getattr(torchvision_models, name)(weights=None, **keywords).eval()
    theirs.load_state_dict(ours.state_dict(), assign=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(ours(images), theirs(images))


# Parameters in millions, from torchvision's documentation; NIN's from the Caffe model zoo, basic_cnn's counted by hand.
@pytest.mark.parametrize(
    ("name", "millions"),
    [("alexnet", 61.1), ("googlenet", 13.0), ("resnet50", 25.6), ("vgg16", 138.4), ("nin", 7.6), ("basic_cnn", 0.55)],
)
def test_a_classifier_has_as_many_parameters_as_in_the_literature(name, millions):
    network = resolve(CLASSIFIERS[name])()
    assert sum(weight.numel() for weight in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)


def test_the_classifier_nin_continues_the_chain_of_the_style_network():
    whole, cut = nin_classifier(), nin().layers
    assert [name for name, _ in whole.named_children() if name != "drop"][: len(cut)] == [
        name for name, _ in cut.named_children()
    ]
    network = materialise(whole, torch.device("cpu")).eval()
    images = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        maps = torch.nn.Sequential(*list(network.children())[:-2])(images)
        assert torch.allclose(network(images), maps.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in ("googlenet", "resnet50") else ()) for name in CLASSIFIERS],
)
def test_the_smallest_side_is_accepted_and_one_pixel_less_is_not(name):
    network = resolve(CLASSIFIERS[name])()
    for mode, batch in (("forward", 1), ("training", 1), ("training", 2)):
        side = smallest_side(network, mode, batch)
        assert accepts(network, mode, batch, side, side)
        assert side == 1 or not accepts(network, mode, batch, side - 1, side - 1)


def test_batch_normalisation_cannot_train_on_a_single_small_image():
    assert accepts(classifiers.resnet50(), "forward", 1, 32, 32)
    assert accepts(classifiers.resnet50(), "training", 2, 32, 32)
    assert not accepts(classifiers.resnet50(), "training", 1, 32, 32)


def test_random_weights_of_a_normalisation_layer_are_one():
    state = dict(random_tensors(torch.nn.BatchNorm2d(4), seed=0))
    assert state["weight"].tolist() == state["running_var"].tolist() == [1.0] * 4
    assert state["bias"].tolist() == state["running_mean"].tolist() == [0.0] * 4
    assert state["num_batches_tracked"].dtype == torch.int64
