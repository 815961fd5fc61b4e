import pytest
import torch

from fixtures.worker.what_ran import attention_operators
from models.api import DECODERS, DENOISERS, STRATEGIES, working_attention_kernels
from models.dit import DiT
from models.errors import InputError, Unsupported
from models.steps import graphs
from models.steps.decoding import decode
from models.steps.generators import Forward, InputGradient, Training, denoise
from models.workload import Workload
from tests.recorded_graphs import ON_CPU

ALL = DENOISERS | DECODERS | {"narrow_dit": f"{__file__}:narrow_dit"}


def narrow_dit():
    with torch.device("meta"):
        return DiT(depth=2, width=96, heads=2)


def workload(model, mode, **further):
    return Workload("", ALL[model], "cpu", mode=mode, **{"width": 64, "height": 64} | further)


def step_of(model, mode, **further):
    return (decode if model in DECODERS else denoise)(workload(model, mode, **further))


SMALL = ("dit_s2", "unet_s", "kl_decoder_s")


@pytest.mark.parametrize("model", SMALL)
def test_forward_computes_the_output_in_inference_mode(model):
    step = step_of(model, "forward", batch=2)
    step()
    assert step._output.is_inference()
    assert step._output.shape[0] == 2
    with torch.no_grad():
        expected = step.network(step.latents, *step._conditions)
    assert step.loss() == pytest.approx(float(expected.mean()), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("model", SMALL)
def test_the_gradient_to_the_latents_points_where_the_loss_grows(model):
    step = step_of(model, "input")
    step()
    gradient, before = step.latents.grad.clone(), step.loss()
    assert all(weight.grad is None and not weight.requires_grad for weight in step.network.parameters())
    length = 1e-2 / gradient.norm()
    with torch.no_grad():
        step.latents.add_(length * gradient)
    step()
    assert step.loss() - before == pytest.approx(float(length * gradient.square().sum()), rel=0.1)


@pytest.mark.parametrize(
    ("model", "precision"), [("narrow_dit", "float32"), ("unet_s", "float32"), ("narrow_dit", "bfloat16")]
)
def test_the_loss_of_a_training_falls_over_twenty_steps_on_one_batch(model, precision):
    step = step_of(model, "training", precision=precision, width=32, height=32)
    losses = []
    for _ in range(20):
        step()
        losses.append(step.loss())
    assert losses[-1] < 0.9 * losses[0]
    assert all(weight.dtype == torch.float32 for weight in step.network.parameters())


def test_the_parts_of_a_training_compute_the_same_as_an_iteration():
    whole, apart = (step_of("unet_s", "training", width=32, height=32) for _ in range(2))
    for _ in range(2):
        whole()
        for part in apart.parts().values():
            part()
    assert list(apart.parts()) == ["forward", "backward", "optimizer"]
    assert whole.loss() == apart.loss()


@pytest.mark.parametrize("mode", ["forward", "input"])
@pytest.mark.parametrize("model", SMALL)
def test_bfloat16_stores_weights_and_latents_and_computes_nearly_the_same(model, mode):
    low, full = (step_of(model, mode, precision=precision) for precision in ("bfloat16", "float32"))
    for step in (low, full):
        step()
    assert {weight.dtype for weight in low.network.parameters()} == {low.latents.dtype} == {torch.bfloat16}
    ours, exact = (step._output if mode == "forward" else step.latents.grad for step in (low, full))
    assert (ours.float() - exact).norm() < 0.2 * exact.norm()


@pytest.mark.parametrize("model", SMALL)
def test_strategies_compute_the_gradient_of_plain(model):
    plain = step_of(model, "input")
    plain()
    for strategy in ("checkpointed", "channels_last") if plain.network.convolutional else ("checkpointed",):
        step = step_of(model, "input", strategy=strategy)
        step()
        assert step.loss() == pytest.approx(plain.loss(), rel=1e-4)
        assert (step.latents.grad - plain.latents.grad).norm() < 1e-3 * plain.latents.grad.norm()


def test_a_strategy_that_does_not_apply_is_refused_with_its_reason():
    reasons = {}
    for model, mode in (("dit_s2", "forward"), ("kl_decoder_s", "input")):
        for strategy in STRATEGIES:
            try:
                if strategy != "compiled":
                    step_of(model, mode, strategy=strategy)
            except Unsupported as error:
                reasons[model, strategy] = str(error)
    assert reasons.keys() == {
        ("dit_s2", "checkpointed"), ("dit_s2", "channels_last"), ("dit_s2", "streamed"),
        *((model, strategy) for model in ("dit_s2", "kl_decoder_s")
          for strategy in ("tiled", "offloaded", "fastest", "winograd", "graphed")),
    }  # fmt: skip
    assert "cpu has none" in reasons["dit_s2", "graphed"]
    assert "which stores no activations" in reasons["dit_s2", "checkpointed"]


@pytest.mark.parametrize(
    ("model", "mode"), [("narrow_dit", "forward"), ("narrow_dit", "input"), ("kl_decoder_s", "input")]
)
def test_replayed_evaluations_and_decodes_are_those_of_plain(model, mode, monkeypatch):
    monkeypatch.setattr(graphs, "graph_api", lambda device: ON_CPU)
    plain, graphed = (step_of(model, mode, strategy=strategy) for strategy in ("plain", "graphed"))
    for _ in range(2):
        for step in (plain, graphed):
            step()
        assert graphed.loss() == pytest.approx(plain.loss(), rel=1e-6)
    if mode == "input":
        torch.testing.assert_close(graphed.latents.grad, plain.latents.grad)


def test_training_is_not_captured():
    with pytest.raises(Unsupported, match="AdamW counts its steps on the host"):
        step_of("narrow_dit", "training", strategy="graphed")


@pytest.mark.slow
def test_compiled_computes_the_same_and_times_its_compilation():
    plain, compiled = (step_of("narrow_dit", "input", strategy=strategy) for strategy in ("plain", "compiled"))
    for step in (plain, compiled):
        step()
    assert compiled.compile_seconds() > 0
    assert compiled.loss() == pytest.approx(plain.loss(), rel=1e-3)


@pytest.mark.slow
def test_compiled_code_runs_the_kernel_that_is_named_after_that_of_another_one(monkeypatch):
    monkeypatch.setattr(torch.compiler.config, "force_disable_caches", False)
    ran = []
    for kernel in ("auto", "math"):
        torch.compiler.reset()  # as in another process; caches on disk stay
        step = step_of("narrow_dit", "forward", strategy="compiled", attention=kernel)
        step()
        ran.append(attention_operators(step))
    assert ran == [["_scaled_dot_product_flash_attention_for_cpu"], []]  # math is compiled into plain operators


@pytest.mark.parametrize("kernel", ["flash", "math"])
def test_attention_kernels_compute_the_same(kernel):
    auto, named = (step_of("narrow_dit", "input", attention=one) for one in ("auto", kernel))
    for step in (auto, named):
        step()
    assert named.loss() == pytest.approx(auto.loss(), rel=1e-5)
    assert torch.allclose(named.latents.grad, auto.latents.grad, rtol=1e-3, atol=1e-6)


def test_a_kernel_that_the_cpu_lacks_is_refused_with_what_helps():
    assert working_attention_kernels("cpu") == ["auto", "flash", "math"]
    with pytest.raises(Unsupported, match="attention kernel 'efficient' does not take.*use --attention=auto"):
        step_of("narrow_dit", "forward", attention="efficient")()


def test_a_gradient_that_is_not_finite_makes_the_loss_no_number():
    step = step_of("kl_decoder_s", "input")
    step()
    assert step.loss() > 0
    step.latents.grad[0, 0, 0, 0] = torch.inf
    assert step.loss() != step.loss()


def test_modes_and_sizes_that_do_not_exist_are_refused():
    with pytest.raises(InputError, match="no mode 'training' of this step; use one of: forward, input"):
        step_of("kl_decoder_s", "training")
    with pytest.raises(InputError, match="multiples of 16 px"):
        step_of("dit_s2", "forward", width=72)


def test_each_mode_is_a_step():
    assert [type(step_of("narrow_dit", mode)) for mode in ("forward", "input", "training")] == [
        Forward, InputGradient, Training,
    ]  # fmt: skip


def test_the_mean_and_image_of_an_output_of_many_rows_are_those_of_the_whole(monkeypatch):
    step = step_of("kl_decoder_s", "forward")
    step()
    mean, image = step.loss(), step.image()
    monkeypatch.setattr("models.steps.generators.ROWS_PER_COPY", 24)  # of 64
    assert step.loss() == pytest.approx(mean, rel=1e-5, abs=1e-7)
    assert torch.equal(step.image(), image)


def test_a_decode_has_an_image_in_the_range_of_files_and_a_denoiser_has_none():
    decoded, denoised = step_of("kl_decoder_s", "forward", batch=2), step_of("unet_s", "forward")
    assert decoded.image() is None
    for step in (decoded, denoised):
        step()
    image = decoded.image()
    assert image.shape == (2, 3, 64, 64)
    assert torch.equal(image, (decoded._output / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8))
    assert image.min() < image.max()
    assert denoised.image() is None
