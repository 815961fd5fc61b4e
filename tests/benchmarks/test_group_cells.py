"""Runs of the benchmarks with several ranks."""

import pytest

from fixtures.host import cores_here

SCALING = "benchmarks/test_scaling.py"


@pytest.mark.skipif(cores_here() < 2, reason="two ranks need two cores")
def test_ranks_share_training_or_an_image_and_are_compared_with_one(suite):
    options = (
        "--benchmark-only",
        "--device=cpu",
        "--model=basic_cnn,tiny,kl_decoder_s",
        "--resolution=32",
        "--batch=2",
        "--tile=16",
    )
    done = suite.run(SCALING, *options, "--ranks=2,1")
    assert done.returncode == 0, done.stdout + done.stderr
    cells = suite.recorded()["cells"]
    assert [(cell["model"], cell["scaling"], cell["ranks"], cell["status"]) for cell in cells] == [
        (model, scaling, ranks, "ok")
        for model, scaling in (
            ("basic_cnn", "weak"),
            ("basic_cnn", "strong"),
            ("tiny", "image"),
            ("kl_decoder_s", "image"),
        )
        for ranks in (1, 2)
    ]
    assert {cell["threads_per_rank"] for cell in cells} == {cores_here() // 2}
    (_, weak), (_, strong), (whole, image), (whole_decode, decode) = zip(cells[::2], cells[1::2], strict=True)
    assert weak["images_per_second"] == pytest.approx(4 / weak["median_seconds"])
    assert strong["images_per_second"] == pytest.approx(2 / strong["median_seconds"])
    assert weak["efficiency"] == pytest.approx(weak["images_per_second"] / cells[0]["images_per_second"] / 2)
    assert strong["speedup"] == pytest.approx(cells[2]["median_seconds"] / strong["median_seconds"])
    # 549 928 weights of four bytes.
    assert weak["communication_bytes_per_iteration"] == 4 * 549_928
    assert image["first_loss"] == pytest.approx(whole["first_loss"], rel=1e-4)
    assert whole["communication_bytes_per_iteration"] == 0 < image["communication_bytes_per_iteration"]
    assert decode["first_loss"] == pytest.approx(whole_decode["first_loss"], rel=1e-3)
    assert whole_decode["communication_bytes_per_iteration"] == 0 < decode["communication_bytes_per_iteration"]
    # Latents of 4 x 4 positions, with 32 channels before the last layer; a slab is half of them.
    assert [one["streaming_plan"]["maps"] for one in (whole_decode, decode)] == [2.0, 2.0]
    peaks = [one["streaming_plan"]["predicted_peak_bytes"] for one in (whole_decode, decode)]
    assert 0 < peaks[0] != peaks[1] > 0  # a slab has rows of its neighbours beside its own, most of such a small one
    assert "streaming_plan" not in image
    assert decode["speedup"] == pytest.approx(whole_decode["median_seconds"] / decode["median_seconds"])
    assert "goghmark: decode" not in done.stdout  # it is in the table of groups
    assert "goghmark: scaling" in done.stdout
    assert "test_data_parallel_weak[cpu-basic_cnn-32px-batch2-ranks2]" in done.stdout


def test_more_ranks_than_cores_are_rejected_before_anything_runs(suite):
    done = suite.run(SCALING, "--benchmark-only", "--device=cpu", "--ranks=4096")
    assert done.returncode == 4
    (line,) = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("ERROR")]
    assert "--ranks=4096 is more than there is room for on cpu: there are " in line
    assert not suite.record.exists()


@pytest.mark.skipif(cores_here() < 2, reason="two ranks need two cores")
def test_more_ranks_than_rows_of_latents_are_rejected_before_anything_runs(suite):
    done = suite.run(SCALING, "--benchmark-only", "--device=cpu", "--model=kl_decoder_s", "--resolution=8", "--ranks=2")
    assert done.returncode == 4
    (line,) = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("ERROR")]
    assert "--ranks=2 is more than there are rows of latents of an image of 8 px" in line
    assert not suite.record.exists()
