"""Is running out of memory recognised, and are predictions right? And does a search end where memory ends?

For each strategy a cell runs with a limit of a part of what it is predicted to take. It must end as out of memory, with
the allocator as its cause: a failure that is not recognised would be an error, and would end a search.
"""

from collections.abc import Iterator

from benchmarks.checks.base import (
    CELL_SECONDS,
    STEP,
    Line,
    Subject,
    attempted,
    judged,
    line_of_failure,
    measurement_of,
    not_here,
)
from fixtures.formatting import readable_size
from fixtures.runner.session import Session
from fixtures.schema import SMOKE, Measurement, Timing
from fixtures.search import SIDES, STEP_PX, Attempts, confirm_largest, largest_predicted

SIDE_PX = 512
# Of the predicted memory: clearly too little, also for strategies whose predictions have a fixed part.
LIMIT_SHARE = 0.2
# Predictions on an accelerator are sums of tensors, without fragments and the workspaces of libraries. On cpu they
# model the heap, whose holes are not known exactly.
LARGEST_PREDICTION_ERROR = 0.25
# What libraries keep, and the memory of a process moves by, whatever the size of the image.
_FIXED_BYTES = 32 * 2**20
# On cpu, both sides of the comparison move with the holes that the worker's heap has from its imports: on a Zen 3 a
# network of two small convolutions at 512 px took 65 to 93 MiB, and 84 to 116 were predicted.
_HEAP_BYTES = 48 * 2**20
# The allocator keeps freed blocks; more than this in addition to the tensors points at fragments.
LARGEST_RESERVED = 2.0
_CPU_SIDE_PX = 128
_TWO_ITERATIONS = Timing(0.0, min_rounds=1, max_rounds=1, min_warmup_iterations=1, min_warmup_seconds=0.0)


def check(subject: Subject) -> Iterator[Line]:
    """Lines on running out of memory, on predictions, and on the memory of a cpu cell beside an accelerator."""
    for strategy in subject.strategies:
        name = f"out of memory, {strategy}"
        yield from attempted(name, _out_of_memory, subject, strategy, name)
    yield from attempted("predicted memory", _predicted, subject)
    yield from attempted("a cpu cell beside accelerators", _cpu_cell, subject)


def check_search(subject: Subject) -> Iterator[Line]:
    """The line on the search for the largest image."""
    yield from attempted("largest image", _search, subject)


def _out_of_memory(subject: Subject, strategy: str, name: str) -> Iterator[Line]:
    runner, cell = subject.runner(), subject.cell(SIDE_PX, strategy=strategy)
    if strategy == "compiled" and subject.device == "cpu":
        yield not_here(name, "on cpu the compiler itself would meet the limit")
        return
    predicted = runner.predict(cell, STEP).peak_memory_bytes
    if predicted is None or runner.budget(cell) is None:
        yield not_here(name, "it cannot be predicted" if predicted is None else _no_figures(subject))
        return
    limit_bytes = int(LIMIT_SHARE * predicted)
    result = runner.with_limit(limit_bytes).run(cell, STEP, SMOKE).result
    given = f"with {readable_size(limit_bytes)} of the predicted {readable_size(predicted)}"
    if isinstance(result, Measurement):
        yield Line(name, "FAIL", f"it ran {given}: the limit or the prediction is wrong")
    elif result.status != "out_of_memory":
        yield line_of_failure(name, result)
    else:
        yield judged(name, result.cause in ("device_allocator", "host_allocator"), f"{given}: {result.cause}")


def _predicted(subject: Subject) -> Iterator[Line]:
    runner, cell = subject.runner(), subject.cell(SIDE_PX)
    predicted = runner.predict(cell, STEP).peak_memory_bytes
    with runner.warm_session(cell, STEP, _TWO_ITERATIONS) as session:
        figures = session.call("memory_figures")
    allocated, reserved = figures["allocated_bytes"], figures["reserved_bytes"]
    if predicted is None or allocated is None:
        yield not_here("predicted memory", "it cannot be predicted" if predicted is None else _no_figures(subject))
        return
    tolerance = max(_HEAP_BYTES if subject.device == "cpu" else _FIXED_BYTES, LARGEST_PREDICTION_ERROR * predicted)
    text = f"predicted {readable_size(predicted)}, took {readable_size(allocated)}"
    yield judged("predicted memory", abs(allocated - predicted) <= tolerance, text)
    if reserved is None:
        yield not_here("reserved memory", f"{subject.device} counts none")
        return
    within = allocated <= reserved <= max(LARGEST_RESERVED * allocated, allocated + _FIXED_BYTES)
    yield judged("reserved memory", within, f"{readable_size(reserved)} for {readable_size(allocated)} of tensors")


def _no_figures(subject: Subject) -> str:
    return f"{subject.device} gives no memory figures, so that nothing can be limited"


def _cpu_cell(subject: Subject) -> Iterator[Line]:
    """The peak of a cpu cell in a worker that could see the accelerators, and in one that never could."""
    name = "a cpu cell beside accelerators"
    if all(facts["name"] == "cpu" for facts in subject.machine["devices"]):
        yield not_here(name, "there is no accelerator")
        return
    without, beside = (_peak_of_cpu_cell(subject, hidden) for hidden in (True, False))
    if without is None or beside is None:
        yield not_here(name, "the system does not report the memory of a process")
        return
    text = (
        f"{readable_size(beside)} for {_CPU_SIDE_PX} px, {readable_size(without)} where they are hidden from the start"
    )
    yield judged(name, abs(beside - without) <= _FIXED_BYTES, text)


def _peak_of_cpu_cell(subject: Subject, hidden: bool) -> int | None:
    cell = subject.cell(_CPU_SIDE_PX, device="cpu")
    workload = subject.runner().workload(cell, STEP)
    with subject.launcher.worker() as worker:
        session = Session(worker, CELL_SECONDS, subject.progress)
        if hidden:
            session.call("hide_accelerators")
        session.call("open", device="cpu", precision=cell.precision, limit_bytes=None)
        session.build_and_warm_up(workload, _TWO_ITERATIONS)
        peak: int | None = session.call("memory_figures")["allocated_bytes"]
    return peak


def _search(subject: Subject) -> Iterator[Line]:
    """With a limit at which an image of `SIDE_PX` just fits, so that a large card takes no longer than a small one."""
    name, cell = "largest image", subject.cell(STEP_PX)
    runner = subject.runner()
    limit_bytes = runner.predict(subject.cell(SIDE_PX), STEP).peak_memory_bytes
    if limit_bytes is None or runner.budget(cell) is None:
        yield not_here(name, "its memory cannot be predicted" if limit_bytes is None else _no_figures(subject))
        return
    limited = runner.with_limit(limit_bytes)
    attempts = Attempts(SIDES, cell, STEP, limited, subject.progress)
    first = largest_predicted(SIDES, attempts.predict, limited.budget(cell))
    outcome = confirm_largest(SIDES, attempts.run, first)
    measurement_of(outcome)
    details = outcome.details
    cause = details["failed_cause"] or details["failed_message"]
    text = (
        f"{details['largest_side_px']} px fits {readable_size(limit_bytes)},"
        f" {details['failed_side_px']} px: {details['failed_status']} ({cause})"
    )
    yield judged(name, details["failed_status"] == "out_of_memory", text)
