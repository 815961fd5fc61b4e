"""Benchmarks of several ranks as users run them."""

import pytest

from fixtures.rank_counts import cores_here

SCALING = "benchmarks/test_scaling.py"
SMALL = ("--model=basic_cnn", "--resolution=32", "--batch=2", "--device=cpu")
two_cores = pytest.mark.skipif(cores_here() < 2, reason="two ranks need two cores")


@two_cores
def test_ranks_share_training_and_are_compared_with_one(suite):
    done = suite.run(SCALING, "--benchmark-only", "-k", "data_parallel", *SMALL, "--ranks=2,1")
    assert done.returncode == 0, done.stdout + done.stderr
    cells = suite.recorded()["cells"]
    assert [(cell["scaling"], cell["ranks"], cell["status"]) for cell in cells] == [
        ("weak", 1, "ok"), ("weak", 2, "ok"), ("strong", 1, "ok"), ("strong", 2, "ok"),
    ]  # fmt: skip
    weak, strong = cells[1], cells[3]
    assert weak["images_per_second"] == pytest.approx(4 / weak["median_seconds"])
    assert strong["images_per_second"] == pytest.approx(2 / strong["median_seconds"])
    assert weak["efficiency"] == pytest.approx(weak["images_per_second"] / cells[0]["images_per_second"] / 2)
    assert strong["speedup"] == pytest.approx(cells[2]["median_seconds"] / strong["median_seconds"])
    # 549 928 weights of four bytes.
    assert weak["communication_bytes_per_iteration"] == 4 * 549_928
    assert "goghmark: scaling" in done.stdout
    assert "test_data_parallel_weak[cpu-basic_cnn-32px-batch2-ranks2]" in done.stdout
    assert set(weak["telemetry"]["devices"]) == {"cpu"}
    assert cells[0]["threads_per_rank"] == cores_here() // 2


@two_cores
def test_ranks_share_the_tiles_of_an_image(suite):
    options = ("--benchmark-only", "-k", "tiled", "--device=cpu", "--model=tiny", "--resolution=64", "--tile=16")
    done = suite.run(SCALING, *options, "--optimizer=adam,lbfgs", "--ranks=1,2")
    assert done.returncode == 0, done.stdout + done.stderr
    cells = {(cell["optimizer"], cell["ranks"]): cell for cell in suite.recorded()["cells"]}
    assert len(cells) == 4
    for optimizer in ("adam", "lbfgs"):
        one, two = cells[optimizer, 1], cells[optimizer, 2]
        assert (two["scaling"], two["strategy"], two["tile_px"]) == ("image", "tiled", 16)
        assert two["first_loss"] == pytest.approx(one["first_loss"], rel=1e-4)
        assert two["speedup"] == pytest.approx(one["median_seconds"] / two["median_seconds"])
        assert one["communication_bytes_per_iteration"] == 0 < two["communication_bytes_per_iteration"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--ranks=4096"], "--ranks=4096 is more than there is room for on cpu: there are "),
        (["--ranks=0"], "'0' is no number of ranks"),
        (["--ranks=1", "--rendezvous=here"], "--rendezvous: 'here' is no place to meet"),
    ],
    ids=("many", "none", "rendezvous"),
)
def test_ranks_that_cannot_be_had_are_one_sentence_before_anything_runs(suite, asked, said):
    done = suite.run(SCALING, "--benchmark-only", *SMALL, *asked)
    assert done.returncode == 4
    (line,) = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("ERROR")]
    assert said in line
    assert not suite.record.exists()
