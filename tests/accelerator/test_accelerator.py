"""A second kind of device, end to end: whole runs from the command line to the record file, on devices of host memory.

All in one file, because tests of one file share a server with torch and the devices loaded, which takes seconds to start.
"""

import re

import pytest

from tests.paths import ROOT

STYLE = ("benchmarks/test_style_iteration.py",)
SMALL = ("--model=tiny", "--resolution=32", "--benchmark-disable")
# Strategies that torch can run on any device. `compiled` needs a code generator for it.
STRATEGIES = ("plain", "channels_last", "checkpointed", "graphed", "tiled", "streamed", "fastest")
# Devices that fail, hang, vanish, or count no memory, after so many calls.
FAULTS = "1=synchronize-raises:2,2=synchronize-hangs:2,3=vanishes:60,4=no-memory-figures"


def errors_of(done):
    """The lines of pytest that name an error."""
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("ERROR")]


def test_clocks_wait_for_a_device_with_3_ms_for_each_operator_and_the_device_computes_as_the_cpu(server, suite):
    environment = suite(FAKE_LATENCY_US="3000").environment
    options = ["-p", "no:cacheprovider"]
    done = server.run([*options, "tests/accelerator/on_device.py"], environment, ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 10


def test_the_compiled_library_is_found_again(library):
    assert library.exists()
    assert library.stat().st_size > 100_000


def cells_of(suite):
    """The recorded cells by device, model, resolution and strategy."""
    cells = suite.recorded()["cells"]
    return {(cell["device"], cell["model"], cell["resolution"], cell["strategy"]): cell for cell in cells}


@pytest.fixture(scope="module")
def matrix(suite, tmp_path_factory):
    """A run of cpu and two devices x two models x two resolutions, and the devices that its processes initialised."""
    log = tmp_path_factory.mktemp("log") / "initialised"
    run = suite(FAKE_LOG=str(log))
    done = run.run(
        *(*STYLE, "--benchmark-disable", "-p", "odd_models"),
        *("--device=cpu,fake:0,fake:1", "--model=looks,tiny", "--resolution=48,64"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return run, log.read_text().split()


def test_the_matrix_runs_on_two_kinds_of_device(matrix):
    run, _ = matrix
    cells = cells_of(run)
    assert len(cells) == 12
    assert {cell["status"] for cell in cells.values()} == {"ok"}
    assert [device["name"] for device in run.recorded()["machine"]["devices"]] == ["cpu", "fake:0", "fake:1"]
    for (_, *others), cell in cells.items():
        assert cell["last_loss"] == pytest.approx(cells["cpu", *others]["last_loss"], rel=1e-4)


def test_the_peak_of_an_accelerator_is_what_its_allocator_counted_and_near_the_prediction(matrix):
    run, _ = matrix
    for (device, model, *_), cell in cells_of(run).items():
        if device != "cpu":
            # The targets of a tiny image are a large part of it, and small blocks are rounded up.
            assert cell["peak_memory_bytes"] == pytest.approx(cell["predicted_memory_bytes"], rel=0.15), model
            assert cell["memory_budget_bytes"] == (4096 - 512) * 2**20


def test_memory_of_an_accelerator_is_recorded_in_its_three_meanings_and_that_of_the_cpu_in_one(matrix):
    run, _ = matrix
    for (device, *_), cell in cells_of(run).items():
        keys = ("peak_reserved_bytes", "process_memory_bytes", "num_ooms", "workspace_memory_bytes")
        if device == "cpu":
            assert [cell[key] for key in keys] == [None] * len(keys)
            continue
        assert cell["peak_reserved_bytes"] >= cell["peak_memory_bytes"]
        assert cell["process_memory_bytes"] <= cell["peak_reserved_bytes"]  # the fake has no context, and keeps nothing
        assert (cell["num_ooms"], cell["num_alloc_retries"], cell["workspace_memory_bytes"]) == (0, 0, 0)
        assert cell["predicted_process_bytes"] == cell["predicted_memory_bytes"] + cell["context_memory_bytes"]


def test_a_cell_initialises_its_own_device_only_and_a_cell_or_prediction_on_cpu_none(matrix):
    _, initialised = matrix
    # The survey of the machine reads the memory of both.
    assert sorted(initialised) == ["fake:0"] * (1 + 4) + ["fake:1"] * (1 + 4)


@pytest.fixture(scope="module")
def measured(suite):
    """A run of all strategies: its cells, and its output."""
    run = suite()
    words = ("--device=fake:1", "--model=tiny", "--resolution=32", f"--strategy={','.join(STRATEGIES)}")
    done = run.run(*STYLE, "--benchmark-only", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return cells_of(run), done.stdout


@pytest.fixture(scope="module")
def strategies(measured):
    return measured[0]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_computes_the_same_gradient_on_an_accelerator(strategies, strategy):
    cell = strategies["fake:1", "tiny", "32", strategy]
    assert cell["status"] == "ok"
    assert cell["gradient_deviation"] < 1e-5
    assert cell["first_loss"] == pytest.approx(strategies["fake:1", "tiny", "32", "plain"]["first_loss"], rel=1e-4)


def test_a_device_that_computes_as_fast_as_it_is_given_work_makes_its_cells_launch_bound(measured):
    cells, output = measured
    plain = cells["fake:1", "tiny", "32", "plain"]
    assert plain["launch_bound"] is True
    assert 0.9 <= plain["queueing_seconds"] / plain["device_seconds"] <= 1.0
    assert plain["device_time_iterations"] * plain["operators_per_iteration"] <= 512
    assert re.search(r"^ *fake:1 +tiny +32 .* ok, launch-bound$", output, re.MULTILINE)
    assert "goghmark: device time, by the device's own events" in output
    assert re.search(r"launch-bound: in \d cell\(s\) the host takes 90% or more of the device's time", output)


def test_the_warm_up_of_a_short_iteration_goes_on_until_it_is_stationary_or_its_time_is_over(strategies):
    for cell in strategies.values():
        assert cell["warmup_stationary"] in (True, False)
        assert cell["warmup_iterations"] >= 9


def test_what_is_replayed_from_a_graph_is_not_queued_by_operators(strategies):
    plain, graphed = (strategies["fake:1", "tiny", "32", strategy] for strategy in ("plain", "graphed"))
    # The optimiser alone: what is replayed is one launch.
    assert graphed["operators_per_iteration"] < plain["operators_per_iteration"]


def test_an_iteration_that_reads_a_number_cannot_be_captured_and_is_skipped_with_the_reason(suite):
    run = suite()
    words = ("--device=cpu,fake:1", "--model=reads", "--resolution=32", "--strategy=plain,graphed")
    done = run.run(*STYLE, "--benchmark-disable", "-p", "odd_models", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    cells = cells_of(run)
    assert {cells[device, "reads", "32", "plain"]["status"] for device in ("cpu", "fake:1")} == {"ok"}
    refused = {device: cells[device, "reads", "32", "graphed"] for device in ("cpu", "fake:1")}
    assert {cell["status"] for cell in refused.values()} == {"skipped"}
    assert refused["cpu"]["message"].startswith("strategy 'graphed' needs a device with graphs")
    assert "cannot be captured (fake: operation not permitted when stream is capturing" in refused["fake:1"]["message"]


@pytest.mark.slow
def test_compilation_for_a_device_without_a_code_generator_is_skipped_with_the_reason(suite):
    run = suite()
    done = run.run(*STYLE, *SMALL, "--device=fake:1", "--strategy=compiled")
    assert done.returncode == 0, done.stdout + done.stderr
    (cell,) = run.recorded()["cells"]
    # Without measurements there is no warm-up.
    assert (cell["status"], cell["phase"]) == ("skipped", "measure")
    assert "torch.compile does not work here" in cell["message"]


def test_a_device_without_a_source_of_telemetry_says_so(strategies):
    telemetry = strategies["fake:1", "tiny", "32", "plain"]["telemetry"]
    assert telemetry["unavailable"] == {"telemetry": "there is no source of telemetry for fake:1"}


@pytest.fixture(scope="module")
def precisions(suite, tmp_path_factory):
    """A run of iterations and pictures in three precisions: its cells, and the folder of the pictures."""
    run, folder = suite(), tmp_path_factory.mktemp("pictures")
    done = run.run(
        *(*STYLE, "benchmarks/test_generate.py", *SMALL, "--device=fake:1"),
        *("--precision=bfloat16,float16,tf32", "--iterations=4", f"--save-images={folder}"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return run.recorded()["cells"], folder


def test_precisions_of_16_bits_run_on_an_accelerator(precisions):
    recorded, _ = precisions
    cells = {cell["precision"]: cell for cell in recorded if cell["benchmark"] == "test_style_iteration"}
    assert {precision: cell["status"] for precision, cell in cells.items()} == {
        "bfloat16": "ok",
        "float16": "ok",
        "tf32": "skipped",
    }
    # Features in half precision take less memory than in float32.
    assert cells["float16"]["peak_memory_bytes"] < 175 * 2**10
    assert cells["float16"]["last_loss"] == pytest.approx(cells["bfloat16"]["last_loss"], rel=1e-2)


def test_out_of_memory_is_a_result_and_the_search_ends_in_it(suite):
    run = suite()
    done = run.run(
        *STYLE,
        "benchmarks/test_largest_image.py",
        "--device=fake:1",
        *("-p", "odd_models", "--model=tiny,indexes", "-k", "tiny or largest"),
        "--resolution=64,512",
        "--memory-limit=8MiB",
        "--benchmark-disable",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed, 1 out-of-memory" in re.sub(r"\x1b\[\d*m|, \d+ deselected", "", done.stdout)
    small, large, search, indexes = run.recorded()["cells"]
    assert small["status"] == "ok"
    assert (large["status"], large["cause"]) == ("out_of_memory", "device_allocator")
    assert large["message"].startswith("fake out of memory")
    assert large["num_ooms"] >= 1
    assert large["peak_memory_bytes"] > 2**20
    assert search["status"] == "ok"
    assert search["peak_memory_bytes"] < 8 * 2**20
    assert search["failed_side_px"] == search["largest_side_px"] + 64
    assert search["failed_cause"] == "device_allocator"
    assert search["tried_sides_px"] == [192, 256]  # the prediction is exact
    assert (indexes["largest_side_px"], indexes["failed_side_px"], indexes["failed_status"]) == (128, 192, "error")
    assert "ended at 192 px by another failure than of memory: error (RuntimeError: canUse32Bit" in done.stdout


def test_two_revisions_are_compared_side_by_side_on_an_accelerator(suite):
    run = suite()
    done = run.run(
        *(*STYLE, "--benchmark-only", "--device=fake:1", "--model=tiny", "--resolution=32"),
        *("--against=.", "--cell-seconds=0.2", "--inconclusive=pass", "--max-drop=50%"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (cell,) = run.recorded()["cells"]
    assert cell["device"] == "fake:1"
    assert "throughput ratio" in done.stdout


def test_a_picture_is_generated_on_an_accelerator(precisions):
    _, folder = precisions
    names = {f"test_generate-fake1-tiny-32px-adam-{precision}-plain.png" for precision in ("bfloat16", "float16")}
    assert names <= {path.name for path in folder.iterdir()}


def test_a_device_that_does_not_exist_is_one_sentence(suite):
    done = suite().run(*STYLE, "--benchmark-only", "--device=fake:7")
    assert done.returncode == 4
    assert errors_of(done) == ["ERROR: no device named 'fake:7'; there are: cpu, fake, fake:0, fake:1"]


@pytest.fixture(scope="module")
def faulty(suite):
    """A run on six devices, the middle ones with faults: its cells by device, and its output."""
    run = suite(FAKE_DEVICES="6", FAKE_FAULTS=FAULTS)
    devices = ",".join(f"fake:{index}" for index in range(6))
    done = run.run(*STYLE, *SMALL, f"--device={devices}", "--cell-timeout=3")
    assert done.returncode == 1, done.stdout + done.stderr
    return {cell["device"]: cell for cell in run.recorded()["cells"]}, done.stdout


def test_healthy_devices_are_measured_whatever_others_do(faulty):
    cells, _ = faulty
    assert {device: cell["status"] for device, cell in cells.items()} == {
        "fake:0": "ok",
        "fake:1": "error",
        "fake:2": "timeout",
        "fake:3": "error",
        "fake:4": "ok",
        "fake:5": "ok",
    }


def test_an_error_that_shows_when_the_host_waits_has_its_text_in_the_record(faulty):
    cells, _ = faulty
    assert cells["fake:1"]["message"] == "RuntimeError: fake: an illegal memory access was encountered"
    assert "synchronize" in cells["fake:1"]["log_tail"]


def test_a_device_that_hangs_is_a_timeout_that_shows_where_the_host_waits(faulty):
    cells, _ = faulty
    assert cells["fake:2"]["message"] == "killed after 3 s, the time limit of a cell (--cell-timeout)"
    assert "in synchronize" in cells["fake:2"]["log_tail"]


def test_a_device_that_vanishes_in_the_middle_is_an_error_with_the_memory_until_then(faulty):
    cells, _ = faulty
    assert cells["fake:3"]["message"] == "RuntimeError: fake: device 3 has fallen off the bus"
    assert cells["fake:3"]["peak_memory_bytes"] > 0


def test_a_device_without_memory_figures_is_measured_without_them_and_the_run_says_so(faulty):
    cells, output = faulty
    assert cells["fake:4"]["peak_memory_bytes"] is None
    assert cells["fake:4"]["memory_budget_bytes"] is None
    assert re.search(r"fake:4 +tiny .* - +\d+ KiB +ok", output)
    assert "fake:4 gives no memory figures: its peak memory is unknown, and nothing limits it" in output


def test_a_memory_limit_on_a_device_without_memory_figures_is_one_sentence(suite):
    done = suite(FAKE_FAULTS="1=no-memory-figures").run(*STYLE, *SMALL, "--device=fake:0,fake:1", "--memory-limit=1GiB")
    assert done.returncode == 4
    assert errors_of(done) == [
        "ERROR: --memory-limit cannot be kept on 'fake:1', which gives no memory figures;"
        " leave the option or the device out"
    ]


def test_a_decode_with_its_maps_on_the_host_is_that_with_maps_on_the_device(suite):
    run = suite()
    done = run.run(
        *("benchmarks/test_decode.py", "--benchmark-disable", "--device=fake:1", "--model=kl_decoder_s"),
        *("--resolution=64", "--mode=forward", "--strategy=streamed,offloaded"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    streamed, offloaded = run.recorded()["cells"]
    assert offloaded["last_loss"] == pytest.approx(streamed["last_loss"], rel=1e-5)
    plan = offloaded["streaming_plan"]
    assert plan["maps"] == 2.0
    assert plan["moved_bytes"] > plan["host_bytes"] >= 2 * 64 * 64 * 32 * 4


@pytest.mark.slow
def test_transfers_launches_and_classification_run_on_an_accelerator(suite):
    run = suite()
    done = run.run(
        *("benchmarks/test_device_limits.py", "benchmarks/test_classification.py", "--benchmark-disable"),
        *(
            "--device=fake:1",
            "--model=basic_cnn",
            "--resolution=64",
            "--batch=1",
            "-k",
            "64KiB or 1calls or classification",
        ),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    names = [(cell["benchmark"], cell["mode"]) for cell in run.recorded()["cells"] if cell["status"] == "ok"]
    assert names == [
        ("test_launch", ""),
        ("test_upload_pageable", ""),
        ("test_upload_pinned", ""),
        ("test_download_pageable", ""),
        ("test_download_pinned", ""),
        ("test_classification", "forward"),
        ("test_classification", "training"),
    ]
