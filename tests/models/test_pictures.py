import pytest
import torch
from torchvision.transforms.v2.functional import to_pil_image

from models import pictures
from models.errors import InputError


def test_a_picture_covers_the_cell_and_the_overhang_is_cut_off_on_both_sides(tmp_path):
    striped = torch.zeros(3, 20, 60, dtype=torch.uint8)
    striped[:, :, 20:40] = 255
    to_pil_image(striped).save(tmp_path / "striped.png")
    fitted = pictures.fit(pictures.read(tmp_path / "striped.png"), 20, 20)
    assert fitted.shape == (1, 3, 20, 20)
    assert torch.equal(fitted, torch.ones_like(fitted))
    assert fitted.is_contiguous()


def test_a_small_picture_is_enlarged_to_odd_sizes():
    fitted = pictures.fit(torch.full((3, 7, 5), 51, dtype=torch.uint8), 391, 257)
    assert fitted.shape == (1, 3, 257, 391)
    assert fitted.dtype == torch.float32
    torch.testing.assert_close(fitted, torch.full_like(fitted, 0.2))


@pytest.mark.parametrize("content", [None, b"", b"no picture"])
def test_what_is_no_picture_is_one_sentence(tmp_path, content):
    if content is not None:
        (tmp_path / "broken.jpg").write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.jpg.*JPEG, PNG, GIF or WebP"):
        pictures.read(tmp_path / "broken.jpg")
