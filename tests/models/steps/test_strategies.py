import ctypes
import dataclasses
import subprocess
import sys
import time

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from models import weights
from models.api import STRATEGIES as NAMES
from models.errors import Unsupported
from models.network import StyleNetwork
from models.nin import nin
from models.steps import graphs, strategies
from models.steps.lbfgs import LBFGS
from models.steps.objectives import PlainObjective, StyleTask, gram_matrix
from models.steps.strategies import STRATEGIES, GramMatrix
from models.steps.style import gradient_deviation
from models.vgg import vgg16
from models.workload import Workload
from tests.paths import ROOT as SUITE
from tests.recorded_graphs import ON_CPU

OF_STYLE_NETWORKS = set(STRATEGIES) - {"offloaded"}
# `winograd` is for float32 alone; compiling takes too long.
OF_ALL_PRECISIONS = sorted(OF_STYLE_NETWORKS - {"compiled", "winograd"})


def task_of(factory, height=65, width=79, dtype=torch.float64):
    network = factory()
    weights.load(network, "random", torch.device("cpu"))
    network.layers.to(dtype)
    generator = torch.Generator().manual_seed(3)
    content, style = (torch.rand(1, 3, height, width, dtype=dtype, generator=generator) for _ in range(2))
    return StyleTask(network, content, style)


def gradient(objective, image):
    image = image.clone().requires_grad_()
    loss = objective(image)
    return loss, image.grad


@pytest.fixture(autouse=True)
def recorded_graphs(monkeypatch):
    """Lets `graphed` run on cpu."""
    monkeypatch.setattr(graphs, "graph_api", lambda device: ON_CPU)


def test_the_strategies_of_the_interface_are_those_that_are_implemented():
    assert set(NAMES) == set(STRATEGIES)


def test_a_strategy_for_decoders_is_refused_for_a_style_network():
    with pytest.raises(Unsupported, match="'offloaded' does not apply: it is for decoders; use --strategy=streamed"):
        STRATEGIES["offloaded"](task_of(nin))


# Without `compiled`: compilation takes a minute.
@pytest.mark.parametrize("strategy", sorted(OF_STYLE_NETWORKS - {"plain", "compiled"}))
@pytest.mark.parametrize("factory", [vgg16, nin])
def test_every_strategy_computes_the_loss_and_gradient_of_plain(strategy, factory):
    task = task_of(factory)
    image = task.style.flip(2)
    expected_loss, expected = gradient(PlainObjective(task), image)
    loss, actual = gradient(STRATEGIES[strategy](task), image)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=0)
    assert (actual - expected).norm() / expected.norm() < 1e-12


def two_convolutions():
    layers = nn.Sequential()
    for name, layer in (
        ("conv1", nn.Conv2d(3, 6, 3, padding=1)), ("act1", nn.ReLU()), ("pool", nn.MaxPool2d(2)),
        ("conv2", nn.Conv2d(6, 8, 3, padding=1)), ("act2", nn.ReLU()),
    ):  # fmt: skip
        layers.add_module(name, layer)
    return StyleNetwork(layers, "act2", {"act1": 0.5, "act2": 0.5}, style_weight=1e3)


def image_after(optimizer, objective):
    [image] = optimizer.param_groups[0]["params"]
    for _ in range(8):
        optimizer.step(lambda: objective(image))
    return image.detach()


# Without `winograd`, which is in `fastest` too.
@pytest.mark.parametrize("strategy", [*OF_ALL_PRECISIONS, pytest.param("compiled", marks=pytest.mark.slow)])
def test_lbfgs_moves_the_image_with_every_strategy_as_that_of_torch_does_with_plain(strategy):
    task = task_of(two_convolutions)
    ours, theirs = (task.content.clone().requires_grad_() for _ in range(2))
    expected = image_after(torch.optim.LBFGS([theirs], lr=1.0, max_iter=1, history_size=3), PlainObjective(task))
    actual = image_after(LBFGS(ours, history=3), STRATEGIES[strategy](task))
    moved = (expected - task.content).norm()
    assert moved > 0.1
    assert (actual - expected).norm() / moved < 1e-9


