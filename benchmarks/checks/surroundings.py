"""What is around a cell: groups of ranks, telemetry, and the comparison of a cell with itself."""

import math
import random
import sys
from collections.abc import Iterator, Mapping

from benchmarks.checks.base import CELL_SECONDS, STEP, Line, Subject, attempted, judged, measurement_of, not_here
from fixtures.comparing.decision import cell_level
from fixtures.comparing.limits import Limits
from fixtures.comparing.paired import SideBySide, Terms
from fixtures.comparing.servers import servers_for
from fixtures.host import cores_here, threads_of_rank
from fixtures.runner.group_runner import GroupRunner
from fixtures.runner.launchers import import_path
from fixtures.runner.session import Session
from fixtures.schema import MIN_ROUNDS, Rendezvous, Timing
from fixtures.telemetry.sampler import LEAST_ENERGY_SECONDS, Watchers
from models import api

# Ranks train the smallest classifier: its gradients go through the library that connects them.
_CLASSIFIER = "basic_cnn"
_CLASSIFIER_SIDE_PX = 32
_RANK_TIMING = Timing(0.0, min_parts_rounds=MIN_ROUNDS)
# Long enough for energy counters, which move in steps.
_WATCHED = Timing(2.0 * LEAST_ENERGY_SECONDS)
_WATCHED_SIDE_PX = 256
# What is read of a device by name; a clock has another name in each source.
_CLOCKS = ("sm_clock_mhz", "fastest_core_mhz")
# A cell of milliseconds on cpu, and one that keeps an accelerator busy.
_COMPARED_SIDE_PX = 128
_COMPARED_SIDE_PX_ON_ACCELERATORS = 512
_COMPARED_SECONDS = 30.0
# Two identical sides must come out as equal within this drop.
COMPARED_MAX_DROP = 0.10


def check_ranks(subject: Subject) -> Iterator[Line]:
    """A line for one rank, and one for as many as there are devices, or two on cpu."""
    yield from attempted("1 rank", _ranks, subject, "1 rank", 1)
    there = min(2, cores_here()) if subject.device == "cpu" else len(subject.devices)
    if there == 1:
        yield not_here("several ranks", f"there is one device of kind {subject.device_kind}")
    else:
        yield from attempted(f"{there} ranks", _ranks, subject, f"{there} ranks", there)


def check_telemetry(subject: Subject) -> Iterator[Line]:
    """Lines on the clock, the energy and the reasons for a lower clock that are read beside a cell."""
    yield from attempted("telemetry", _telemetry, subject)


def check_comparison(subject: Subject) -> Iterator[Line]:
    """The line on a comparison of the cell with itself."""
    yield from attempted("a cell against itself", _comparison, subject)


def _ranks(subject: Subject, name: str, ranks: int) -> Iterator[Line]:
    with subject.launcher.worker() as worker:
        backend = Session(worker, CELL_SECONDS).call("group_backend", device=subject.device)
    if backend is None:
        yield not_here(name, f"torch has no library that connects ranks on {subject.device_kind}")
        return
    cell = subject.cell(
        _CLASSIFIER_SIDE_PX,
        device=subject.device_kind,
        model=_CLASSIFIER,
        mode="training",
        optimizer="",
        strategy="",
        batch=2,
        ranks=ranks,
        kind="classification",
    )
    runner = subject.runner({_CLASSIFIER: api.CLASSIFIERS[_CLASSIFIER]})
    groups = GroupRunner(runner, subject.launcher, Rendezvous(), CELL_SECONDS, None, subject.progress)
    threads = threads_of_rank(subject.device_kind, ranks)
    outcome = groups.run(cell, "data_parallel_training", _RANK_TIMING, "weak", threads)
    loss = measurement_of(outcome).last_loss
    text = f"through {backend}, {outcome.details['communication_share']:.0%} of an iteration is communication"
    yield judged(name, loss is not None and math.isfinite(loss), text)


def _telemetry(subject: Subject) -> Iterator[Line]:
    if not subject.addresses.get(subject.device):
        yield not_here("telemetry", f"there is no source of telemetry for {subject.device}")
        return
    runner = subject.runner(watch=Watchers(subject.addresses))
    outcome = runner.run(subject.cell(_WATCHED_SIDE_PX), STEP, _WATCHED)
    measurement_of(outcome)
    telemetry = outcome.telemetry or {}
    missing = telemetry["unavailable"]
    if "telemetry" in missing or not telemetry["readings"]:
        yield Line("telemetry", "FAIL", _reason(missing, "telemetry", "nvml", "card", default="nothing was read"))
        return
    clocks = {name: telemetry["sampled"][name] for name in _CLOCKS if name in telemetry["sampled"]}
    if not clocks:
        yield not_here("clock", _reason(missing, "frequency", "sm_clock"))
    for name, values in clocks.items():
        yield judged("clock", values["min"] > 0, f"{name}: {values['min']:.0f} to {values['max']:.0f}")
    energy = telemetry["energy_per_iteration_joules"]
    if energy is None:
        yield not_here("energy", _reason(missing, "energy", "energy_per_iteration"))
    else:
        yield judged("energy", energy > 0, f"{energy:.3g} J an iteration")
    if reason := _reason(missing, "throttled", "thermal_throttle_counts", default=""):
        yield not_here("reasons for a lower clock", reason)
    else:
        reasons = ", ".join(telemetry["throttled"]) or "none"
        yield judged(
            "reasons for a lower clock", telemetry["readings"] > 0, f"{reasons} in {telemetry['readings']} readings"
        )


def _reason(missing: Mapping[str, str], *names: str, default: str = "the source does not give it") -> str:
    return next((missing[name] for name in names if name in missing), default)


def _comparison(subject: Subject) -> Iterator[Line]:
    name = "a cell against itself"
    side_px = _COMPARED_SIDE_PX if subject.device == "cpu" else _COMPARED_SIDE_PX_ON_ACCELERATORS
    servers = servers_for((sys.executable,) * 2, (import_path(),) * 2)
    try:
        runner = subject.runner(low_noise=True)
        chance = random.Random()  # noqa: S311 - a coin, no secret
        sides = SideBySide(runner, runner, servers, chance, progress=subject.progress)
        terms = Terms(_COMPARED_SECONDS, Limits(COMPARED_MAX_DROP), cell_level(1))
        _, comparison = sides.run(subject.cell(side_px), STEP, terms)
    finally:
        servers.close()
    judgement = comparison.judgement
    yield judged(name, judgement.verdict == "unchanged", f"{judgement.verdict}: {judgement.reason}")
