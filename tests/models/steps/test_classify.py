import math
import statistics
import time

import pytest
import torch
from torch.nn.functional import cross_entropy

from models.api import CLASSIFIERS
from models.errors import InputError
from models.steps import objectives
from models.steps.classify import AUXILIARY_WEIGHT, LEARNING_RATE, classify, loss_of
from models.workload import Workload, resolve


def workload(model, mode, **further):
    options = {"width": 48, "height": 48, "batch": 2} | further
    return Workload("models.steps.classify:classify", CLASSIFIERS[model], "cpu", mode=mode, **options)


def test_forward_computes_logits_in_inference_mode():
    step = classify(workload("basic_cnn", "forward"))
    step()
    assert step._logits.shape == (2, 1000)
    assert step._logits.is_inference()
    assert step.loss() == pytest.approx(float(step._logits.mean()))


def test_forward_stores_weights_and_images_in_bfloat16_and_training_only_computes_in_it():
    half, single = (classify(workload("basic_cnn", "forward", precision=one)) for one in ("bfloat16", "float32"))
    assert {tensor.dtype for tensor in (half._images, *half.network.parameters())} == {torch.bfloat16}
    half()
    single()
    assert half._logits.dtype == torch.bfloat16
    assert 0 < (half._logits - single._logits).norm() < 0.05 * single._logits.norm()
    training = classify(workload("basic_cnn", "training", precision="bfloat16"))
    assert {weight.dtype for weight in training.network.parameters()} == {torch.float32}


def test_training_is_sgd_with_momentum_on_the_cross_entropy():
    step = classify(workload("basic_cnn", "training"))
    network = resolve(CLASSIFIERS["basic_cnn"])()
    network.load_state_dict({key: value.clone() for key, value in step._network.state_dict().items()}, assign=True)
    network.train()
    momentum = [torch.zeros_like(weight) for weight in network.parameters()]
    for _ in range(3):
        step()
        loss = cross_entropy(network(step._images), step._labels)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for weight, gradient, velocity in zip(network.parameters(), gradients, momentum, strict=True):
                velocity.mul_(0.9).add_(gradient + 1e-4 * weight)
                weight.sub_(LEARNING_RATE * velocity)
        assert step.loss() == pytest.approx(float(loss.detach()), rel=1e-5)
    for ours, expected in zip(step._network.parameters(), network.parameters(), strict=True):
        assert torch.allclose(ours, expected, rtol=1e-5, atol=1e-7)


def test_training_lowers_the_loss():
    step = classify(workload("basic_cnn", "training"))
    step()
    first = step.loss()
    for _ in range(20):
        step()
    assert step.loss() < first


def test_googlenet_trains_its_auxiliary_heads_with_the_weight_of_the_paper():
    main, second, first = torch.randn(3, 2, 1000).unbind()
    labels = torch.tensor([3, 5])
    expected = cross_entropy(main, labels) + 0.3 * (cross_entropy(first, labels) + cross_entropy(second, labels))
    assert AUXILIARY_WEIGHT == 0.3
    assert torch.allclose(loss_of((main, second, first), labels), expected)
    step = classify(workload("googlenet", "training"))
    step._forward()
    step._backward()
    assert all(weight.grad is not None for weight in step._network.parameters())


def test_training_removes_its_loss_scale_before_the_step_and_reports_lasting_overflow(monkeypatch):
    monkeypatch.setattr("models.steps.classify.FLOAT16_LOSS_SCALE", 2.0**12)
    monkeypatch.setitem(objectives._HALF, "float16", torch.bfloat16)  # whether the cpu has float16 or not
    scaled, plain = (classify(workload("basic_cnn", "training", precision=one)) for one in ("float16", "bfloat16"))
    for step in (scaled, plain):
        step()
    for one, other in zip(scaled.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
    assert math.isfinite(scaled.loss())
    for _ in range(2):
        scaled._forward()
        scaled._backward()
        next(scaled.network.parameters()).grad[0] = math.inf
        scaled._step()
    assert math.isnan(scaled.loss())
    assert all(weight.isfinite().all() for weight in scaled.network.parameters())


def test_float16_training_undoes_its_loss_scale():
    if not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        precision, tolerance = "bfloat16", 0.1  # has no loss scale: then the test only compares the precisions
    else:
        precision, tolerance = "float16", 0.02
    low, full = (classify(workload("basic_cnn", "training", precision=one)) for one in (precision, "float32"))
    before = [weight.detach().clone() for weight in full._network.parameters()]
    low()
    full()
    moved, expected = (
        torch.cat(
            [(weight - old).detach().flatten() for weight, old in zip(one._network.parameters(), before, strict=True)]
        )
        for one in (low, full)
    )
    assert (moved - expected).norm() < tolerance * expected.norm()


def test_the_parts_together_compute_the_same_as_an_iteration():
    whole, apart = (classify(workload("basic_cnn", "training")) for _ in range(2))
    for _ in range(2):
        whole()
        for part in apart.parts().values():
            part()
    assert list(apart.parts()) == ["forward", "backward", "optimizer"]
    assert whole.loss() == apart.loss()


def test_an_unknown_mode_is_rejected():
    with pytest.raises(InputError, match="no mode 'dream'"):
        classify(workload("basic_cnn", "dream"))


def test_the_times_of_the_parts_add_up_to_that_of_an_iteration_within_ten_percent():
    step = classify(workload("basic_cnn", "training", width=96, height=96, batch=4))

    def seconds(run):
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    step()
    ratios = []
    for _ in range(5):  # another process may disturb an attempt, but not every attempt in the same way
        rounds = [(seconds(step), sum(seconds(part) for part in step.parts().values())) for _ in range(15)]
        ratios.append(statistics.median(apart / whole for whole, apart in rounds))
        if abs(ratios[-1] - 1) <= 0.1:
            return
    pytest.fail(f"parts over whole: {ratios}")
