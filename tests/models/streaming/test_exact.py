"""The functions for people with one question, with a user's network and with diffusers' decoder."""

import pytest
import torch
from torch import nn

from models.errors import InputError
from models.streaming.exact import decode_exactly, gradient_exactly
from tests.models.streaming.networks import distance, latents_of, own_network, plain, small_decoder, with_random_norms


def test_a_batch_is_decoded_exactly_with_its_progress():
    network = small_decoder()
    latents = torch.cat([latents_of(5, 3), -latents_of(5, 3)])
    shares = []
    image = decode_exactly(network, latents, memory_bytes=30 * 2**20, progress=shares.append)
    assert distance(image, network(latents)) < 1e-12
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_image_and_gradient_of_a_users_network_are_exact():
    network, latents = own_network(), latents_of(4, 3, channels=2)
    image, upstream, gradient = plain(network, latents)
    ours, ours_back = gradient_exactly(network, latents, lambda _: upstream)
    assert distance(ours, image) < 1e-12
    assert distance(ours_back, gradient) < 1e-12


def test_the_decoder_of_diffusers_is_decoded_exactly(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(4, 8, 8, 16), layers_per_block=2, norm_num_groups=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    ).double()  # fmt: skip
    with_random_norms(vae)
    latents = latents_of(5, 3)
    image = decode_exactly(vae, latents, memory_bytes=30 * 2**20, decode=lambda z: vae.decode(z).sample)
    assert distance(image, vae.decode(latents).sample) < 1e-12


class DependsOnSize(nn.Module):
    """Adds one more layer to larger inputs than that of the trace."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(2, 2, 3, padding=1) for _ in range(2))

    def forward(self, latents):
        features = self.layers[0](latents)
        return self.layers[1](features) if latents.shape[3] > 4 else features


@pytest.mark.parametrize(
    ("network", "latents", "reason"),
    [
        (DependsOnSize(), torch.zeros(1, 2, 8, 8), "compute something else than the network on a small example"),
        (nn.Conv2d(2, 2, 1), torch.zeros(1, 2, 0, 8), r"have the shape \(1, 2, 0, 8\); give"),
        (nn.Conv2d(2, 2, 1), torch.zeros(2, 8, 8), r"have the shape \(2, 8, 8\); give"),
        (nn.Conv2d(2, 2, 1), torch.zeros(1, 2, 8, 8, dtype=torch.float64), "weights torch.float32 on cpu; convert"),
    ],
)
def test_input_that_cannot_be_decoded_is_refused_in_a_sentence(network, latents, reason):
    with pytest.raises(InputError, match=reason):
        decode_exactly(network, latents)


def test_maps_of_latents_on_a_cpu_are_not_moved_to_the_host():
    with pytest.raises(InputError, match="the latents are on a cpu, whose maps are on the host anyway; leave maps_on_"):
        decode_exactly(own_network(), latents_of(4, 3, channels=2), maps_on_host=True)
