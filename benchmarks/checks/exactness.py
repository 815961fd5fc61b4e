"""Does every strategy compute the right gradient in every precision of the device?

Short because `models/steps/style.py` compares the gradients: here are the tolerances, and why.

The gradient of an image is compared with the one that `plain` computes on the cpu in float64, at 128 px: the relative
L2 distance. Rounding errors grow through the layers, and a pooling layer that takes the largest of its inputs passes
the gradient to another pixel where rounding swaps two that are almost equal. So the distance is far above the unit
roundoff of a precision, but hardly depends on the strategy, which does the same operations in another order.

The tolerances are several times what the suite's networks show, and below 1, which is the distance of a gradient that
is zero: one with a wrong sign or a wrong factor is beyond all of them, one with a wrong halo or a missing layer beyond
that of float32.
"""

from collections.abc import Iterator

from benchmarks.checks.base import STEP, Line, Subject, attempted, judged

SIDE_PX = 128

# Largest relative L2 distance from the float64 gradient. VGG-19 with random weights shows 5e-3 in float32 and 0.27 in
# bfloat16 (docs/results.md, Strategies). tf32 and float16 have three bits of mantissa more than bfloat16: an eighth of
# its rounding error.
TOLERANCES = {"float32": 0.02, "tf32": 0.2, "float16": 0.2, "bfloat16": 0.5}


def check(subject: Subject) -> Iterator[Line]:
    """A line for each precision and strategy."""
    for precision in subject.precisions:
        yield from attempted(f"every strategy {precision}", _precision, subject, precision)


def _precision(subject: Subject, precision: str) -> Iterator[Line]:
    with subject.runner().open_session(subject.cell(SIDE_PX, precision=precision)):
        pass  # one line, not one for each strategy, where the device lacks the precision
    for strategy in subject.strategies:
        name = f"{strategy} {precision}"
        yield from attempted(name, _gradient, subject, name, strategy, precision)


def _gradient(subject: Subject, name: str, strategy: str, precision: str) -> Iterator[Line]:
    runner, cell = subject.runner(), subject.cell(SIDE_PX, precision=precision, strategy=strategy)
    with runner.open_session(cell) as session:
        session.enter_phase("measure")
        deviation: float = session.call("gradient_deviation", workload=runner.workload(cell, STEP))
    tolerance = TOLERANCES[precision]
    # The condition is false for NaN as well.
    yield judged(name, deviation <= tolerance, f"{deviation:.1e} from the float64 gradient; at most {tolerance:g}")
