import pytest
import torch

from models.errors import InputError
from models.generators import materialise
from models.kl_decoder import KLDecoder
from models.tilers import (
    Edges,
    SeparateTiles,
    UnknownTiles,
    Whole,
    check_edges,
    check_image,
    make_tiler,
)

LATENTS = torch.zeros(1, 4, 8, 6)


@pytest.fixture(scope="module")
def decoder():
    with torch.device("meta"):
        network = KLDecoder((16, 16, 8, 8), groups=4)
    materialise(network, torch.device("cpu"), dtype=torch.float64)
    return network.eval().requires_grad_(False)


def test_separate_tiles_are_the_decodes_of_their_latents_and_end_where_it_says(decoder):
    torch.manual_seed(0)
    latents = torch.randn(1, 4, 8, 11, dtype=torch.float64)
    tiler = SeparateTiles(decoder, side=4)
    image = tiler(latents)
    assert image.shape == (1, 3, 64, 88)
    assert torch.equal(image[..., 32:, 32:64], decoder(latents[..., 4:, 4:8]))
    assert torch.equal(image[..., :32, 64:], decoder(latents[..., :4, 8:]))
    assert tiler.edges(64, 88) == Edges(rows=(32,), columns=(32, 64))
    assert not torch.allclose(image, decoder(latents), rtol=0.1)


def test_a_factory_may_return_a_tiler_or_any_callable(decoder):
    whole = make_tiler(Whole, decoder)
    assert isinstance(whole, Whole)
    other = make_tiler(lambda network: network.forward, decoder)
    assert isinstance(other, UnknownTiles)
    assert other.edges(64, 64) == Edges()
    latents = LATENTS.double()
    assert torch.equal(other(latents), whole(latents))
    with pytest.raises(InputError, match="the factory of the tiler returns str, which cannot be called; return a call"):
        make_tiler(lambda network: "tiles", decoder)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (torch.zeros(1, 3, 64, 40), r"returned an image of shape \(1, 3, 64, 40\), where \(1, 3, 64, 48\) is wanted"),
        (torch.zeros(3, 64, 48), r"returned an image of shape \(3, 64, 48\), where"),
        ((torch.zeros(1, 3, 64, 48),), "returned tuple, no tensor; it must return the image, of shape"),
    ],
    ids=("size", "batch", "tuple"),
)
def test_an_image_of_another_size_is_refused(image, sentence):
    with pytest.raises(InputError, match=sentence):
        check_image(image, LATENTS, 8)


def test_an_image_of_the_latents_size_is_accepted():
    image = torch.zeros(1, 3, 64, 48)
    assert check_image(image, LATENTS, 8) is image


def test_edges_are_sorted_and_must_lie_within_the_image():
    assert check_edges(Edges((40, 8, 40), (1,)), 64, 48) == Edges((8, 40), (1,))
    with pytest.raises(InputError, match="an edge at row 64, which is not within an image of 64 px; edges are from 1 to 63"):  # fmt: skip
        check_edges(Edges((8, 64), ()), 64, 48)
    with pytest.raises(InputError, match="an edge at column 0"):
        check_edges(Edges((), (0,)), 64, 48)
