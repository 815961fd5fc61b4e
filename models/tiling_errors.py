"""How far the image of a tiling decoder is from that of the whole decode: figures, and a picture of the difference.

D is the difference of the two images, `tiled - whole`; pixels of a decoder are nominally in [-1, 1]. Means are over all
images, channels and pixels, in float64. Two figures are about edges of tiles (`models.tilers.Edges`):

- `edge_difference` is the mean of |D| over pixels within `EDGE_PX` of an edge, `difference_elsewhere` that over all
  other pixels. It is large where tiles lack what lies beyond their edge.
- `edge_step` is the mean of |D(p) - D(q)| over all pairs of adjacent pixels p, q with an edge between them, and
  `step_elsewhere` that over all other pairs of adjacent pixels. `seam` is their ratio: 1 if the difference does not
  change at edges any more than elsewhere, so that no seam can be seen, however large the difference is. A tiler that
  blends its tiles has a seam near 1, and its error shows in the other figures.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from models import images
from models.tilers import Edges

# One latent of Stable Diffusion's autoencoder, on each side of an edge.
EDGE_PX = 8
# Images are compared in strips of so many rows: 100 MB in float64 for the width of 8K.
_STRIP_ROWS = 512
_LARGEST_MAP_PX = 512


@dataclass(frozen=True)
class TilingErrors:
    """Figures of one image; see above. None where there is nothing to take the mean of, or nothing to divide by.

    Attributes:
        relative_l2: L2 norm of D over that of the whole decode.
        largest_difference: largest |D|.
        mean_difference: mean |D|.
    """

    relative_l2: float | None
    largest_difference: float
    mean_difference: float
    edge_difference: float | None
    difference_elsewhere: float | None
    edge_step: float | None
    step_elsewhere: float | None
    seam: float | None


class _Mean:
    """A mean of numbers that are added in parts; None without numbers."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def add(self, numbers: Tensor) -> None:
        self._sum += float(numbers.sum())
        self._count += numbers.numel()

    @property
    def value(self) -> float | None:
        return self._sum / self._count if self._count else None


def errors(tiled: Tensor, whole: Tensor, edges: Edges) -> TilingErrors:
    """The figures of two images of shape (batch, channels, height, width)."""
    height, width = whole.shape[-2:]
    near_rows, near_columns = _near(edges.rows, height), _near(edges.columns, width)
    between_rows, between_columns = _positions(edges.rows, height), _positions(edges.columns, width)
    near, far, at_edges, elsewhere, everywhere = _Mean(), _Mean(), _Mean(), _Mean(), _Mean()
    squares = whole_squares = largest = 0.0
    before: Tensor | None = None
    for top, difference in _strips(tiled, whole):
        rows = slice(top, top + difference.shape[-2])
        size = difference.abs()
        squares += float(difference.square().sum())
        whole_squares += float(_double(whole[..., rows, :]).square().sum())
        largest = max(largest, float(size.max()))
        everywhere.add(size)
        is_near = near_rows[rows, None] | near_columns
        near.add(size[..., is_near])
        far.add(size[..., ~is_near])
        sideways = difference.diff(dim=-1).abs()
        at_edges.add(sideways[..., between_columns[1:]])
        elsewhere.add(sideways[..., ~between_columns[1:]])
        # The first row of a strip is compared with the last one of the strip above.
        joined = difference if before is None else torch.cat((before, difference), dim=-2)
        downwards = joined.diff(dim=-2).abs()
        is_edge = between_rows[rows.stop - downwards.shape[-2] : rows.stop]
        at_edges.add(downwards[..., is_edge, :])
        elsewhere.add(downwards[..., ~is_edge, :])
        before = difference[..., -1:, :]
    mean = everywhere.value
    assert mean is not None, "an image has pixels"
    return TilingErrors(
        relative_l2=math.sqrt(squares / whole_squares) if whole_squares else None,
        largest_difference=largest,
        mean_difference=mean,
        edge_difference=near.value,
        difference_elsewhere=far.value,
        edge_step=at_edges.value,
        step_elsewhere=elsewhere.value,
        seam=_ratio(at_edges.value, elsewhere.value),
    )


def save_error_map(tiled: Tensor, whole: Tensor, path: Path) -> float:
    """Write a small picture of |D|, averaged over images and channels and over squares of pixels: black is none.

    Returns: the average that is white, the largest one.

    Raises:
        OSError: the file cannot be written.
    """
    side = -(-max(whole.shape[-2:]) // _LARGEST_MAP_PX)
    rows = [
        avg_pool2d(difference.abs().mean(dim=(0, 1), keepdim=True), side, ceil_mode=True)
        for _, difference in _strips(tiled, whole, _STRIP_ROWS // side * side or side)
    ]
    averages = torch.cat(rows, dim=-2)[0]
    white = float(averages.max())
    shown = averages / white if white else averages
    path.parent.mkdir(parents=True, exist_ok=True)
    images.save(shown.expand(3, -1, -1), path, {"Software": "goghmark", "white": f"{white:.6g}"})
    return white


def _strips(tiled: Tensor, whole: Tensor, rows: int = _STRIP_ROWS) -> Iterator[tuple[int, Tensor]]:
    """The first row of each strip, and D there."""
    for top in range(0, whole.shape[-2], rows):
        strip = slice(top, top + rows)
        yield top, _double(tiled[..., strip, :]) - _double(whole[..., strip, :])


def _double(image: Tensor) -> Tensor:
    # On the host: not every accelerator has float64.
    return image.detach().cpu().double()


def _positions(edges: tuple[int, ...], length: int) -> Tensor:
    """Whether there is an edge before each row or column; shape (length,)."""
    marked = torch.zeros(length, dtype=torch.bool)
    marked[list(edges)] = True
    return marked


def _near(edges: tuple[int, ...], length: int) -> Tensor:
    """Whether each row or column is within `EDGE_PX` of an edge; shape (length,)."""
    marked = torch.zeros(length, dtype=torch.bool)
    for edge in edges:
        marked[max(0, edge - EDGE_PX) : edge + EDGE_PX] = True
    return marked


def _ratio(part: float | None, base: float | None) -> float | None:
    return part / base if part is not None and base else None