def test_checkpointing_saves_less_than_half_the_tensors_for_the_backward_pass():
    def saved_bytes(objective, image):
        sizes = {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = objective.loss(image)
        del loss
        return sum(sizes.values())

    task = task_of(vgg16, dtype=torch.float32)
    image = task.content.clone().requires_grad_()
    plain, checkpointed = (STRATEGIES[name](task) for name in ("plain", "checkpointed"))
    assert saved_bytes(checkpointed, image) < saved_bytes(plain, image) / 2


def test_the_gram_matrix_with_one_product_has_the_gradient_that_autograd_computes():
    features = torch.rand(1, 5, 4, 3, dtype=torch.float64)
    target = gram_matrix(torch.rand(1, 5, 6, 2, dtype=torch.float64))
    ours, theirs = (features.clone().requires_grad_() for _ in range(2))
    (GramMatrix.apply(ours) - target).square().sum().backward()
    (gram_matrix(theirs) - target).square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-16)


def test_compile_time_is_measured_apart_from_the_iteration(monkeypatch):
    class Slow:
        """Stands for the compiler: its first call is slow."""

        def __init__(self, function):
            self._function, self._compiled = function, False

        def __call__(self, image):
            if not self._compiled:
                self._compiled = True
                time.sleep(0.3)
            return self._function(image)

    monkeypatch.setattr(strategies.torch, "compile", lambda function, dynamic: Slow(function))
    objective = strategies.CompiledObjective(task_of(nin, 64, 64, torch.float32))
    assert objective.compile_seconds() is None
    objective(torch.rand(1, 3, 64, 64).requires_grad_())
    assert 0.1 < objective.compile_seconds() < 0.6


@pytest.fixture
def fail_to_compile(monkeypatch):
    """Lets compiled code raise an error when it is first run."""

    def fail_to_compile(error):
        def fails(image):
            raise error

        monkeypatch.setattr(strategies.torch, "compile", lambda function, dynamic: fails)

    return fail_to_compile


def test_a_missing_compiler_is_reported_in_one_sentence(fail_to_compile):
    from torch._inductor.exc import InvalidCxxCompiler

    fail_to_compile(InvalidCxxCompiler())
    objective = strategies.CompiledObjective(task_of(nin, 64, 64, torch.float32))
    with pytest.raises(Unsupported, match=r"torch\.compile does not work here .* use another --strategy"):
        objective(torch.rand(1, 3, 64, 64).requires_grad_())


def chained(outer, inner):
    outer.__cause__ = inner
    return outer


def compile_error(text, inner):
    from torch._dynamo.exc import BackendCompilerFailed

    return chained(BackendCompilerFailed(text, inner, None), inner)


class PTXASError(Exception):
    """An error of Triton's assembler."""

    __module__ = "triton.runtime.errors"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("Failed to find C compiler. Please specify via CC environment variable."), "Failed to find C comp"),
        (compile_error("inductor", RuntimeError("Cannot find a working triton installation.")), "Cannot find a working"),
        (compile_error("inductor", PTXASError("PTXAS error: Internal Triton PTX codegen error")), "PTXAS error"),
        (PTXASError(), "PTXASError"),
    ],
)  # fmt: skip
def test_a_missing_compiler_and_an_error_of_triton_are_reported_with_the_innermost_reason(
    error, reason, fail_to_compile
):
    fail_to_compile(error)
    objective = strategies.CompiledObjective(task_of(nin, 64, 64, torch.float32))
    with pytest.raises(Unsupported, match=rf"torch\.compile does not work here \({reason}.* use another --strategy"):
        objective(torch.rand(1, 3, 64, 64).requires_grad_())


