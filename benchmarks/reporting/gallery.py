"""Generated pictures, by model and resolution.

Short because pictures need no plot.
"""

import base64
import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from benchmarks.reporting.data import ReportData, ShownCell
from benchmarks.reporting.sections import Picture, Section
from fixtures.formatting import figure

# The size on a high-density screen; twenty of them are half a megabyte.
_SIDE_PX = 480
_QUALITY = 82
_MOST_PICTURES = 24


def gallery(report_data: ReportData) -> Section | None:
    """The section; None if no cell has a picture whose file exists."""
    cells = sorted(report_data.cells, key=lambda cell: (cell.model, cell.pixels))
    shown = [picture for cell in cells if (picture := picture_of(cell)) is not None]
    if not shown:
        return None
    hidden = len(shown) - _MOST_PICTURES
    return Section(
        "pictures",
        "Pictures",
        "The generated images, by model and resolution; smaller copies.",
        pictures=shown[:_MOST_PICTURES],
        notes=[f"{hidden} more are beside the record."] if hidden > 0 else [],
    )


def picture_of(cell: ShownCell) -> Picture | None:
    """A small copy of a cell's picture; None without one, or if its file is missing or not a picture."""
    uri = small_copy(cell, cell.word("picture"))
    return None if uri is None else Picture(uri, _caption(cell), cell)


def small_copy(cell: ShownCell, recorded: str) -> str | None:
    """The data URI of a small copy of a picture, whose path the record has; None as in `picture_of`."""
    if not recorded:
        return None
    path = cell.path.parent / Path(recorded)
    copy = io.BytesIO()
    try:
        with Image.open(path) as picture:
            # JPEG decoders can scale 8K down while decoding.
            picture.draft("RGB", (_SIDE_PX, _SIDE_PX))
            small = picture.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
    small.thumbnail((_SIDE_PX, _SIDE_PX), Image.Resampling.LANCZOS)
    small.save(copy, "JPEG", quality=_QUALITY)
    text = base64.b64encode(copy.getvalue()).decode("ascii")
    return f"data:image/jpeg;base64,{text}"


def _caption(cell: ShownCell) -> str:
    decoded = "decoded by " if cell.kind == "decode" else ""
    words = [f"{decoded}{cell.name}, {cell.size_px} px"]
    if iterations := cell.number("iterations"):
        words.append(f"{figure(iterations)} iterations")
    return ", ".join(words)
