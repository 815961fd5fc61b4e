"""Reading pictures from files, resizing them, and writing images as PNG."""

from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop, pil_to_tensor, resize

from models import files
from models.errors import InputError

# An image is converted to bytes in chunks of so many rows: 24 MB in float32 for 8K, where the whole image has 400 MB.
ROWS_PER_COPY = 256


def read(path: str | Path) -> Tensor:
    """The picture as RGB, uint8 of shape (3, height, width), rotated according to its EXIF orientation.

    Raises:
        InputError: the file does not exist, or Pillow cannot decode it.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no picture {str(path)!r}; give the path of a JPEG, PNG, GIF or WebP file")
    try:
        with Image.open(path) as picture:
            # In place, and without a conversion from RGB to RGB: each would copy a picture that needs no change.
            ImageOps.exif_transpose(picture, in_place=True)
            return pil_to_tensor(picture if picture.mode == "RGB" else picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: a broken PNG
        raise InputError(f"the picture {str(path)!r} cannot be decoded; give a JPEG, PNG, GIF or WebP file") from error


def cover(picture: Tensor, width: int, height: int) -> Tensor:
    """The picture scaled to cover width x height and cropped at the centre; dtype as before.

    Args:
        picture: shape (3, height, width).
    """
    source_height, source_width = picture.shape[-2:]
    scale = max(width / source_width, height / source_height)
    scaled_size = [max(height, round(source_height * scale)), max(width, round(source_width * scale))]
    return center_crop(resize(picture, scaled_size, antialias=True), [height, width])


def fit(picture: Tensor, width: int, height: int) -> Tensor:
    """The result of `cover` as float32 in [0, 1], shape (1, 3, height, width)."""
    covered = cover(picture, width, height)
    # Decoders return channels last; strategy `plain` needs torch's default layout. Divided in place, to hold one float
    # image instead of two.
    return covered.unsqueeze(0).to(torch.float32, memory_format=torch.contiguous_format).div_(255.0)


def save(image: Tensor, path: Path, facts: Mapping[str, str]) -> None:
    """Write an image as PNG, with `facts` as text chunks of its metadata.

    Args:
        image: shape (3, height, width), uint8, or floats, which are clamped to [0, 1].

    Raises:
        OSError: the file cannot be written; an existing file stays as it is.
    """
    chunks = PngInfo()
    for key, fact in facts.items():
        chunks.add_text(key, fact)
    with files.replacing(path) as file:
        _to_pillow(image).save(file, format="png", pnginfo=chunks)


def _to_pillow(image: Tensor) -> Image.Image:
    height, width = image.shape[-2:]
    picture = Image.new("RGB", (width, height))
    for top in range(0, height, ROWS_PER_COPY):
        rows = to_uint8(image[:, top : top + ROWS_PER_COPY])
        picture.paste(Image.fromarray(rows.permute(1, 2, 0).cpu().numpy()), (0, top))
    return picture


def to_uint8(rows: Tensor) -> Tensor:
    """Rows of an image in [0, 1], which is clamped, as bytes."""
    if rows.dtype == torch.uint8:
        return rows
    return rows.detach().float().clamp(0, 1).mul_(255).round_().to(torch.uint8)