@pytest.mark.parametrize("memory_error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_lack_of_memory_while_compiling_is_no_error_of_the_compiler(memory_error, fail_to_compile):
    failed = compile_error("inductor", memory_error)
    fail_to_compile(failed)
    objective = strategies.CompiledObjective(task_of(nin, 64, 64, torch.float32))
    with pytest.raises(type(failed)):
        objective(torch.rand(1, 3, 64, 64).requires_grad_())


class Products(TorchDispatchMode):
    """Notes the types of all matrix products, and whether they may use TF32."""

    def __init__(self):
        super().__init__()
        self.types, self.tf32 = set(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_):
            self.types |= {one.dtype for one in args if isinstance(one, torch.Tensor)}
            self.tf32.add(torch.backends.cuda.matmul.fp32_precision)
        return func(*args, **(kwargs or {}))


def products_of(strategy, precision):
    task = dataclasses.replace(task_of(nin, 64, 64, torch.float32), precision=precision)
    objective = STRATEGIES[strategy](task)
    with Products() as products:
        objective(task.style.clone().requires_grad_())
    return products


@pytest.mark.parametrize("strategy", OF_ALL_PRECISIONS)
def test_gram_products_and_their_gradients_are_in_float32_in_every_strategy(strategy):
    assert products_of(strategy, "bfloat16").types == {torch.float32}


@pytest.mark.parametrize("strategy", OF_ALL_PRECISIONS)
def test_gram_products_are_in_true_float32_under_tf32(strategy):
    assert products_of(strategy, "tf32").tf32 == {"ieee"}


class Conversions(TorchDispatchMode):
    """Notes the addresses of tensors that are converted to another type."""

    def __init__(self):
        super().__init__()
        self.addresses = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default:
            self.addresses.add(args[0].data_ptr())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("strategy", OF_ALL_PRECISIONS)
def test_weights_are_stored_in_bfloat16_and_never_converted_by_an_iteration(strategy):
    task = dataclasses.replace(task_of(nin, 64, 64, torch.float32), precision="bfloat16")
    objective, image = STRATEGIES[strategy](task), task.style.clone().requires_grad_()
    weights = list(task.network.layers.parameters())
    assert {weight.dtype for weight in weights} == {torch.bfloat16}
    with Conversions() as conversions:
        objective(image)
    assert conversions.addresses, "the image and the features of the losses are converted"
    assert conversions.addresses.isdisjoint({weight.data_ptr() for weight in weights})
    assert image.grad.dtype == torch.float32


def test_an_error_of_the_compiled_code_is_not_reported_as_one_of_the_compiler(monkeypatch):
    def compiler(function, dynamic):
        def fails(image):
            raise MemoryError

        return fails

    monkeypatch.setattr(strategies.torch, "compile", compiler)
    objective = strategies.CompiledObjective(task_of(nin, 64, 64, torch.float32))
    with pytest.raises(MemoryError):
        objective(torch.rand(1, 3, 64, 64).requires_grad_())


def workload(**further):
    return Workload("models.steps.style:StyleIteration", "models.nin:nin", "cpu", 512, 512, **further)


def test_the_gradient_deviates_by_the_rounding_of_the_precision():
    pictures = {name: str(SUITE / "fixtures" / "pictures" / f"{name}.jpg") for name in ("content", "style")}
    plain = workload(**pictures)
    assert 1e-9 < gradient_deviation(plain) < 1e-5
    assert 1e-9 < gradient_deviation(dataclasses.replace(plain, strategy="streamed", tile_px=64)) < 1e-5
    assert 1e-4 < gradient_deviation(dataclasses.replace(plain, precision="bfloat16")) < 0.5


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_kept_memory_causes_no_page_faults():
    program = """
import resource, torch
from models.steps.malloc import keep_freed_memory, keep_small_blocks

def once():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(50_000_000, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def faults():  # the first blocks still extend the heap
    return min(once() for _ in range(8))

keep_freed_memory()
kept = faults()
keep_small_blocks(2**20)
print(kept, faults())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=SUITE, capture_output=True, text=True, check=True)
    kept, returned = map(int, done.stdout.split())
    assert kept < returned / 10 or returned < 100  # with huge pages there are few faults in either case


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")
def test_free_pages_between_used_blocks_return_to_the_kernel():
    program = """
import torch
from pathlib import Path
from models.steps.malloc import LARGEST_IN_HEAP_BYTES, FreePages, keep_small_blocks

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) / 256

keep_small_blocks(LARGEST_IN_HEAP_BYTES)
blocks = [torch.ones(2**20, dtype=torch.uint8) for _ in range(64)]
del blocks[::2]
before = resident_mib()
FreePages.give_back()
print(before - resident_mib())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=SUITE, capture_output=True, text=True, check=True)
    assert float(done.stdout) > 24  # of 32 MiB
