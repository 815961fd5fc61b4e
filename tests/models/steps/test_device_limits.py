import dataclasses
import statistics
import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.microbenchmarks import QUANTITIES
from models.steps import device_limits
from models.workload import Workload, resolve

STEPS = {
    "copy": "Copy", "matmul": "Product", "convolution": "Convolution", "launch": "Launch", "elements": "Elements",
    "images": "Images",
}  # fmt: skip


def step(name, size, **further):
    return getattr(device_limits, STEPS.get(name, "Transfer"))(Workload("", name, "cpu", 0, 0, size=size, **further))


@pytest.fixture
def small_buffers(monkeypatch):
    """Small buffers, for tests of what is computed."""
    monkeypatch.setattr(device_limits, "_LARGER_THAN_CACHES_BYTES", 2**20)


def test_the_work_of_an_iteration_is_that_of_its_operations():
    for name, quantity in QUANTITIES.items():
        for size in (1, 1000, 2**20):
            assert quantity.work_per_iteration(size) == quantity.repeats(size) * quantity.work(size)
            assert quantity.work_per_iteration(size) > quantity.least_work / 2, name
    assert QUANTITIES["matmul"].work(4096) == 2 * 4096**3
    assert QUANTITIES["launch"].repeats(1000) == 1


def test_a_copy_moves_half_of_its_working_set():
    copy = step("copy", 2**28)
    copy()
    assert copy._source.nbytes + copy._destination.nbytes == 2**28
    assert torch.equal(copy._source, copy._destination)


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_matrix_product_uses_random_matrices_in_its_precision(small_buffers, precision, dtype):
    product = step("matmul", 256, precision=precision)
    product._repeats = 1
    left, right = next(product._pairs)
    product._pairs = iter([(left, right)])
    product()
    assert left.dtype == right.dtype == product._result.dtype == dtype
    assert left.float().std() == pytest.approx(1.0, abs=0.05)
    expected = left.double() @ right.double()
    assert (product._result.double() - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_convolution_takes_as_many_flops_as_its_work_says(precision, dtype):
    convolution = step("convolution", 8, precision=precision)
    convolution._repeats = 1
    with FlopCounterMode(display=False) as counter:
        convolution()
    assert counter.get_total_flops() == QUANTITIES["convolution"].work(8)
    assert convolution._result.dtype == dtype
    assert convolution.loss() is not None


def test_operations_cycle_through_more_buffers_than_fit_in_a_cache():
    made = []
    cycle = device_limits._cycle(lambda: made.append(len(made)) or len(made), 100 * 2**20)
    assert [next(cycle) for _ in range(7)] == [1, 2, 3, 4, 5, 1, 2]


def test_a_transfer_copies_from_source_to_destination(small_buffers):
    for name in ("upload_pageable", "download_pageable"):
        transfer = step(name, 2**18)
        transfer._repeats = 1
        destination, source = next(transfer._pairs)
        transfer._pairs = iter([(destination, source)])
        expected = source.clone()
        transfer()
        assert torch.equal(destination, expected), name


def test_a_launch_step_launches_as_many_operations_as_its_size():
    launch = step("launch", 1000)
    launch()
    assert launch.loss() == 1000.0


def test_elements_and_images_compute_as_many_as_their_size(small_buffers):
    elements = step("elements", 4096)
    elements._repeats = 1
    elements()
    assert torch.allclose(elements._results, elements._numbers.exp())
    assert elements._numbers.shape == (4096,)
    images = step("images", 3)
    images._repeats = 1
    images()
    assert images._images.shape == (3, 64, 56, 56)


def assert_agrees(name, size, plain, plain_work, monkeypatch):
    """Compare the rate of a step with that of a plain loop, alternating, until the median ratio is near 1."""
    quantity = dataclasses.replace(QUANTITIES[name], least_work=plain_work)
    monkeypatch.setitem(QUANTITIES, name, quantity)
    measured = step(name, size)

    def seconds(run):
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    ratios = []
    for _ in range(60):  # more rounds on a busy machine
        ours, theirs = seconds(measured), seconds(plain)
        ratios.append(quantity.work_per_iteration(size) / ours / (plain_work / theirs))
        if len(ratios) > 4 and abs(statistics.median(ratios) - 1) < 0.15:
            return
    pytest.fail(f"rate over that of a plain loop: {ratios}")


def test_the_bandwidth_of_a_copy_agrees_with_a_plain_loop(monkeypatch):
    source, destination = torch.rand(2**23), torch.empty(2**23)  # 32 MiB each

    def plain():
        for _ in range(4):
            destination.copy_(source)

    assert_agrees("copy", 2**26, plain, 4 * 2**26, monkeypatch)


def test_the_rate_of_a_product_agrees_with_a_plain_loop(monkeypatch):
    left, right = torch.randn(2, 512, 512)

    def plain():
        for _ in range(4):
            left @ right

    assert_agrees("matmul", 512, plain, 4 * 2 * 512**3, monkeypatch)


def test_every_microbenchmark_has_a_step():
    for name in QUANTITIES:
        assert callable(resolve(f"models.steps.device_limits:{STEPS.get(name, 'Transfer')}"))
