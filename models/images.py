"""Pictures from files, resized to the size of a cell, and images into files."""

from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop, pil_to_tensor, resize

from models import files
from models.errors import InputError

# An image becomes bytes that many rows at a time: in float32 those of 8K are 24 MB, the whole image 400 MB.
_BAND_ROWS = 256


def read(path: str | Path) -> Tensor:
    """The picture as RGB bytes, the right way up, shape (3, height, width).

    Raises:
        InputError: no such file, or no picture that Pillow can decode.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no picture {str(path)!r}; give the path of a JPEG, PNG, GIF or WebP file")
    try:
        with Image.open(path) as picture:
            return pil_to_tensor(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: a broken PNG
        raise InputError(f"the picture {str(path)!r} cannot be decoded; give a JPEG, PNG, GIF or WebP file") from error


def cover(picture: Tensor, width: int, height: int) -> Tensor:
    """The picture scaled until it covers width x height, the overhang cut off equally on both sides.

    Args:
        picture: shape (3, height, width); what comes back has the same type of numbers.
    """
    found_height, found_width = picture.shape[-2:]
    scale = max(width / found_width, height / found_height)
    covering = [max(height, round(found_height * scale)), max(width, round(found_width * scale))]
    return center_crop(resize(picture, covering, antialias=True), [height, width])


def fit(picture: Tensor, width: int, height: int) -> Tensor:
    """The picture as `cover` makes it, as an image: float32 in [0, 1], shape (1, 3, height, width)."""
    covered = cover(picture, width, height)
    # Decoders deliver pixels with their channels last; `plain` means torch's default layout. Divided in place: one
    # float image is alive, not two.
    return covered.unsqueeze(0).to(torch.float32, memory_format=torch.contiguous_format).div_(255.0)


def save(image: Tensor, path: Path, facts: Mapping[str, str]) -> None:
    """Write an image as PNG, with the facts in text chunks of its metadata.

    Args:
        image: shape (3, height, width), bytes, or floats of which what is outside of [0, 1] is cut off.

    Raises:
        OSError: the file cannot be written; one that was there before still is.
    """
    chunks = PngInfo()
    for key, fact in facts.items():
        chunks.add_text(key, fact)
    with files.replacing(path) as file:
        _in_bands(image).save(file, format="png", pnginfo=chunks)


def _in_bands(image: Tensor) -> Image.Image:
    height, width = image.shape[-2:]
    picture = Image.new("RGB", (width, height))
    for top in range(0, height, _BAND_ROWS):
        band = _as_bytes(image[:, top : top + _BAND_ROWS])
        picture.paste(Image.fromarray(band.permute(1, 2, 0).cpu().numpy()), (0, top))
    return picture


def _as_bytes(band: Tensor) -> Tensor:
    if band.dtype == torch.uint8:
        return band
    return band.detach().float().clamp(0, 1).mul_(255).round_().to(torch.uint8)
