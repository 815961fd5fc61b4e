"""The interface of `models`: names of steps, and the steps that it rejects."""

import subprocess
import sys

import pytest

from models import api
from models.errors import InputError
from models.workload import Step, Workload, build, resolve
from tests.paths import ROOT


class NoStep:
    """Callable, but no subclass of Step."""

    def __init__(self, workload):
        self.workload = workload

    def __call__(self): ...

    def loss(self):
        return None


@pytest.mark.parametrize("key", sorted(set(api.STEPS) - {"classify", "denoise", "decode"}))
def test_each_key_names_a_subclass_of_step(key):
    assert issubclass(resolve(api.STEPS[key]), Step)


def test_a_step_is_built_by_its_key():
    step = api.build(Workload("style_forward", "models.nin:nin", "cpu", 64, 64))
    step()
    assert step.loss() > 0


def test_an_object_that_is_no_step_is_rejected_in_one_sentence():
    reference = f"{__file__}:NoStep"
    with pytest.raises(InputError, match="is NoStep, no models.workload.Step; derive its class from Step"):
        build(Workload(reference, "", "cpu", 8, 8))


def test_the_defaults_are_a_step_without_parts_image_compilation_or_ranks():
    class Bare(Step):
        def __call__(self): ...

        def loss(self):
            return None

    step = Bare()
    assert step.parts() == {}
    assert (step.image(), step.compile_seconds(), step.communication()) == (None, None, None)
    assert step.on_progress(lambda done, all_parts: None) is None


def test_names_are_read_without_torch():
    code = "import sys; from models import api; print(len(api.STEPS) > 0, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
