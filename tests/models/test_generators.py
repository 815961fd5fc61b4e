import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.dit import Block, DiT, dit_s2, dit_xl2
from models.errors import InputError
from models.generators import check_weights, materialise
from models.kl_decoder import kl_decoder, kl_decoder_s
from models.residual import Downsampling, MiddleBlock, ResidualBlock, Upsampling
from models.unet import unet, unet_s
from tests.paths import ROOT

CPU = torch.device("cpu")
META = torch.device("meta")
PAGE = (ROOT / "docs" / "generators.md").read_text()


def with_weights(network, seed=0):
    materialise(network, CPU, seed=seed)
    return network.eval()


def inputs(network, side_px, batch=2):
    torch.manual_seed(1)
    side = side_px // network.latent_px
    return torch.randn(batch, network.latent_channels, side, side), *network.conditions(batch, CPU)


# Parameters. DiT: the authors' checkpoints without their positions; U-Net and decoder: the published checkpoints.
# Multiply-adds of an evaluation at 256 px in 10^9: DiT, table 4 of the paper; U-Net, Fang et al. 2023 ("Structural
# Pruning for Diffusion Models", table 2). Of the others none are published: those counted when they were written.
@pytest.mark.parametrize(
    ("factory", "parameters", "multiply_adds"),
    [
        (dit_s2, 32_865_056, 6.06),
        (dit_xl2, 674_834_720, 118.64),
        (unet, 113_673_219, 248.7),
        (unet_s, 7_126_275, 15.68),
        (kl_decoder, 49_490_199, 311.1),
        (kl_decoder_s, 3_104_343, 19.69),
    ],
)
def test_a_network_has_the_parameters_and_flops_of_its_name(factory, parameters, multiply_adds):
    network = factory()
    assert sum(weight.numel() for weight in network.parameters()) == parameters
    side = 256 // network.latent_px
    latents = torch.empty(1, network.latent_channels, side, side, device=META)
    with FlopCounterMode(display=False) as counter:
        output = network(latents, *network.conditions(1, META))
    assert counter.get_total_flops() / 2e9 == pytest.approx(multiply_adds, rel=2e-3)
    shown, *_ = (line.split("|") for line in PAGE.splitlines() if line.startswith(f"| `{factory.__name__}` |"))
    assert shown[3].strip() == f"{parameters / 1e6:.1f} M"
    assert shown[4].strip() == f"{counter.get_total_flops() / 1e9:.1f}"
    assert shown[7].strip() == f"{network.factor_px} px"
    assert output.shape[2] == (256 if network.latent_px == 1 or "decoder" in factory.__name__ else 32)


# diffusers' own classes with copied weights.


@pytest.fixture(scope="module")
def diffusers():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        import diffusers

        yield diffusers


def diffusers_dit(diffusers, network, side_px, depth, width, heads):
    """diffusers' network with our weights: it has an embedder of the conditions in each block."""
    theirs = diffusers.DiTTransformer2DModel(
        num_attention_heads=heads, attention_head_dim=width // heads, in_channels=4, out_channels=8, num_layers=depth,
        attention_bias=True, sample_size=side_px // 8, norm_eps=1e-6,
    )  # fmt: skip
    ours = network.state_dict()
    state = {f"pos_embed.proj.{part}": ours[f"x_embedder.proj.{part}"] for part in ("weight", "bias")}
    pairs = {"proj_out_1": "final_layer.adaLN_modulation.1", "proj_out_2": "final_layer.linear"}
    for index in range(depth):
        to, of = f"transformer_blocks.{index}", f"blocks.{index}"
        pairs |= {
            f"{to}.norm1.linear": f"{of}.adaLN_modulation.1",
            f"{to}.attn1.to_out.0": f"{of}.attn.proj",
            f"{to}.ff.net.0.proj": f"{of}.mlp.fc1",
            f"{to}.ff.net.2": f"{of}.mlp.fc2",
            f"{to}.norm1.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
            f"{to}.norm1.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
        }
        for part in ("weight", "bias"):
            query, key, value = ours[f"{of}.attn.qkv.{part}"].chunk(3)
            for name, tensor in (("q", query), ("k", key), ("v", value)):
                state[f"{to}.attn1.to_{name}.{part}"] = tensor
        table = ours["y_embedder.embedding_table.weight"]
        state[f"{to}.norm1.emb.class_embedder.embedding_table.weight"] = table
        # The authors' frequencies end at 10000^(-127/128), diffusers' at 1/10000.
        theirs.transformer_blocks[index].norm1.emb.time_proj.downscale_freq_shift = 0
    state |= {f"{to}.{part}": ours[f"{of}.{part}"] for to, of in pairs.items() for part in ("weight", "bias")}
    theirs.load_state_dict(state, assign=True)
    return theirs.eval()


@pytest.mark.parametrize(
    ("factory", "shape"), [(dit_s2, (12, 384, 6)), (lambda: DiT(2, 144, 2), (2, 144, 2))], ids=["dit_s2", "narrow"]
)
def test_a_dit_computes_the_same_as_that_of_diffusers(diffusers, factory, shape):
    with META:
        network = factory()
    network = with_weights(network)
    theirs = diffusers_dit(diffusers, network, 64, *shape)
    latents, timesteps, classes = inputs(network, 64)
    with torch.inference_mode():
        expected = theirs(latents, timestep=timesteps, class_labels=classes, return_dict=False)[0]
        assert_equal(network(latents, timesteps, classes), expected)


