"""Runs of the benchmarks of classifiers, device limits and the input pipeline."""

import json
import re

import pytest

SMALL = ("--model=basic_cnn", "--resolution=32", "--batch=2")


def run(suite, *arguments):
    return suite.run("benchmarks", *arguments)  # without a path only the default benchmarks run


def ids(done):
    return [line.split("::")[1] for line in done.stdout.splitlines() if "::" in line]


def test_classifiers_run_in_both_modes_and_report_the_time_of_a_pass_and_of_training(suite):
    done = run(suite, "--benchmark-only", "-k", "test_classification", *SMALL, "--dataset-images=15000", "--epochs=2")
    assert done.returncode == 0, done.stdout + done.stderr
    forward, training = suite.recorded()["cells"]
    assert (forward["mode"], training["mode"]) == ("forward", "training")
    for cell in (forward, training):
        assert cell["images_per_second"] == cell["batch"] / cell["median_seconds"] == 2 / cell["median_seconds"]
        assert cell["pass_seconds"] == pytest.approx(15000 / cell["images_per_second"])
        assert cell["rate_covers"] == "compute-only"
        assert cell["flops_per_iteration"] > 0
        assert cell["moved_bytes_per_iteration"] > 0
        assert cell["arithmetic_intensity_flops_per_byte"] > 0
        assert cell["last_loss"] is not None
    assert training["training_seconds"] == 2 * training["pass_seconds"]
    assert "basic_cnn on cpu, 32 px, batch 2, float32: one inference pass takes" in done.stdout
    assert "(2 epochs of" in done.stdout


def test_ids_of_classifiers_contain_batch_and_mode(suite):
    done = run(suite, "--collect-only", "-q", "-k", "test_classification", "--model=nin,basic_cnn", "--batch=1,16")
    assert ids(done) == [
        f"test_classification[cpu-{model}-224px-batch{batch}-{mode}]"
        for model in ("nin", "basic_cnn")
        for batch in (1, 16)
        for mode in ("forward", "training")
    ]


def test_a_model_gives_no_cell_and_no_error_in_benchmarks_that_do_not_have_it(suite):
    done = run(suite, "--collect-only", "-q", "--benchmark-only", "--model=resnet50,vgg19", "--batch=1")
    assert done.returncode == 0, done.stdout + done.stderr
    of_networks = {name for name in ids(done) if "resnet50" in name or "vgg19" in name}
    classifying = {
        name
        for name in of_networks
        if name.startswith(("test_classification", "test_training_parts", "test_data_parallel"))
    }
    assert classifying == {name for name in of_networks if "resnet50" in name} != set()
    assert {name for name in of_networks if "vgg19" in name} >= {"test_style_iteration[cpu-vgg19-64px]"}


def test_on_cpu_large_batches_run_only_on_request(suite):
    counts = [
        run(suite, "--collect-only", "-q", "-k", "test_classification", "--model=nin", *options).stdout.count("batch64")
        for options in ((), ("--batch=64",))
    ]
    assert counts == [0, 2]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--batch=0"], "'0' is not a batch"),
        (["--mode=dream"], "no mode named 'dream'; there are: forward, input, training"),
        (["--mode=training", "--model=vgg19"], "model 'vgg19' has no mode 'training'"),
        (["--model=vgg91"], "no model named 'vgg91'; there are: alexnet, basic_cnn"),
        (["--resolution=31", "--model=vgg16"], "the smallest side that works is 32"),
        (["--resolution=32", "--model=resnet50", "--batch=1"], "in mode 'training' with batch 1"),
        (["--dataset-images=0"], "--dataset-images: '0' is not a number of images"),
        (["--epochs="], "--epochs: '' is not a number of epochs"),
    ],
    ids=("batch", "mode", "lacking_mode", "model", "resolution", "normalisation", "images", "epochs"),
)
def test_bad_input_is_reported_in_one_sentence_before_anything_runs(suite, options, sentence):
    done = run(suite, "--benchmark-only", *options)
    assert done.returncode == 4
    (line,) = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("ERROR")]
    assert sentence in line
    assert not suite.record.exists()


