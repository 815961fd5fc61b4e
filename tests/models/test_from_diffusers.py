"""Published networks: their size on the meta device; what they compute, in narrow copies of the same classes."""

import importlib
import sys

import pytest
import torch
from safetensors.torch import save_file

from models import api
from models.errors import InputError
from models.generators import check_weights, materialise
from models.workload import Workload, resolve
from tests.paths import ROOT

CPU, META = torch.device("cpu"), torch.device("meta")
PAGE = (ROOT / "docs" / "generators.md").read_text()

_UNET = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1, "norm_num_groups": 8,
    "block_out_channels": (16, 32), "cross_attention_dim": 16, "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
_XL = {
    "addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 64,
    "transformer_layers_per_block": (1, 2), "use_linear_projection": True,
}  # fmt: skip
_SD3 = {
    "sample_size": 8, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 2, "attention_head_dim": 8,
    "num_attention_heads": 2, "joint_attention_dim": 32, "caption_projection_dim": 16, "pooled_projection_dim": 16,
    "pos_embed_max_size": 8,
}  # fmt: skip
_FLUX = {
    "patch_size": 1, "in_channels": 64, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
    "num_attention_heads": 2, "joint_attention_dim": 32, "pooled_projection_dim": 16, "guidance_embeds": True,
    "axes_dims_rope": (4, 6, 6),
}  # fmt: skip
_VAE = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 8,
    "sample_size": 64, "block_out_channels": (8, 8, 16, 16), "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def networks():
    """The module, whose import takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield importlib.import_module("models.from_diffusers")


def narrow_sd15():
    return importlib.import_module("models.from_diffusers").TextUNet(_UNET)


def narrow_sdxl():
    return importlib.import_module("models.from_diffusers").TextUNet(_UNET | _XL)


def narrow_sd3():
    return importlib.import_module("models.from_diffusers").SD3Transformer(_SD3)


def narrow_flux():
    return importlib.import_module("models.from_diffusers").FluxTransformer(_FLUX)


def narrow_vae():
    return importlib.import_module("models.from_diffusers").VAEDecoder(_VAE)


DENOISERS = [narrow_sd15, narrow_sdxl, narrow_sd3, narrow_flux]
each_network = pytest.mark.parametrize("factory", [*DENOISERS, narrow_vae])


def with_weights(factory, dtype=torch.float32):
    network = factory()
    materialise(network, CPU, dtype=dtype)
    return network.eval()


def inputs(network, sides=(8, 8), batch=2):
    torch.manual_seed(1)
    return torch.randn(batch, network.latent_channels, *sides), *network.conditions(batch, CPU)


def step_of(factory, mode, **further):
    step = "decode" if factory is narrow_vae else "denoise"
    return api.build(Workload(step, f"{__file__}:{factory.__name__}", "cpu", 64, 64, mode=mode, **further))


# Of the published checkpoints; papers and model cards round them to 860 M, 2.6 B, 2 B and 12 B. The decoder has that of
# `kl_decoder`, which is compared with diffusers' in another test.
@pytest.mark.parametrize(
    ("name", "parameters", "conditions"),
    [
        ("sd15", 859_520_964, [(2,), (2, 77, 768)]),
        ("sdxl", 2_567_463_684, [(2,), (2, 77, 2048), (2, 1280), (2, 6)]),
        ("sd3_medium", 2_028_328_000, [(2,), (2, 333, 4096), (2, 2048)]),
        ("flux1", 11_901_408_320, [(2,), (2, 512, 4096), (2, 768)]),
        ("sd_vae", 49_490_199, []),
    ],
)
def test_a_network_has_the_parameters_of_its_checkpoint_and_text_of_its_encoders(
    networks, name, parameters, conditions
):
    network = getattr(networks, name)()
    assert sum(weight.numel() for weight in network.parameters()) == parameters
    assert all(weight.is_meta for weight in network.parameters())
    assert [tuple(one.shape) for one in network.conditions(2, META)] == conditions
    shown = next(line.split("|") for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
    assert shown[3].strip() == f"{parameters / 1e6:.1f} M"
    assert shown[4].strip() == f"{network.factor_px} px"


def test_every_name_is_a_network_of_its_catalog(networks):
    references = {**api.DENOISERS, **api.DECODERS}
    names = {name for name, reference in references.items() if reference.startswith("models.from_diffusers:")}
    assert names == {"sd15", "sdxl", "sd3_medium", "flux1", "sd_vae"}
    assert all(callable(resolve(references[name])) for name in names)


@each_network
def test_an_output_has_the_shape_of_its_latents_or_pixels_and_is_finite(factory):
    network = with_weights(factory)
    latents, *conditions = inputs(network, (8, 6))
    with torch.inference_mode():
        output = network(latents, *conditions)
    assert output.shape == ((2, 3, 64, 48) if factory is narrow_vae else latents.shape)
    assert output.isfinite().all()


@pytest.mark.parametrize("factory", DENOISERS)
def test_the_text_and_the_timestep_change_the_prediction(factory):
    network = with_weights(factory)
    latents, timesteps, *text = inputs(network)
    with torch.inference_mode():
        plain = network(latents, timesteps, *text)
        assert not torch.allclose(plain, network(latents, (timesteps + 300) % 1000, *text))
        assert not torch.allclose(plain, network(latents, timesteps, text[0] + 1, *text[1:]))


def test_patches_of_flux_are_cut_out_as_its_pipeline_cuts_them(networks, monkeypatch):
    network = with_weights(narrow_flux)
    latents, *conditions = inputs(network, (4, 6))
    received = []

    def identity(patches, *rest, **_):
        received.extend((patches, *rest))
        return (patches,)

    monkeypatch.setattr(network._theirs, "forward", identity)
    assert torch.equal(network(latents, *conditions), latents)
    # Two by two pixels of all channels are one patch, channel by channel.
    cut = latents.view(2, 16, 2, 2, 3, 2).permute(0, 2, 4, 1, 3, 5).reshape(2, 6, 64)
    assert torch.equal(received[0], cut)
    assert received[4].tolist() == [[0, row, column] for row in range(2) for column in range(3)]


# Not FLUX.1, whose timestep diffusers rounds to bfloat16 as well: that moves it by up to two steps of a thousand.
@pytest.mark.parametrize("factory", [narrow_sd15, narrow_sdxl, narrow_sd3, narrow_vae])
def test_bfloat16_is_stored_and_computes_nearly_the_same(factory):
    low, full = (step_of(factory, "forward", precision=precision) for precision in ("bfloat16", "float32"))
    for step in (low, full):
        step()
    assert {weight.dtype for weight in low.network.parameters()} == {torch.bfloat16}
    assert (low._output.float() - full._output).norm() < 0.2 * full._output.norm()


@each_network
def test_recomputed_activations_change_no_gradient(factory):
    plain, checkpointed = (step_of(factory, "input", strategy=strategy) for strategy in ("plain", "checkpointed"))
    for step in (plain, checkpointed):
        step()
    assert checkpointed.network.checkpointed
    assert not plain.network.checkpointed
    assert torch.allclose(checkpointed.latents.grad, plain.latents.grad, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("factory", DENOISERS)
def test_training_lowers_the_loss_on_one_batch(factory):
    step = step_of(factory, "training")
    losses = []
    for _ in range(15):
        step()
        losses.append(step.loss())
    assert losses[-1] < losses[0]


@each_network
def test_a_file_of_a_checkpoint_is_loaded_by_its_own_names_and_another_one_is_refused(factory, tmp_path):
    network, path = with_weights(factory), tmp_path / "weights.safetensors"
    theirs = {key: value + 1 for key, value in network.stored.state_dict().items()}
    older = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    for present, name in older.items() if factory is narrow_vae else ():
        theirs = {key.replace(present, name): value for key, value in theirs.items()}
    save_file({**theirs, "encoder.conv_in.weight": torch.zeros(1)}, path)
    loaded = factory()
    materialise(loaded, CPU, str(path))
    assert all(torch.equal(loaded.stored.state_dict()[key], value + 1) for key, value in network.stored.state_dict().items())  # fmt: skip
    with pytest.raises(InputError, match="weights of the requested model"):
        check_weights(narrow_sd3() if factory is narrow_flux else narrow_flux(), str(path))


def test_an_image_beyond_the_positions_is_refused():
    with pytest.raises(InputError, match="sides are at most 128 px"):
        api.build(Workload("denoise", f"{__file__}:narrow_sd3", "cpu", 144, 64, mode="forward"))


def test_a_missing_extra_is_one_sentence_with_what_to_do(monkeypatch):
    monkeypatch.delitem(sys.modules, "models.from_diffusers")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match=r"^the models sd15, .* need the extra 'diffusers' \(.*pip install -e"):
        resolve("models.from_diffusers:sd15")
