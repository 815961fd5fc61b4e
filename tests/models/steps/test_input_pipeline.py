import pytest
import torch

from models import images
from models.errors import InputError
from models.network import IMAGENET_MEAN, IMAGENET_STD
from models.steps.input_pipeline import PictureInput
from models.workload import Workload

PICTURES = "fixtures/pictures"


def workload(**further):
    options = {"content": f"{PICTURES}/content.jpg", "style": f"{PICTURES}/style.jpg", "batch": 4, "size": 2} | further
    return Workload("", "jpeg", "cpu", 48, 32, **options)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_batch_contains_the_normalised_pictures_in_turn(workers):
    step = PictureInput(workload(size=workers))
    step()
    assert step.batch.shape == (4, 3, 32, 48)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    for index, name in enumerate(("content", "style", "content", "style")):
        expected = (images.fit(images.read(f"{PICTURES}/{name}.jpg"), 48, 32)[0] - mean) / std
        assert torch.allclose(step.batch[index], expected, atol=1e-6)
    assert step.loss() == pytest.approx(float(step.batch.mean()))


def test_one_picture_suffices_and_none_is_rejected():
    step = PictureInput(workload(style=""))
    step()
    assert torch.equal(step.batch[0], step.batch[1])
    with pytest.raises(InputError, match="no picture to read"):
        PictureInput(workload(style="", content=""))


def test_a_picture_that_cannot_be_read_ends_the_step(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no more than that")
    with pytest.raises(InputError, match="cannot be decoded"):
        PictureInput(workload(content=str(tmp_path / "broken.jpg")))()
