import importlib.util

import pytest
import torch

from models import weights
from models.nin import nin
from models.steps.objectives import PlainObjective, StyleTask
from models.steps.style import StyleForward, StyleForwardBackward, StyleIteration
from models.vgg import vgg16, vgg19
from models.workload import Workload, build
from tests.paths import PICTURES, ROOT

NETWORKS = {"vgg16": vgg16, "vgg19": vgg19, "nin": nin}

spec = importlib.util.spec_from_file_location("reference", ROOT / "tests" / "models" / "reference.py")
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)


def float64_task(model, height, width):
    network = NETWORKS[model]()
    weights.load(network, "random", torch.device("cpu"))
    network.layers.double()
    generator = torch.Generator().manual_seed(3)
    content, style = (torch.rand(1, 3, height, width, dtype=torch.float64, generator=generator) for _ in range(2))
    return StyleTask(network, content, style)


def workload(model="models.nin:nin", side=64, step="StyleIteration", **further):
    pictures = {"content": str(PICTURES / "content.jpg"), "style": str(PICTURES / "style.jpg")}
    return Workload(f"models.steps.style:{step}", model, "cpu", side, side, **{**pictures, **further})


@pytest.mark.parametrize("model", NETWORKS)
def test_loss_and_gradient_equal_those_of_an_independent_implementation(model):
    task = float64_task(model, 71, 64)
    image = torch.rand(1, 3, 71, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    ours, theirs = image.clone().requires_grad_(), image.clone().requires_grad_()
    expected = reference.loss(
        model, dict(task.network.layers.state_dict()), theirs, task.content, task.style,
        task.network.content_weight, task.network.style_weight,
    )  # fmt: skip
    expected.backward()
    loss = PlainObjective(task)(ours)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    assert (ours.grad - theirs.grad).norm() / theirs.grad.norm() < 1e-12


@pytest.mark.parametrize("model", ["models.vgg:vgg19", "models.nin:nin"])
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_the_loss_falls_over_20_iterations(model, optimizer):
    step = build(workload(model, optimizer=optimizer))
    step()
    first = step.loss()
    for _ in range(19):
        step()
    assert step.loss() < first / 2


def test_the_same_seed_gives_the_same_losses_and_another_seed_gives_others():
    def losses(seed):
        step = build(workload(seed=seed))
        return [(step(), step.loss())[1] for _ in range(3)]

    assert losses(0) == losses(0) != losses(1)


def test_only_the_image_is_optimised():
    task = float64_task("nin", 64, 64)
    assert not any(parameter.requires_grad for parameter in task.network.layers.parameters())


def test_an_iteration_and_its_parts_compute_the_same_loss_and_only_the_iteration_changes_the_image():
    iteration, forward, both = (build(workload(step=step)) for step in ("StyleIteration", "StyleForward", "StyleForwardBackward"))  # fmt: skip
    before = iteration.image().detach().clone()
    for step in (iteration, forward, both):
        step()
    assert iteration.loss() == pytest.approx(forward.loss(), rel=1e-6) == pytest.approx(both.loss(), rel=1e-6)
    assert not torch.equal(iteration.image(), before)
    assert isinstance(forward, StyleForward)
    assert isinstance(both, StyleForwardBackward)
    assert isinstance(iteration, StyleIteration)


def test_bfloat16_computes_nearly_the_loss_of_float32():
    single, half = build(workload()), build(workload(precision="bfloat16"))
    single()
    half()
    assert half.loss() == pytest.approx(single.loss(), rel=0.05)
    assert half.loss() != single.loss()
    assert half.image().dtype == torch.float32
