"""Capture and replay, with recorded graphs in place of a device's; equality with `plain` is in `test_strategies.py`."""

import gc
import weakref
from functools import partial

import pytest
import torch
from torch import nn

from fixtures.failures import diagnose_exception
from models.errors import Unsupported
from models.network import StyleNetwork
from models.steps import graphs
from models.steps.graphs import CALLS_BEFORE_CAPTURE, GraphedCall
from models.steps.objectives import PlainObjective, StyleTask
from models.steps.strategies import GraphedObjective
from tests.recorded_graphs import ON_CPU

CPU = torch.device("cpu")


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.setattr(graphs, "graph_api", lambda device: ON_CPU)


class Sum:
    """A function that adds one tensor to another, and counts how often it runs."""

    def __init__(self):
        self.total, self.term, self.runs = torch.zeros(2), torch.ones(2), 0
        self.double = None

    def run(self):
        self.runs += 1
        self.total.add_(self.term)
        self.double = 2 * self.total


@pytest.mark.usefixtures("recorded")
def test_a_function_is_captured_once_and_replayed_on_what_its_tensors_hold_then():
    work, graphed = Sum(), GraphedCall(CPU)
    graphed(work.run)
    before = CALLS_BEFORE_CAPTURE
    assert work.runs == before + 1
    assert work.total.tolist() == [before + 1] * 2  # the capture itself computes nothing
    work.term.fill_(10.0)
    double = work.double
    graphed(work.run)
    assert work.runs == before + 1
    assert work.total.tolist() == [before + 11] * 2
    assert double is work.double
    assert double.tolist() == [2 * (before + 11)] * 2


def test_a_device_without_graphs_is_refused_in_one_sentence():
    with pytest.raises(
        Unsupported, match=r"^strategy 'graphed' needs a device with graphs, .* cpu has none: use anoth"
    ):
        GraphedCall(CPU)


@pytest.mark.usefixtures("recorded")
def test_what_waits_for_the_device_is_refused_with_the_reason_of_the_capture_and_not_that_of_its_end():
    work = torch.ones(1)
    reason = r"cannot be captured \(fake: operation not permitted when stream is capturing"
    with pytest.raises(Unsupported, match=reason) as refused:
        GraphedCall(CPU)(lambda: work.mul_(float(work)))
    assert diagnose_exception(refused.value).status == "skipped"


@pytest.mark.usefixtures("recorded")
def test_an_error_outside_of_the_capture_is_none_of_the_graph():
    with pytest.raises(RuntimeError, match="must match the size") as raised:
        GraphedCall(CPU)(lambda: torch.ones(2).add_(torch.ones(3)))
    assert not isinstance(raised.value, Unsupported)


@pytest.mark.usefixtures("recorded")
def test_lack_of_memory_in_a_capture_stays_lack_of_memory():
    calls = []

    def run():
        calls.append(None)
        if len(calls) > CALLS_BEFORE_CAPTURE:
            try:
                raise torch.OutOfMemoryError("CUDA out of memory")
            finally:
                float(torch.ones(1))  # the capture is invalid as well

    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        GraphedCall(CPU)(run)


def task():
    layers = nn.Sequential()
    layers.add_module("conv", nn.Conv2d(3, 4, 3, padding=1))
    layers.add_module("relu", nn.ReLU())
    network = StyleNetwork(layers.requires_grad_(False), "relu", {"relu": 1.0})
    generator = torch.Generator().manual_seed(1)
    content, style = (torch.rand(1, 3, 9, 8, generator=generator) for _ in range(2))
    return StyleTask(network, content, style)


@pytest.mark.usefixtures("recorded")
def test_iterations_of_an_optimiser_on_replayed_gradients_are_those_on_computed_ones():
    one = task()
    images = []
    for objective in (PlainObjective(one), GraphedObjective(one)):
        image = one.style.clone().requires_grad_()
        optimizer = torch.optim.Adam([image], lr=0.1)
        losses = [float(optimizer.step(partial(objective, image))) for _ in range(4)]
        images.append((image.detach(), losses))
    torch.testing.assert_close(*images)


@pytest.mark.usefixtures("recorded")
def test_an_objective_dies_with_its_last_reference_and_frees_its_graph():
    objective = GraphedObjective(task())
    objective(torch.rand(1, 3, 9, 8).requires_grad_())
    gc.disable()
    try:
        alive = weakref.ref(objective)
        del objective
        assert alive() is None
    finally:
        gc.enable()
