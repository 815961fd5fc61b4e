"""Checks in a process of their own, in which torch has loaded the fake accelerator; `test_device.py` runs them."""

import os
import time

import pytest
import torch
from torch import nn
from torch.nn import functional

from fixtures.schema import DeviceTime
from fixtures.worker.device_time import DeviceTimer
from fixtures.worker.devices import hide_accelerators, open_device
from fixtures.worker.executor import Executor
from tests.paths import PICTURES
from tests.suite import PLUGINS

LATENCY_SECONDS = int(os.environ["FAKE_LATENCY_US"]) / 1e6
DEVICE = torch.device("fake:1")
WORKLOAD = {
    "step": "style_iteration",
    "model": f"{PLUGINS}/tiny_model.py:tiny",
    "width": 16,
    "height": 16,
    "device": str(DEVICE),
    "weights": "random",
    "content": str(PICTURES / "content.jpg"),
    "style": str(PICTURES / "style.jpg"),
}


def operators() -> int:
    """How many operators the device has been given."""
    return torch.ops.fake_accelerator.counts(1)[0]


@pytest.fixture(scope="module")
def executor():
    executor = Executor(lambda event: None, owns_process=False)
    executor.open(str(DEVICE), "float32", None)
    executor.build(WORKLOAD)
    executor.warm_up(0.0, 1)
    return executor


def test_the_clock_of_a_round_waits_for_the_device(executor):
    durations = executor.measure(0.0, min_rounds=2, max_rounds=2)["durations_seconds"]
    queueing_seconds = []
    for _ in range(5):  # another process may take the core for a while
        before, start = operators(), time.perf_counter()
        executor.step()
        queueing_seconds.append(time.perf_counter() - start)
        each = operators() - before
        executor.device.synchronize()
    assert each > 20
    assert min(durations) >= each * LATENCY_SECONDS * 0.99
    assert min(queueing_seconds) < min(durations) / 3, "a clock that does not wait sees the queueing only"


def test_the_time_of_the_device_is_that_of_its_operators_and_the_host_is_faster(executor):
    times = DeviceTime(**DeviceTimer(executor).measure(0.5))
    before = operators()
    executor.step()
    each = operators() - before
    # One that only makes a number on the host writes data as well, for what observes operators.
    assert each > 20
    assert times.operators_per_iteration == pytest.approx(each, rel=0.1)
    assert times.kernels_per_iteration is None
    assert times.device_seconds == pytest.approx(each * LATENCY_SECONDS, rel=0.02)
    assert times.device_time_iterations == pytest.approx(0.5 / times.device_seconds, abs=1)
    assert times.queueing_seconds < times.device_seconds / 2
    assert times.launch_bound is False


def test_the_clocks_of_parts_and_of_warm_up_wait_too(executor):
    before = operators()
    warm_up = executor.warm_up(0.0, 1)["fastest_seconds"]
    each = operators() - before
    assert warm_up >= each * LATENCY_SECONDS * 0.99

    parts = executor.measure_interleaved({"twice": lambda: (executor.step(), executor.step())}, 0.0, 1)
    assert parts["whole"][0] >= each * LATENCY_SECONDS * 0.99
    assert parts["twice"][0] >= 2 * each * LATENCY_SECONDS * 0.99


def test_a_round_has_no_synchronisation_between_its_operators(executor):
    synchronizations = torch.ops.fake_accelerator.counts(1)[1]
    executor.measure(0.0, min_rounds=2, max_rounds=2)
    assert torch.ops.fake_accelerator.counts(1)[1] - synchronizations == 2 * 2


def test_attention_gives_the_result_and_gradient_of_the_cpu():
    results = []
    for device in ("cpu", DEVICE):
        generator = torch.Generator().manual_seed(0)
        query, key, value = (torch.randn(1, 2, 8, 4, generator=generator).to(device).requires_grad_() for _ in range(3))
        result = functional.scaled_dot_product_attention(query, key, value)
        result.square().sum().backward()
        results.append([tensor.detach().cpu() for tensor in (result, query.grad, key.grad, value.grad)])
        assert result.device.type == torch.device(device).type
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_autocast_computes_products_in_half_precision(precision):
    image = torch.rand(1, 3, 8, 8, device=DEVICE, requires_grad=True)
    weight = torch.rand(4, 3, 3, 3, device=DEVICE)
    with torch.autocast("fake", dtype=precision):
        features = functional.conv2d(image, weight)
        flat = features.flatten(2).squeeze(0)
        gram = flat @ flat.T
    gram.float().sum().backward()
    assert (features.dtype, gram.dtype, image.grad.dtype) == (precision, precision, torch.float32)


def test_memory_is_counted_and_limited_for_each_device_alone():
    held = torch.zeros(2**18, device=DEVICE)
    other = torch.accelerator.memory_stats(0)
    torch.fake.set_per_process_memory_fraction(3 / 4096, 1)
    with pytest.raises(torch.OutOfMemoryError, match="fake out of memory"):
        torch.zeros(2**20, device=DEVICE)
    freed = torch.zeros(2**18, device=DEVICE)
    del freed
    larger = torch.zeros(3 * 2**17, device=DEVICE)  # fits after the cached block has been released
    stats = torch.accelerator.memory_stats(DEVICE)
    assert stats["num_ooms"] == 1
    assert stats["num_alloc_retries"] >= 1
    assert stats["allocated_bytes.all.current"] >= held.nbytes + larger.nbytes
    assert stats["reserved_bytes.all.current"] >= stats["allocated_bytes.all.current"]
    assert torch.accelerator.memory_stats(0) == other
    torch.fake.set_per_process_memory_fraction(1.0, 1)
    assert torch.zeros(2**20, device=DEVICE).nbytes == 2**22


def test_events_measure_the_time_of_the_device():
    events = [torch.Event(DEVICE, enable_timing=True) for _ in range(2)]
    stream = torch.accelerator.current_stream(DEVICE)
    numbers = torch.zeros(4, device=DEVICE)
    torch.accelerator.synchronize(DEVICE)
    events[0].record(stream)
    for _ in range(5):
        numbers.add_(1)
    events[1].record(stream)
    assert not events[1].query()
    events[1].synchronize()
    assert events[0].elapsed_time(events[1]) == pytest.approx(15, abs=1.5)


def test_a_layer_has_the_gradient_of_the_cpu():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(4, 2, 3))
    gradients = []
    for device in ("cpu", DEVICE):
        image = torch.linspace(0, 1, 3 * 64).view(1, 3, 8, 8).to(device).requires_grad_()
        layers.to(device)(image).square().mean().backward()
        gradients.append(image.grad.cpu())
    torch.testing.assert_close(*gradients)


def test_hidden_accelerators_are_not_there_for_torch(monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "0,1")
    monkeypatch.setattr(torch.accelerator, "is_available", torch.accelerator.is_available)
    assert torch.accelerator.current_accelerator(check_available=True).type == "fake"
    hide_accelerators()
    assert torch.accelerator.current_accelerator(check_available=True) is None
    assert os.environ["CUDA_VISIBLE_DEVICES"] == os.environ["HIP_VISIBLE_DEVICES"] == "-1"


def test_a_device_reports_the_name_of_its_model():
    assert open_device("fake:1").facts()["model"] == "fake accelerator of host memory"


def test_a_forked_process_cannot_use_a_device_that_its_parent_initialised():
    torch.zeros(1, device=DEVICE)
    pid = os.fork()
    if pid == 0:
        try:
            torch.zeros(1, device=DEVICE)
        except RuntimeError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