def test_a_batch_that_does_not_fit_is_recorded_and_fails_nothing(suite):
    done = run(suite,
        "--benchmark-only", "-k", "test_classification", "--model=basic_cnn", "--batch=1,400", "--mode=training",
        "--memory-limit=300MiB", "--resolution=96",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"1 passed, \d+ deselected, 1 out-of-memory", done.stdout)
    assert [(cell["batch"], cell["status"]) for cell in suite.recorded()["cells"]] == [
        (1, "ok"),
        (400, "out_of_memory"),
    ]


@pytest.mark.slow
def test_the_largest_batch_fits_and_one_step_more_does_not(suite):
    done = run(suite,
        "--benchmark-only", "-k", "largest_batch", "--model=basic_cnn", "--resolution=96", "--mode=training",
        "--memory-limit=300MiB",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (cell,) = suite.recorded()["cells"]
    assert cell["batch"] == "largest"
    assert {cell["largest_batch"], cell["failed_batch"]} <= set(cell["tried_batches"])
    assert 0 < cell["failed_batch"] - cell["largest_batch"] <= cell["largest_batch"] / 16
    assert cell["failed_cause"] == "host_allocator"


def test_parts_of_training_are_timed_separately(suite):
    done = run(suite, "--benchmark-only", "-k", "test_training_parts", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    (cell,) = suite.recorded()["cells"]
    assert list(cell["parts_seconds"]) == ["whole", "forward", "backward", "optimizer"]
    assert "sum of the parts" in done.stdout
    assert run(suite, "--collect-only", "-q", "-k", "test_training_parts", "--mode=forward").returncode == 5


@pytest.mark.slow
def test_limits_run_first_and_the_roofline_compares_cells_with_them(suite):
    done = run(suite,
        "--benchmark-only", *SMALL, "--mode=forward", "--precision=float32",
        "-k", "test_classification or test_copy and 1MiB or test_product and 1024square",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    copy, product, classified = suite.recorded()["cells"]
    assert (copy["model"], copy["size"], copy["rate_unit"]) == ("copy", "1MiB", "B/s")
    assert (product["model"], product["rate_unit"]) == ("matmul", "FLOP/s")
    assert copy["images_per_second"] is None
    roof = min(product["rate"], classified["arithmetic_intensity_flops_per_byte"] * copy["rate"])
    assert classified["ceiling_flops_per_second"] == pytest.approx(roof)
    reached = classified["flops_per_iteration"] / classified["median_seconds"]
    assert classified["ceiling_share"] == pytest.approx(reached / roof)
    assert "goghmark: roofline" in done.stdout
    kept = json.loads((suite.record.parent / "limits.json").read_text())
    assert kept["machine"] == suite.recorded()["machine"]
    assert kept["ceilings"]["cpu"]["bytes_per_second"] == copy["rate"]


@pytest.mark.slow
def test_limits_of_an_earlier_run_are_used_with_their_date(suite):
    limits = ("--benchmark-only", "-k", "test_copy and 1MiB or test_product and 1024square and float32")
    assert run(suite, *limits).returncode == 0
    done = run(suite, "--benchmark-only", "-k", "test_classification", *SMALL, "--mode=forward")
    (cell,) = suite.recorded()["cells"]
    assert cell["ceiling_measured"].count("-") == 2
    assert f"limits measured: cpu: {cell['ceiling_measured']}" in done.stdout


def test_transfers_are_measured_on_accelerators_only(suite):
    done = run(suite, "--collect-only", "-q", "-k", "upload or download or launch", "--device=cpu")
    assert ids(done) == ["test_launch[cpu-1calls]", "test_launch[cpu-1000calls]"]


@pytest.mark.slow
def test_the_input_pipeline_is_measured_and_the_bottleneck_is_named(suite):
    done = run(suite, "--benchmark-only", "-k", "test_input or test_classification", *SMALL, "--mode=forward")
    assert done.returncode == 0, done.stdout + done.stderr
    inputs = [cell for cell in suite.recorded()["cells"] if cell["benchmark"] == "test_input"]
    assert inputs[0]["size"] == "1workers"
    assert all(cell["batch"] == 16 and cell["images_per_second"] > 0 for cell in inputs)
    assert "bottleneck of basic_cnn forward on cpu" in done.stdout
