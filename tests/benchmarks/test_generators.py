"""Denoisers and decoders, run as users run them, at 64 px."""

import os

import pytest
import torch
from safetensors.torch import save_file

from fixtures.parsing import Resolution, unsuitable_size
from models.generators import materialise
from models.kl_decoder import kl_decoder_s

FILES = ("benchmarks/test_denoise.py", "benchmarks/test_decode.py")
SMALL = ("--benchmark-only", "--device=cpu", "--resolution=64")


def sentence_of(done):
    assert done.returncode == 4, done.stdout + done.stderr
    (line,) = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("ERROR")]
    return line


def test_denoisers_and_decoders_have_tables_rates_and_kinds(suite):
    done = suite.run(*FILES, *SMALL, "--model=dit_s2,unet_s,kl_decoder_s", "--mode=forward", "--denoising-steps=20")
    assert done.returncode == 0, done.stdout + done.stderr
    record = suite.recorded()
    assert record["options"]["denoising_steps"] == 20
    cells = {cell["model"]: cell for cell in record["cells"]}
    assert {model: (cell["status"], cell["kind"]) for model, cell in cells.items()} == {
        "dit_s2": ("ok", "denoise"),
        "unet_s": ("ok", "denoise"),
        "kl_decoder_s": ("ok", "decode"),
    }
    for cell in cells.values():
        steps = 20 if cell["kind"] == "denoise" else 1
        assert cell["images_per_second"] == pytest.approx(1 / steps / cell["median_seconds"])
        assert cell["first_loss"] == cell["last_loss"] != 0
        assert cell["predicted_memory_bytes"] > 0
        assert cell["flops_per_iteration"] > 1e8
        assert cell["attention_operators"] == ["_scaled_dot_product_flash_attention_for_cpu"]
    assert "denoise, one evaluation; an image takes 20 (--denoising-steps)" in done.stdout
    assert "evaluations/min" in done.stdout
    assert "decodes/min" in done.stdout


@pytest.mark.slow
def test_a_training_lowers_the_loss_and_a_strategy_that_does_not_apply_is_skipped_with_its_reason(suite):
    done = suite.run(FILES[0], *SMALL, "--model=unet_s", "--mode=training,forward", "--strategy=checkpointed")
    assert done.returncode == 0, done.stdout + done.stderr
    training, forward = suite.recorded()["cells"]
    assert training["last_loss"] < training["first_loss"]
    assert forward["status"] == "skipped"
    assert "skipped: unet_s checkpointed forward: strategy 'checkpointed' does not apply" in done.stdout


def test_weights_that_are_no_numbers_end_as_invalid(suite, tmp_path):
    network = kl_decoder_s()
    materialise(network, torch.device("cpu"))
    network.decoder.conv_out.bias.data.fill_(torch.nan)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    options = ("--model=kl_decoder_s", "--mode=input", f"--weights={tmp_path / 'weights.pth'}")
    done = suite.run(FILES[1], *SMALL, *options)
    assert done.returncode == 1
    (cell,) = suite.recorded()["cells"]
    assert (cell["status"], cell["phase"]) == ("invalid", "warmup")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--resolution=100", "--model=dit_s2"], "multiples of 16 px, and 100 is none; the nearest that work: --resol"),
        (["--model=kl_decoder", "--mode=training"], "model 'kl_decoder' has no mode 'training'; its modes: forward, i"),
        (["--denoising-steps=0"], "--denoising-steps: '0' is not a number of denoising steps"),
        (["--weights=imagenet"], "a generator has no ImageNet weights"),
        (["--attention=efficient"], "device 'cpu' lacks the attention kernel 'efficient'; those that it has: auto, fl"),
        (["--attention=flush"], "--attention: no attention kernel named 'flush'; there are: auto, efficient, flash, m"),
        (["--attention=math", "--model=nin"], "no model of this run is a denoiser or decoder"),
    ],
    ids=("resolution", "mode", "steps", "weights", "kernel", "no_kernel", "no_effect"),
)
def test_bad_input_is_reported_in_one_sentence_before_anything_runs(suite, options, sentence):
    assert sentence in sentence_of(suite.run(*FILES, "--benchmark-only", "--device=cpu", *options))
    assert not suite.record.exists()


def test_a_published_model_without_its_extra_is_reported_in_one_sentence(suite, tmp_path):
    (tmp_path / "diffusers.py").write_text("raise ImportError('No module named diffusers')")
    suite.environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), suite.environment["PYTHONPATH"]])
    sentence = sentence_of(suite.run(FILES[1], *SMALL, "--model=sd_vae"))
    assert "model 'sd_vae': the models sd15, sdxl, sd3_medium, flux1 and sd_vae need the extra 'diffusers'" in sentence
    assert not suite.record.exists()


@pytest.mark.slow
def test_a_published_model_is_refused_a_size_and_a_file_that_it_cannot_have_in_one_sentence(suite, tmp_path):
    done = suite.run(FILES[0], "--benchmark-only", "--device=cpu", "--model=sd3_medium", "--resolution=4096")
    assert "takes images whose sides are at most 3072 px, and 4096 is more; use --resolution=3072" in sentence_of(done)
    path = tmp_path / "weights.safetensors"
    save_file({"post_quant_conv.weight": torch.zeros(1)}, path)
    done = suite.run(FILES[1], *SMALL, "--model=sd_vae", f"--weights={path}")
    assert "where the model has (4, 4, 1, 1); give weights of the requested model" in sentence_of(done)


@pytest.mark.parametrize(("sides", "fits"), [((3072, 3072), True), ((3088, 64), False)])
def test_a_side_beyond_the_largest_of_a_model_is_named_with_what_works(sides, fits):
    sentence = unsuitable_size("sd3_medium", Resolution("x".join(map(str, sides)), *sides), 16, 3072)
    assert sentence is None if fits else sentence.endswith("3088x64 is more; use --resolution=3072 or less")


def test_a_mode_that_no_model_of_the_run_has_is_reported_in_one_sentence(suite):
    done = suite.run(FILES[1], "--benchmark-only", "--device=cpu", "--mode=training")
    assert "no model of this run has the mode 'training'; there are: forward, input" in sentence_of(done)


@pytest.mark.parametrize(
    ("resolution", "sides", "nearest"),
    [
        ("100", (100, 100), "96,112"),
        ("8", (8, 8), "16"),
        ("1000x600", (1000, 600), "992x592,1008x608"),
        ("64x40", (64, 40), "64x32,64x48"),
    ],
)
def test_the_nearest_resolutions_that_work_are_named(resolution, sides, nearest):
    sentence = unsuitable_size("dit_s2", Resolution(resolution, *sides), 16, None)
    assert sentence.endswith(f"--resolution={nearest}")


def test_a_resolution_of_other_benchmarks_only_leaves_generators_out(suite):
    files = ("benchmarks/test_style_iteration.py", *FILES)
    done = suite.run(*files, "--collect-only", "-q", "--device=cpu", "--resolution=100")
    names = [line.partition("::")[2] for line in done.stdout.splitlines() if "::" in line]
    assert names == ["test_style_iteration[cpu-vgg19-100px]", "test_style_iteration[cpu-nin-100px]"]
