import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from models import tiling_errors
from models.tilers import Edges
from models.tiling_errors import EDGE_PX, errors, save_error_map

HEIGHT, WIDTH = 50, 70
EDGES = Edges(rows=(20,), columns=(24, 48))


@pytest.fixture(autouse=True)
def short_strips(monkeypatch):
    """Several strips an image, with an edge inside one and at the border of two."""
    monkeypatch.setattr(tiling_errors, "_STRIP_ROWS", 10)


def images_of(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    whole = torch.randn(2, 3, HEIGHT, WIDTH, dtype=dtype)
    return whole + 0.01 * torch.randn_like(whole), whole


def reference(tiled, whole, edges):
    """The figures, pixel by pixel as their definitions say it."""
    difference = tiled.double().numpy() - whole.double().numpy()
    near, far, at_edges, elsewhere = [], [], [], []
    for y in range(HEIGHT):
        for x in range(WIDTH):
            is_near = any(edge - EDGE_PX <= y < edge + EDGE_PX for edge in edges.rows) or any(
                edge - EDGE_PX <= x < edge + EDGE_PX for edge in edges.columns
            )
            (near if is_near else far).append(np.abs(difference[..., y, x]))
            if y:
                step = np.abs(difference[..., y, x] - difference[..., y - 1, x])
                (at_edges if y in edges.rows else elsewhere).append(step)
            if x:
                step = np.abs(difference[..., y, x] - difference[..., y, x - 1])
                (at_edges if x in edges.columns else elsewhere).append(step)
    means = {
        name: np.mean(values) if values else None
        for name, values in {
            "edge_difference": near, "difference_elsewhere": far, "edge_step": at_edges, "step_elsewhere": elsewhere,
        }.items()
    }  # fmt: skip
    return {
        "relative_l2": np.linalg.norm(difference) / np.linalg.norm(whole.double().numpy()),
        "largest_difference": np.abs(difference).max(),
        "mean_difference": np.abs(difference).mean(),
        **means,
        "seam": None if means["edge_step"] is None else means["edge_step"] / means["step_elsewhere"],
    }


@pytest.mark.parametrize(
    "edges", [EDGES, Edges(), Edges(rows=(20, 30)), Edges(columns=(1, 69))], ids=("both", "none", "rows", "borders")
)
def test_the_figures_are_those_of_their_definitions(edges):
    tiled, whole = images_of()
    tiled[..., 20:, :] += 0.3
    tiled[..., 33, 5] -= 2
    result, expected = asdict(errors(tiled, whole, edges)), reference(tiled, whole, edges)
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        assert result[name] == (None if value is None else pytest.approx(value, rel=1e-12)), name


def test_a_planted_seam_is_found_and_the_same_shift_of_the_whole_image_is_none():
    tiled, whole = images_of()
    shifted = errors(tiled + 0.5, whole, EDGES)
    assert shifted.mean_difference == pytest.approx(0.5, rel=1e-2)
    assert shifted.seam == pytest.approx(1, abs=0.05)
    tiled[..., 20:, :] += 0.5
    seamed = errors(tiled, whole, EDGES)
    # Noise of standard deviation 0.01: a step has a mean of 0.02 / sqrt(pi). One of three edges has the seam.
    noise = 0.02 / math.sqrt(math.pi)
    crossing = WIDTH / (WIDTH + 2 * HEIGHT)
    assert seamed.seam == pytest.approx((0.5 * crossing + noise * (1 - crossing)) / noise, rel=0.05)
    elsewhere = errors(tiled, whole, Edges(rows=(30,)))
    assert elsewhere.seam < 0.8  # the steps at row 20 count as elsewhere


def test_a_difference_near_edges_is_distinguished_from_one_elsewhere():
    tiled, whole = images_of()
    tiled = whole.clone()
    tiled[..., 20 - EDGE_PX : 20 + EDGE_PX, :] += 0.25
    result = errors(tiled, whole, Edges(rows=(20,)))
    assert result.edge_difference == pytest.approx(0.25, rel=1e-5)
    assert result.difference_elsewhere == 0


def test_equal_images_have_no_error_and_no_seam():
    _, whole = images_of()
    result = errors(whole.clone(), whole, EDGES)
    assert (result.relative_l2, result.largest_difference, result.edge_step, result.seam) == (0, 0, 0, None)
    assert errors(whole, torch.zeros_like(whole), EDGES).relative_l2 is None


def test_an_error_map_shows_where_the_difference_is(tmp_path):
    whole = torch.zeros(1, 3, 1030, 1200, dtype=torch.float64)
    tiled = whole.clone()
    tiled[..., 600:606, 300:306] = 0.5
    tiled[:, 0, 1029, 1199] = 0.3  # in a block that the image does not fill: 1030 = 343 x 3 + 1
    white = save_error_map(tiled, whole, tmp_path / "maps" / "map.png")
    assert white == pytest.approx(0.5)
    with Image.open(tmp_path / "maps" / "map.png") as picture:
        shown = np.asarray(picture.convert("L"))
    assert shown.shape == (344, 400)
    assert (shown[200:202, 100:102] == 255).all()
    assert shown[343, 399] == round(255 * 0.3 / 3 / 3 / 0.5)  # one of three channels, one of the three pixels there
    assert np.count_nonzero(shown) == 5
