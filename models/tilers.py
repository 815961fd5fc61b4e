"""Decoders that work in tiles, as `benchmarks/test_tilers.py` compares them: their interface, and two of our own.

A tiler is made by its factory from a decoder with weights, and turns latents into an image. `Whole` uses no tiles, and
is what all are compared with. `SeparateTiles` is what an exact tiler must not do: it shows that the figures see it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from models.errors import InputError
from models.generators import Generator


@dataclass(frozen=True)
class Edges:
    """Where tiles begin or end in an image, in pixels; an edge at 512 lies between pixels 511 and 512.

    Attributes:
        rows: of the edges between rows.
        columns: of those between columns.
    """

    rows: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()


class Tiler(ABC):
    """A decoder that works in tiles."""

    @abstractmethod
    def __call__(self, latents: Tensor) -> Tensor:
        """The image of latents.

        Args:
            latents: shape (batch, channels, height, width).

        Returns: shape (batch, 3, height x latent_px, width x latent_px).
        """

    def edges(self, height_px: int, width_px: int) -> Edges:
        """Where the tiles of an image of this size begin or end; unknown by default, without a seam figure."""
        del height_px, width_px
        return Edges()


class UnknownTiles(Tiler):
    """Any callable from latents to an image."""

    def __init__(self, decode: Callable[[Tensor], Tensor]) -> None:
        self._decode = decode

    def __call__(self, latents: Tensor) -> Tensor:
        return self._decode(latents)


class Whole(Tiler):
    """The image as one tile, by the decoder itself."""

    def __init__(self, decoder: nn.Module) -> None:
        self._decoder = decoder

    def __call__(self, latents: Tensor) -> Tensor:
        return cast(Tensor, self._decoder(latents))


class SeparateTiles(Tiler):
    """Tiles side by side, each decoded as an image of its own: normalisation, attention and padding are per tile.

    Args:
        side: of a tile, in latents; 64 is the size that Stable Diffusion's autoencoder was trained with.
    """

    def __init__(self, decoder: Generator, side: int = 64) -> None:
        self._decoder = decoder
        self._side = side

    def __call__(self, latents: Tensor) -> Tensor:
        rows = [
            torch.cat([cast(Tensor, self._decoder(tile)) for tile in strip.split(self._side, dim=3)], dim=3)
            for strip in latents.split(self._side, dim=2)
        ]
        return torch.cat(rows, dim=2)

    def edges(self, height_px: int, width_px: int) -> Edges:
        step_px = self._side * self._decoder.latent_px
        return Edges(tuple(range(step_px, height_px, step_px)), tuple(range(step_px, width_px, step_px)))


def make_tiler(factory: Callable[..., object], decoder: nn.Module) -> Tiler:
    """The tiler that a factory makes of a decoder.

    Raises:
        InputError: it makes something that cannot be called.
    """
    tiler = factory(decoder)
    if isinstance(tiler, Tiler):
        return tiler
    if not callable(tiler):
        raise InputError(
            f"the factory of the tiler returns {type(tiler).__name__}, which cannot be called; return a callable from"
            " latents to an image, or a models.tilers.Tiler"
        )
    return UnknownTiles(tiler)


def check_image(image: object, latents: Tensor, latent_px: int) -> Tensor:
    """The image of a tiler, if it is one.

    Raises:
        InputError: it is no tensor, or has another size than the latents' image.
    """
    wanted = (latents.shape[0], 3, latents.shape[2] * latent_px, latents.shape[3] * latent_px)
    if not isinstance(image, Tensor):
        raise InputError(
            f"the tiler returned {type(image).__name__}, no tensor; it must return the image, of shape {wanted}"
        )
    if image.shape != wanted:
        raise InputError(f"the tiler returned an image of shape {tuple(image.shape)}, where {wanted} is wanted")
    return image


def check_edges(edges: Edges, height_px: int, width_px: int) -> Edges:
    """The edges of a tiler in order and each once, if they lie within the image.

    Raises:
        InputError: one does not.
    """

    def within(positions: Iterable[int], what: str, length_px: int) -> tuple[int, ...]:
        ordered = tuple(sorted(set(positions)))
        outside = [one for one in ordered if not 0 < one < length_px]
        if outside:
            raise InputError(
                f"the tiler has an edge at {what} {outside[0]}, which is not within an image of {length_px} px; edges"
                f" are from 1 to {length_px - 1}"
            )
        return ordered

    return Edges(within(edges.rows, "row", height_px), within(edges.columns, "column", width_px))
