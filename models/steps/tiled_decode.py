"""The step of a decoder that works in tiles, and its errors against the whole decode.

Timed is one decode of seeded noise in inference mode: neither time nor memory depend on the values. Errors do, and are
measured afterwards, outside of any clock, on each kind of latents:

- `noise`: the latents that are timed;
- `photograph`: a picture encoded by diffusers' encoder, with the encoder of the weights' file, if it has one, or with
  random weights.

Tiler and whole decode have the same weights, precision and attention kernel, so that their difference is due to the
tiles, beside the rounding of that precision.
"""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from models import images
from models.errors import InputError
from models.generators import Generator
from models.steps.generators import GeneratorStep
from models.tilers import check_edges, check_image, make_tiler
from models.tiling_errors import errors, save_error_map
from models.weights import read_state
from models.workload import Workload, resolve


class TiledDecode(GeneratorStep):
    """One decode by the workload's tiler.

    Raises:
        InputError: the tiler's factory cannot be imported or makes no tiler; from a call: the tiler returned no image
            of the latents' size.
    """

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self._workload = workload
        self._tiler = make_tiler(resolve(workload.tiler), self._network)
        self._image: Tensor | None = None

    def loss(self) -> float | None:
        """Mean of the image: the step has no loss, but a number shows that real work was done."""
        return None if self._image is None else float(self._image.float().mean())

    def errors(self, latents: str, error_map: Path) -> dict[str, float | None]:
        """The tiler's errors on a kind of latents, one of `models.api.LATENTS`.

        Returns: the fields of `models.tiling_errors.TilingErrors`; and what is white in the picture of the errors,
            which is written to `error_map`.

        Raises:
            InputError: the tiler's edges or its image do not fit the latents, or the file cannot be written.
            Unsupported: diffusers' encoder is needed, and not installed.
        """
        self._image = None  # its memory is needed
        with torch.inference_mode(), self._computing():
            given = self._latents if latents == "noise" else self._encoded_photograph()
            tiled = self._decoded(given)
            whole = reference_decode(self._network, given)
        edges = check_edges(self._tiler.edges(*whole.shape[-2:]), *whole.shape[-2:])
        try:
            white = save_error_map(tiled, whole, error_map)
        except OSError as error:
            raise InputError(f"the error map {str(error_map)!r} cannot be written ({error.strerror})") from error
        return {**dataclasses.asdict(errors(tiled, whole, edges)), "error_map_white": white}

    def _iterate(self) -> None:
        self._image = None  # two images at a time would raise the peak
        with torch.inference_mode(), self._computing():
            self._image = self._decoded(self._latents)

    def _decoded(self, latents: Tensor) -> Tensor:
        return check_image(self._tiler(latents), latents, self._network.latent_px)

    def _encoded_photograph(self) -> Tensor:
        from models.diffusers_autoencoder import encoded, has_encoder  # noqa: PLC0415 - needs an extra; takes seconds

        work = self._workload
        weights = None if work.weights == "random" else read_state(Path(work.weights))
        if weights is not None and not has_encoder(weights):
            weights = None
        picture = images.fit(images.read(work.content), work.width, work.height)
        latents = encoded(picture.to(self._device), self._network, weights, work.seed)
        return latents.expand(work.batch, -1, -1, -1)


def reference_decode(network: Generator, latents: Tensor) -> Tensor:
    """The image that a tiler should have made: that of the plain whole decode."""
    image: Tensor = network(latents)
    return image
