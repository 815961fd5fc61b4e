import sys

import pytest
import torch
from PIL import Image

from models import images, tiling_errors
from models.api import import_tiler
from models.errors import InputError, Unsupported
from models.generators import materialise
from models.kl_decoder import KLDecoder
from models.steps.tiled_decode import TiledDecode, reference_decode
from models.tilers import Edges, SeparateTiles, Tiler
from models.workload import Workload
from tests.paths import PICTURES


def narrow():
    """A decoder with few channels."""
    with torch.device("meta"):
        return KLDecoder((16, 16, 8, 8), groups=4)


class EndsAt(Tiler):
    """Halves side by side, or an edge that the image does not have."""

    def __init__(self, decoder, edge=32):
        self._tiles, self._edge = SeparateTiles(decoder, side=4), edge

    def __call__(self, latents):
        return self._tiles(latents)

    def edges(self, height_px, width_px):
        return Edges((self._edge,), (self._edge,))


def outside(decoder):
    return EndsAt(decoder, edge=100)


def too_small(decoder):
    return lambda latents: decoder(latents)[..., 1:]


def workload(tiler, side=64, **further):
    reference = tiler if ":" in tiler else f"{__file__}:{tiler}"
    return Workload("", f"{__file__}:narrow", "cpu", side, side, tiler=reference, content=str(PICTURES / "content.jpg"), **further)  # fmt: skip


def test_a_call_decodes_noise_with_the_tiler():
    step = TiledDecode(workload("EndsAt"))
    step()
    with torch.no_grad():
        assert step.loss() == pytest.approx(float(SeparateTiles(step.network, 4)(step.latents).mean()))


def test_the_errors_are_those_against_the_whole_decode_with_a_seam_at_the_edges(tmp_path):
    step = TiledDecode(workload("EndsAt", precision="float32"))
    result = step.errors("noise", tmp_path / "map.png")
    with torch.no_grad():
        latents, exact = step.latents.double(), step.network.double()
        whole, tiled = exact(latents), SeparateTiles(exact, 4)(latents)
    assert result["relative_l2"] == pytest.approx(float((tiled - whole).norm() / whole.norm()), rel=1e-4)
    assert result["largest_difference"] == pytest.approx(float((tiled - whole).abs().max()), rel=1e-4)
    assert result["seam"] > 1.5
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.size == (64, 64)
        assert float(picture.text["white"]) == pytest.approx(result["error_map_white"], rel=1e-5)


def test_the_whole_decode_has_no_error_and_an_exact_tiler_only_that_of_rounding(tmp_path):
    assert TiledDecode(workload("models.tilers:Whole")).errors("noise", tmp_path / "map.png")["largest_difference"] == 0
    # An exact one adds in another order.
    step = TiledDecode(workload("models.tilers:Whole"))
    exact = step.network.double()
    step._tiler = lambda latents: exact(latents.double()).float()
    with torch.no_grad():
        single = TiledDecode(workload("models.tilers:Whole"))
        result = tiling_errors.errors(
            step._tiler(step.latents), reference_decode(single.network, single.latents), Edges((32,), ())
        )
    assert 0 < result.relative_l2 < 1e-5


def test_what_a_tiler_must_not_do_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"image of shape \(1, 3, 64, 63\), where \(1, 3, 64, 64\) is wanted"):
        TiledDecode(workload("too_small"))()
    with pytest.raises(InputError, match="an edge at row 100, which is not within an image of 64 px"):
        TiledDecode(workload("outside")).errors("noise", tmp_path / "map.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="error map .* cannot be written"):
        TiledDecode(workload("EndsAt")).errors("noise", tmp_path / "file" / "map.png")


def test_without_diffusers_its_tiling_and_its_encoder_are_skipped_with_the_extras_name(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.delitem(sys.modules, "models.diffusers_autoencoder", raising=False)
    with pytest.raises(Unsupported, match=r"extra 'diffusers' .*pip install -e '\.\[diffusers\]'"):
        import_tiler("models.diffusers_autoencoder:DiffusersTiling")
    with pytest.raises(Unsupported, match="extra 'diffusers'"):
        TiledDecode(workload("EndsAt")).errors("photograph", tmp_path / "map.png")


# With diffusers.

DIFFUSERS = "models.diffusers_autoencoder:DiffusersTiling"


@pytest.fixture
def diffusers():
    return pytest.importorskip("models.diffusers_autoencoder", exc_type=Unsupported)


def test_the_tiling_of_diffusers_is_exact_up_to_512_px_and_shares_the_weights(diffusers, tmp_path):
    step = TiledDecode(workload(DIFFUSERS, side=128))
    result = step.errors("noise", tmp_path / "map.png")
    assert result["relative_l2"] < 1e-5
    assert result["seam"] is None
    pointers = {value.data_ptr() for value in step.network.state_dict().values()}
    assert {value.data_ptr() for value in step._tiler._autoencoder.state_dict().values()} == pointers


def test_the_tiles_of_diffusers_are_where_its_edges_say(diffusers):
    """Each pixel is a tile's own decode, or a blend of two with linear weights, which end at the edges."""
    decoder = narrow()
    materialise(decoder, torch.device("cpu"))
    tiler = diffusers.DiffusersTiling(decoder.eval().requires_grad_(False))
    assert tiler.edges(64, 1024) == Edges((), (384, 512, 768, 896))
    assert tiler.edges(512, 512) == Edges()
    torch.manual_seed(0)
    latents = torch.randn(1, 4, 4, 80)
    with torch.no_grad():
        image = tiler(latents)
        first, second = decoder(latents[..., :64]), decoder(latents[..., 48:])
    start, stop = tiler.edges(32, 640).columns
    weight = torch.arange(stop - start) / (stop - start)
    blended = first[..., start:stop] * (1 - weight) + second[..., : stop - start] * weight
    expected = torch.cat((first[..., :start], blended, second[..., stop - start :]), dim=3)
    assert (image - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_photograph_is_encoded_with_random_weights_to_latents_of_unit_scale(diffusers, tmp_path):
    step = TiledDecode(workload("EndsAt"))
    latents = step._encoded_photograph()
    assert latents.shape == step.latents.shape
    assert latents.mean(dim=(2, 3)).abs().max() < 1e-5
    assert (latents.std(dim=(2, 3)) - 1).abs().max() < 1e-4
    assert step.errors("photograph", tmp_path / "map.png") != step.errors("noise", tmp_path / "map.png")


def test_a_photograph_is_encoded_with_the_encoder_of_given_weights(diffusers, tmp_path):
    decoder = narrow()
    autoencoder = diffusers._autoencoder_like(decoder)
    torch.manual_seed(1)
    state = {key: torch.randn(value.shape) * 0.1 for key, value in autoencoder.state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    autoencoder.load_state_dict(state, assign=True)
    step = TiledDecode(workload("EndsAt", weights=str(tmp_path / "weights.pth")))
    pixels = images.fit(images.read(step._workload.content), 64, 64)
    with torch.no_grad():
        expected = autoencoder.eval().encode(2 * pixels - 1).latent_dist.mean
    assert torch.allclose(step._encoded_photograph(), expected, atol=1e-5)


def test_a_decoder_of_another_architecture_is_unsupported(diffusers):
    with pytest.raises(Unsupported, match="decoders of the KL autoencoder only"):
        diffusers.DiffusersTiling(torch.nn.Conv2d(4, 3, 1))
