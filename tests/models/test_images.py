import pytest
import torch
from PIL import ExifTags, Image
from torchvision.transforms.v2.functional import to_pil_image

from models import images
from models.errors import InputError


def test_a_picture_is_scaled_to_cover_the_cell_and_cropped_on_both_sides(tmp_path):
    striped = torch.zeros(3, 20, 60, dtype=torch.uint8)
    striped[:, :, 20:40] = 255
    to_pil_image(striped).save(tmp_path / "striped.png")
    fitted = images.fit(images.read(tmp_path / "striped.png"), 20, 20)
    assert fitted.shape == (1, 3, 20, 20)
    assert torch.equal(fitted, torch.ones_like(fitted))
    assert fitted.is_contiguous()


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_picture_is_rotated_as_its_exif_orientation_says(tmp_path, mode):
    picture = Image.new(mode, (3, 2))
    picture.putpixel((0, 0), 255 if mode == "L" else (255, 255, 255))
    exif = picture.getexif()
    exif[ExifTags.Base.Orientation] = 6  # the camera was turned: rotate clockwise
    picture.save(tmp_path / "turned.png", exif=exif)
    upright = images.read(tmp_path / "turned.png")
    assert upright.shape == (3, 3, 2)
    assert upright[:, 0, 1].tolist() == [255, 255, 255]
    assert upright.sum() == 3 * 255


def test_a_small_picture_is_enlarged_to_odd_sizes():
    fitted = images.fit(torch.full((3, 7, 5), 51, dtype=torch.uint8), 391, 257)
    assert fitted.shape == (1, 3, 257, 391)
    assert fitted.dtype == torch.float32
    torch.testing.assert_close(fitted, torch.full_like(fitted, 0.2))


@pytest.mark.parametrize("content", [None, b"", b"no picture"])
def test_a_file_that_is_no_picture_is_reported_in_one_sentence(tmp_path, content):
    if content is not None:
        (tmp_path / "broken.jpg").write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.jpg.*JPEG, PNG, GIF or WebP"):
        images.read(tmp_path / "broken.jpg")


def test_an_image_larger_than_one_copy_is_saved_with_its_facts_and_read_back_unchanged(tmp_path):
    image = torch.randint(0, 256, (3, 2 * 256 + 7, 5), dtype=torch.uint8)
    images.save(image, tmp_path / "bytes.png", {"model": "nin", "weights": "gewichte_groß.pth"})
    images.save(image.float() / 255, tmp_path / "floats.png", {})
    assert torch.equal(images.read(tmp_path / "bytes.png"), image)
    assert torch.equal(images.read(tmp_path / "floats.png"), image)
    with Image.open(tmp_path / "bytes.png") as picture:
        assert picture.text == {"model": "nin", "weights": "gewichte_groß.pth"}


def test_values_outside_of_0_to_1_are_clamped(tmp_path):
    image = torch.tensor([-1.0, 0.0, 0.5, 2.0]).expand(3, 1, 4)
    images.save(image, tmp_path / "clamped.png", {})
    assert images.read(tmp_path / "clamped.png")[0, 0].tolist() == [0, 0, 128, 255]


def test_a_failed_write_keeps_the_old_picture_and_leaves_no_temporary_file(tmp_path):
    images.save(torch.ones(3, 4, 4), tmp_path / "old.png", {})
    with pytest.raises(UnicodeEncodeError):
        images.save(torch.zeros(3, 4, 4), tmp_path / "old.png", {"ж": "no keyword of a chunk"})
    with pytest.raises(OSError, match="nowhere"):
        images.save(torch.zeros(3, 4, 4), tmp_path / "nowhere" / "new.png", {})
    assert images.read(tmp_path / "old.png").min() == 255
    assert [path.name for path in tmp_path.iterdir()] == ["old.png"]
