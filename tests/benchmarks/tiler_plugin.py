"""A user's plugin that adds decoders which work in tiles; some of them must not be as they are."""

from models.tilers import Edges, SeparateTiles, Tiler


class Halves(Tiler):
    """Tiles of four latents."""

    def __init__(self, decoder):
        self._tiles = SeparateTiles(decoder, side=4)

    def __call__(self, latents):
        return self._tiles(latents)

    def edges(self, height_px, width_px):
        return Edges((32,), (32,))


def transposed(decoder):
    return lambda latents: decoder(latents).transpose(2, 3)


def raises(decoder):
    def decode(latents):
        raise RuntimeError("tile 7 is lost")

    return decode


def pytest_goghmark_tilers(add):
    add("halves", Halves)
    add("raises", raises)
    add("transposed", "tiler_plugin:transposed")
