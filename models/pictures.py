"""Pictures from files, resized to the size of a cell."""

from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop, pil_to_tensor, resize

from models.errors import InputError


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


def fit(picture: Tensor, width: int, height: int) -> Tensor:
    """The picture scaled until it covers width x height, the overhang cut off equally on both sides.

    Returns: float32 in [0, 1], shape (1, 3, height, width).
    """
    found_height, found_width = picture.shape[-2:]
    scale = max(width / found_width, height / found_height)
    covering = [max(height, round(found_height * scale)), max(width, round(found_width * scale))]
    covered = center_crop(resize(picture, covering, antialias=True), [height, width])
    # Decoders deliver pixels with their channels last; `plain` means torch's default layout. Divided in place: one
    # float image is alive, not two.
    return covered.unsqueeze(0).to(torch.float32, memory_format=torch.contiguous_format).div_(255.0)
