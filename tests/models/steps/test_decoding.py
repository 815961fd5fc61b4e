"""The decode steps by row streams: equal to the plain ones, planned by the workload's memory."""

import pytest
import torch

from fixtures.worker.estimate import predict_memory
from models.api import streaming_plan
from models.errors import Unsupported
from models.kl_decoder import KLDecoder
from models.steps.decoding import decode
from models.workload import Workload


def with_mirrored_borders():
    with torch.device("meta"):
        network = KLDecoder((8, 8, 4, 4), groups=2)
        network.decoder.mid_block.resnets[1].conv1 = torch.nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
    return network


def work(mode, strategy="streamed", model="models.kl_decoder:kl_decoder_s", **further):
    return Workload("", model, "cpu", 48, 32, mode=mode, strategy=strategy, **further)


def test_forward_computes_the_images_of_plain():
    plain, streamed = (decode(work("forward", strategy, batch=2)) for strategy in ("plain", "streamed"))
    for step in (plain, streamed, streamed):
        step()
    assert (plain._output - streamed._output).norm() < 1e-4 * plain._output.norm()
    assert streamed.loss() == pytest.approx(plain.loss(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("precision", ["float32", pytest.param("float16", marks=pytest.mark.slow)])
def test_input_computes_loss_and_gradient_of_plain(precision):
    plain, streamed = (decode(work("input", one, batch=2, precision=precision)) for one in ("plain", "streamed"))
    for step in (plain, streamed, streamed):
        step()
    tolerance = 1e-4 if precision == "float32" else 0.1
    assert streamed.loss() == pytest.approx(plain.loss(), rel=tolerance)
    difference = plain.latents.grad.float() - streamed.latents.grad.float()
    assert difference.norm() < tolerance * plain.latents.grad.float().norm()


def test_progress_is_reported_up_to_the_end():
    step, reports = decode(work("input")), []
    step.on_progress(lambda done, parts: reports.append(done / parts))
    step()
    assert reports == sorted(reports)
    assert len(reports) > 5
    assert min(reports) > 0  # nothing is done at 0, from which no time can be estimated
    assert reports[-1] == 1.0


def test_an_attention_of_many_queries_reports_its_own_progress(monkeypatch):
    counts = {}
    for chunk in (24, 4):  # of 24 queries
        monkeypatch.setattr("models.streaming.attention.CHUNK", chunk)
        step, reports = decode(work("forward")), []
        step.on_progress(lambda done, parts, reports=reports: reports.append(done / parts))
        step()
        assert reports == sorted(reports)
        counts[chunk] = len(reports)
    assert counts[4] == counts[24] + 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "mode", "limit_gib"),
    [("streamed", "forward", 0), ("streamed", "forward", 2.2), ("streamed", "input", 2.9), ("offloaded", "forward", 0)],
)
def test_the_predicted_peak_is_that_of_the_tensors(strategy, mode, limit_gib):
    # As on an accelerator: tensors alone. Fake ones, so that nothing is computed.
    large = Workload(
        "decode", "models.kl_decoder:kl_decoder", "cuda", 2048, 1792, mode=mode, strategy=strategy,
        memory_bytes=int(limit_gib * 2**30),
    )  # fmt: skip
    weights = 49_490_199 * 4
    assert predict_memory(large) == pytest.approx(streaming_plan(large)["predicted_peak_bytes"] + weights, rel=0.1)


def test_a_plan_is_recorded_with_maps_and_work():
    unlimited, small = (
        streaming_plan(
            Workload("", "models.kl_decoder:kl_decoder", "cpu", 1024, 1024, mode="forward", memory_bytes=limit)
        )
        for limit in (0, 1200 * 2**20)
    )
    assert unlimited["maps"] == 2.0
    assert small["maps"] < 1.5
    assert small["relative_work"] > unlimited["relative_work"]


def test_too_little_memory_is_a_result_that_says_what_it_would_take():
    with pytest.raises(MemoryError, match=r"the smallest plan for an image of 48x32 px takes 0\.\d+ GiB beside"):
        decode(work("forward", memory_bytes=2**20))


@pytest.mark.parametrize(
    ("mode", "why"),
    [("forward", "on a cpu all maps are on the host"), ("input", "a gradient keeps its maps on the device")],
)
def test_maps_are_not_moved_to_the_host_on_a_cpu_or_for_a_gradient(mode, why):
    with pytest.raises(Unsupported, match=f"'offloaded' does not apply: {why}"):
        decode(work(mode, "offloaded"))


def test_a_decoder_that_cannot_be_streamed_is_refused_with_the_place():
    with pytest.raises(Unsupported, match="'streamed' does not apply: .*pad in decoder.mid_block.resnets.1.conv1"):
        decode(work("forward", model=f"{__file__}:with_mirrored_borders"))
