import pytest
from PIL import Image

from fixtures.generate import command_facts
from fixtures.options import PICTURES
from models import generation_state
from models.steps.generation import Generation
from models.workload import Workload

PICTURE_PATHS = {"content": str(PICTURES / "content.jpg"), "style": str(PICTURES / "style.jpg")}
GENERATE = ("--benchmark-only", "benchmarks/test_generate.py", "--model=nin", "--resolution=64")


def test_pictures_of_style_cells_are_saved_and_recorded(suite, tmp_path):
    done = suite.run(
        "--benchmark-only",
        "-k",
        "style_iteration",
        "--model=tiny",
        "--resolution=32x24",
        f"--save-images={tmp_path}/saved",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (cell,) = suite.recorded()["cells"]
    with Image.open(tmp_path / cell["picture"]) as picture:
        assert picture.size == (32, 24)
        assert int(picture.text["iterations"]) == cell["warmup_iterations"] + len(cell["durations_seconds"])
        assert picture.text["commit"].startswith(suite.recorded()["commit"]["id"])


def test_the_folder_of_a_decode_s_picture_is_created(suite, tmp_path):
    cell = ("--model=kl_decoder_s", "--resolution=32", "--mode=forward")
    done = suite.run("--benchmark-disable", "benchmarks/test_decode.py", *cell, f"--save-images={tmp_path}/new/folder")
    assert done.returncode == 0, done.stdout + done.stderr
    (recorded,) = suite.recorded()["cells"]
    with Image.open(tmp_path / recorded["picture"]) as picture:
        assert picture.size == (32, 32)


def test_a_folder_that_cannot_be_created_is_reported_in_one_sentence_before_anything_runs(suite, tmp_path):
    (tmp_path / "file").touch()
    done = suite.run("--benchmark-only", "-k", "style_iteration", "--model=tiny", f"--save-images={tmp_path}/file")
    assert done.returncode == 4, done.stdout
    assert "pictures cannot be written to" in done.stdout + done.stderr
    assert not suite.record.exists()


class Settings:
    """The settings that identify a command."""

    lbfgs_history = 10
    iterations, weights, content, style = 5, "random", PICTURE_PATHS["content"], PICTURE_PATHS["style"]


def write_checkpoint(path):
    workload = Workload("x", "models.nin:nin", "cpu", 64, 64, iterations=5, **PICTURE_PATHS)
    generation = Generation(workload)
    generation.prepare()
    generation()
    generation.record_duration(123.0)
    generation.record_loss(generation.loss())
    generation.save(path, command_facts(Settings))


@pytest.mark.slow
def test_an_interrupted_picture_is_resumed_by_the_same_command_only(suite, tmp_path):
    (tmp_path / "pictures").mkdir()
    checkpoint = tmp_path / "pictures" / "test_generate-cpu-nin-64px-adam-float32-plain.unfinished"
    write_checkpoint(checkpoint)
    other = suite.run(*GENERATE, "--iterations=6")
    assert other.returncode == 4
    assert "of another command (iterations 5, not 6)" in other.stdout + other.stderr
    assert generation_state.read_facts(checkpoint)["scales"][0]["durations_seconds"] == [123.0]
    same = suite.run(*GENERATE, "--iterations=5")
    assert same.returncode == 0, same.stdout + same.stderr
    (cell,) = suite.recorded()["cells"]
    assert cell["durations_seconds"][0] == 123.0
    assert len(cell["durations_seconds"]) == cell["iterations"] == 5
    (scale,) = cell["scales"]
    assert (scale["width"], scale["iterations"]) == (64, 5)
    assert scale["seconds"] > 123.0
    assert scale["last_loss"] == cell["last_loss"] < scale["first_loss"] == cell["first_loss"]
    with Image.open(tmp_path / cell["picture"]) as picture:
        assert picture.size == (64, 64)
        assert picture.text["iterations"] == "5"
    assert not checkpoint.exists()
