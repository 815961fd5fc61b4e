"""The one door to the models: names, and what is refused at it."""

import subprocess
import sys

import pytest

from models import api
from models.errors import InputError
from models.workload import Step, Workload, build, resolve
from tests.paths import ROOT


class NoStep:
    """Can be called, and is no Step."""

    def __init__(self, workload):
        self.workload = workload

    def __call__(self): ...

    def loss(self):
        return None


@pytest.mark.parametrize("key", sorted(set(api.STEPS) - {"classify"}))
def test_each_key_names_a_class_of_steps(key):
    assert issubclass(resolve(api.STEPS[key]), Step)


def test_a_step_is_built_by_its_key():
    step = api.build(Workload("style_forward", "models.nin:nin", "cpu", 64, 64))
    step()
    assert step.loss() > 0


def test_what_is_no_step_is_refused_in_a_sentence():
    reference = f"{__file__}:NoStep"
    with pytest.raises(InputError, match="is NoStep, no models.workload.Step; derive its class from Step"):
        build(Workload(reference, "", "cpu", 8, 8))


def test_a_step_without_parts_image_compiler_or_ranks_says_so_by_the_defaults():
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