def test_diffusers_has_the_parameters_of_dit_xl2_and_an_embedder_of_the_conditions_in_each_block(diffusers):
    with META:
        theirs = diffusers.DiTTransformer2DModel(out_channels=8, attention_bias=True)  # its defaults are DiT-XL/2's
    embedder = sum(weight.numel() for weight in theirs.transformer_blocks[0].norm1.emb.parameters())
    assert sum(weight.numel() for weight in theirs.parameters()) == 674_834_720 + 27 * embedder


@pytest.mark.parametrize(
    ("factory", "channels", "groups"),
    [(unet, (128, 128, 256, 256, 512, 512), 32), (unet_s, (32, 32, 64, 64, 128, 128), 8)],
    ids=["unet", "unet_s"],
)
def test_a_unet_computes_the_same_as_that_of_diffusers(diffusers, factory, channels, groups):
    with META:
        theirs = diffusers.UNet2DModel(
            sample_size=64, block_out_channels=channels, norm_num_groups=groups, norm_eps=1e-6, attention_head_dim=None,
            flip_sin_to_cos=False, freq_shift=1, downsample_padding=0,
            down_block_types=("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
        )  # fmt: skip
    network = with_weights(factory())
    theirs.load_state_dict(network.state_dict(), assign=True)
    pixels, timesteps = inputs(network, 32, batch=1)
    with torch.inference_mode():
        assert_equal(network(pixels, timesteps), theirs.eval()(pixels, timesteps, return_dict=False)[0])


@pytest.mark.parametrize(
    ("factory", "channels", "groups"),
    [(kl_decoder, (128, 256, 512, 512), 32), (kl_decoder_s, (32, 64, 128, 128), 8)],
    ids=["kl_decoder", "kl_decoder_s"],
)
def test_a_decoder_computes_the_same_as_that_of_diffusers(diffusers, factory, channels, groups):
    with META:
        theirs = diffusers.AutoencoderKL(
            block_out_channels=channels, norm_num_groups=groups, layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
    network = with_weights(factory())
    loaded = theirs.load_state_dict(network.state_dict(), strict=False, assign=True)
    assert not loaded.unexpected_keys
    assert all(key.startswith(("encoder.", "quant_conv.")) for key in loaded.missing_keys)
    (latents,) = inputs(network, 32, batch=1)
    with torch.inference_mode():
        assert_equal(network(latents), theirs.eval().decode(latents, return_dict=False)[0])


def assert_equal(ours, expected):
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()


# Blocks, weights and sizes.


@pytest.mark.parametrize(
    ("block", "shapes"),
    [
        (lambda: Block(8, 2), [(1, 3, 8), (1, 8)]),
        (lambda: ResidualBlock(4, 8, 2, condition=6), [(1, 4, 3, 2), (1, 6)]),
        (lambda: MiddleBlock(4, 2), [(1, 4, 2, 3)]),
        (lambda: Downsampling(2), [(1, 2, 4, 4)]),
        (lambda: Upsampling(2), [(1, 2, 2, 3)]),
    ],
    ids=["transformer", "residual", "attention", "downsampling", "upsampling"],
)
def test_the_gradient_of_a_block_equals_finite_differences_in_float64(block, shapes):
    torch.manual_seed(0)
    module = block().double()
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    weights = list(module.parameters())

    def call(*arguments):
        return module(*arguments[: len(shapes)])

    assert torch.autograd.gradcheck(call, (*given, *weights), fast_mode=True)


@pytest.mark.parametrize("factory", [dit_s2, unet_s, kl_decoder_s])
def test_the_seed_determines_the_weights(factory):
    first, same, other = (with_weights(factory(), seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("factory", [dit_s2, unet_s, kl_decoder_s])
def test_checkpointing_changes_no_output_and_no_gradient(factory):
    network = with_weights(factory()).requires_grad_(False)
    latents, *conditions = inputs(network, 64, batch=1)
    results = []
    for checkpointed in (False, True):
        network.checkpointed = checkpointed
        leaf = latents.clone().requires_grad_(True)
        output = network(leaf, *conditions)
        output.square().mean().backward()
        results.append((output.detach(), leaf.grad))
    for plain, recomputed in zip(*results, strict=True):
        assert torch.allclose(plain, recomputed, rtol=1e-4, atol=1e-6)


def test_an_image_may_have_two_different_sides():
    for network, latents in ((dit_s2(), (4, 6)), (unet_s(), (64, 96)), (kl_decoder_s(), (3, 5))):
        output = network(
            torch.empty(1, network.latent_channels, *latents, device=META), *network.conditions(1, META)
        )  # fmt: skip
        scale = 8 if network.latent_px == network.factor_px else 1
        assert output.shape[2:] == (latents[0] * scale, latents[1] * scale)


def test_a_state_dict_of_another_network_is_rejected(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(with_weights(kl_decoder_s()).state_dict(), path)
    check_weights(kl_decoder_s(), str(path))
    with pytest.raises(InputError, match=r"'post_quant_conv.weight'|of shape \(128, 4, 3, 3\), where the model has"):
        check_weights(kl_decoder(), str(path))
    with pytest.raises(InputError, match="has no ImageNet weights"):
        check_weights(dit_s2(), "imagenet")
