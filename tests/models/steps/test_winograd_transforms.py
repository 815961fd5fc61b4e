"""Compiled transforms of Winograd's algorithm against those by torch, and what happens without a compiler."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from models.steps import winograd, winograd_transforms
from models.steps.winograd_transforms import EAGER, FusedTransforms, transforms_of

compiled = pytest.mark.skipif(
    winograd_transforms._library() is None, reason="there is no compiler that builds the transforms here"
)


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """Sets the compiler's command; what was compiled before counts no more."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def use(command):
        monkeypatch.setenv("CC", command)
        monkeypatch.setattr(winograd_transforms, "_library", winograd_transforms._library.__wrapped__)

    return use


def features_and_points(inputs, outputs, size):
    generator = torch.Generator().manual_seed(inputs)
    features = torch.randn(1, inputs, *size, generator=generator)
    weight = torch.randn(outputs, inputs, 3, 3, generator=generator) / inputs**0.5
    return features, winograd.transformed_weights(weight), torch.randn(outputs, generator=generator)


@compiled
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (3, 2)])
@pytest.mark.parametrize("size", [(4, 4), (5, 7), (23, 41)])
@pytest.mark.parametrize("channels", [(1, 3), (64, 128), (70, 5)])
def test_compiled_transforms_give_the_values_of_those_by_torch(channels, size, padding, layout, monkeypatch):
    features, points, bias = features_and_points(*channels, size)
    features = features.contiguous(memory_format=layout)
    assert isinstance(transforms_of(features), FusedTransforms)
    for addend in (bias, None):
        actual = winograd.convolve(features, points, padding, addend)
        with monkeypatch.context() as patch:
            patch.setattr(winograd, "transforms_of", lambda features: EAGER)
            expected = winograd.convolve(features, points, padding, addend)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@compiled
def test_compiled_transforms_of_several_strips_and_threads_give_the_values_of_one(monkeypatch):
    features, points, bias = features_and_points(70, 66, (33, 18))
    expected = winograd.convolve(features, points, (1, 1), bias)
    threads = torch.get_num_threads()
    monkeypatch.setattr(winograd, "_STRIP_BYTES", 2**16)
    try:
        torch.set_num_threads(2)
        actual = winograd.convolve(features, points, (1, 1), bias)
    finally:
        torch.set_num_threads(threads)
    # The products of strips may be summed in another order.
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("command", ["no-such-compiler", "false", "cc --no-such-option", ""])
def test_without_a_working_compiler_the_transforms_are_those_by_torch_and_the_record_says_so(command, compiler):
    compiler(command)
    assert transforms_of(torch.empty(1)) is EAGER
    assert winograd.facts(["conv2"])["winograd"]["transforms"] == "eager"


@pytest.fixture
def counting_compiler(compiler, tmp_path):
    """A compiler that notes each of its runs; the function returns how many there were."""
    script, runs = tmp_path / "compiler", tmp_path / "runs"
    script.write_text(f'#!/bin/sh\necho run >> {runs}\nexec {" ".join(winograd_transforms._compiler())} "$@"\n')
    script.chmod(0o755)
    compiler(str(script))
    return lambda: len(runs.read_text().split())


@compiled
def test_what_was_compiled_once_is_loaded_by_later_processes(counting_compiler):
    for _ in range(3):  # each forgets what it loaded, as another process would
        assert winograd_transforms._library() is not None
    assert counting_compiler() == 1


@compiled
def test_a_kept_file_that_cannot_be_loaded_is_compiled_again(counting_compiler, tmp_path):
    assert winograd_transforms._library() is not None
    (kept,) = (tmp_path / "goghmark").iterdir()
    kept.write_bytes(b"half a file")
    assert winograd_transforms._library() is not None
    assert counting_compiler() == 2
    assert kept.stat().st_size > 1000


@compiled
def test_without_a_folder_to_keep_it_in_the_compiled_file_serves_this_process(compiler, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    compiler(" ".join(winograd_transforms._compiler()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert winograd_transforms._library() is not None


@compiled
def test_the_record_says_that_transforms_are_compiled():
    assert winograd.facts(["conv2"])["winograd"]["transforms"] == "fused"


def test_other_types_have_the_transforms_by_torch():
    assert transforms_of(torch.empty(1, dtype=torch.float64)) is EAGER
    assert transforms_of(torch.empty(1, device="meta")) is EAGER


@compiled
def test_predictions_compile_nothing_and_take_the_memory_of_compiled_transforms(monkeypatch):
    def compiles():
        raise AssertionError("compiled")

    monkeypatch.setattr(winograd_transforms, "_library", compiles)
    features, points, bias = features_and_points(8, 4, (9, 9))
    mode = FakeTensorMode()
    fake = mode.from_tensor(features)
    with mode:
        result = winograd.convolve(fake, mode.from_tensor(points), (1, 1), mode.from_tensor(bias))
    assert transforms_of(fake).name == "fused"
    assert result.shape == (1, 4, 9, 9)
