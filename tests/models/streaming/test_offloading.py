"""Decodes with all maps on the host: exact with copies that are as late as they may be, and as many as planned."""

from types import SimpleNamespace

import pytest
import torch

from models.streaming import offloading
from models.streaming.decoder import TooLittleMemory, plan_for
from models.streaming.offloading import Bus, HostArena, OffloadedDecoder, offloaded_plan
from models.streaming.trace import trace
from tests.models.streaming.networks import distance, latents_of, own_network, plain, small_decoder


class LateBus(Bus):
    """Copies as late as a device may: a fetch when it is waited for, a store when later fetches may depend on it."""

    def __init__(self):
        self.moved_bytes, self._fetches, self._stores = 0, [], []

    def begin(self):
        self._store_all()

    def fetch(self, rows):
        target = torch.full_like(rows, torch.nan, memory_format=torch.channels_last)
        fetched = (rows, target)
        self._fetches.append(fetched)
        return target, fetched

    def wait(self, fetched):
        while any(one is fetched for one in self._fetches):  # in the order of the stream
            self._copy(*self._fetches.pop(0))

    def store(self, rows, out):
        # A store comes behind the fetches so far: what it overwrites has been read.
        while self._fetches:
            self._copy(*self._fetches.pop(0))
        self._stores.append((rows.clone(), out))

    def settle(self):
        self._store_all()

    def _store_all(self):
        while self._stores:
            self._copy(*self._stores.pop(0))

    def _copy(self, source, target):
        offloading.copy_rows(source, target)
        self.moved_bytes += source.numel() * source.element_size()


@pytest.fixture
def buses(monkeypatch):
    """The buses of all arenas that are made."""
    made = []

    class Late(HostArena):
        def __init__(self, numbers, like, resident_numbers):
            self._resident = torch.full((resident_numbers,), torch.nan, dtype=like.dtype)
            self._memory = torch.full((numbers,), torch.nan, dtype=like.dtype)
            self._bus = LateBus()
            made.append(self._bus)

    monkeypatch.setattr(offloading, "HostArena", Late)
    return made


@pytest.mark.parametrize("strip_positions", [1, 97, 600, 10**6])
@pytest.mark.parametrize(
    ("network", "latents"),
    [
        (small_decoder(), latents_of(7, 5)),
        (small_decoder(), latents_of(1, 1)),
        (own_network(), latents_of(5, 6, channels=2)),
    ],
    ids=["decoder", "a single position", "own"],
)
def test_the_image_is_exact_and_as_much_is_moved_as_the_plan_says(network, latents, strip_positions, buses):
    expected, *_ = plain(network, latents)
    chain = trace(network, latents.shape[1])
    decoder = OffloadedDecoder(chain, *latents.shape[2:], latents, strip_positions=strip_positions)
    image = torch.full_like(expected, torch.nan)
    for _ in range(2):  # the second overwrites what the first left in the arena
        decoder.decode(latents, image)
        assert distance(image, expected) < 1e-12
    (bus,) = buses
    bus.settle()
    assert bus.moved_bytes == 2 * decoder.plan.moved_bytes > 0


def test_every_convolution_is_computed_once_in_less_of_the_device_than_any_other_plan_takes():
    chain = trace(small_decoder(), 4)
    ours = offloaded_plan(chain, 64, 64, torch.float32, strip_positions=256)
    best = plan_for(chain, 64, 64, torch.float32, strip_positions=256)
    assert ours.relative_convolutions == best.relative_convolutions < 1
    assert ours.peak_bytes < best.peak_bytes
    assert ours.host_bytes >= best.numbers * 4
    assert ours.facts()["host_bytes"] == ours.host_bytes
    assert "host_bytes" not in best.facts()


def test_too_little_memory_of_the_device_is_refused_with_what_it_would_take():
    with pytest.raises(TooLittleMemory, match=r"takes \d\.\d+ GiB beside weights and latents, and 0\.00 GiB are left"):
        offloaded_plan(trace(small_decoder(), 4), 64, 64, torch.float32, memory_bytes=1000)


def test_rows_that_are_read_are_those_that_were_written_last(buses):
    arena = offloading.HostArena(3 * 4 * 5, torch.empty(1), 0)
    features = arena.map(3, 4, 5)
    rows = torch.arange(3.0 * 2 * 5).view(1, 3, 2, 5)
    arena.write(rows, features[:, :, 1:3])
    assert torch.equal(arena.read(features[:, :, 1:3]), rows)


def test_rows_with_gaps_on_either_side_are_copied():
    source = torch.arange(2.0 * 3 * 4 * 5).view(2, 3, 4, 5)[:1].contiguous(memory_format=torch.channels_last)
    wide = torch.zeros(4, 2, 5, 3)
    with_gaps = wide[:, 0].permute(2, 0, 1)[None]
    offloading.copy_rows(source, with_gaps)
    assert torch.equal(with_gaps, source)
    assert not wide[:, 1].any()
    back = torch.empty_like(source, memory_format=torch.channels_last)
    offloading.copy_rows(with_gaps, back)
    assert torch.equal(back, source)


def test_a_stored_strip_is_kept_until_the_computation_waits_for_its_copy(monkeypatch):
    """With streams that record what they are asked for, on a device without any."""
    log = []

    class Stream:
        def __init__(self, name):
            self._name = name

        def __getattr__(self, call):
            return lambda *args: log.append((self._name, call, *args)) or f"event {len(log)}"

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    names = iter(["inward", "outward"])
    monkeypatch.setattr(torch, "Stream", lambda device: Stream(next(names)))
    current = Stream("current")
    monkeypatch.setattr(torch, "accelerator", SimpleNamespace(current_stream=lambda device: current))
    bus = offloading.StreamedBus(torch.device("cpu"))
    rows = [torch.full((1, 2, 1, 3), float(i)).contiguous(memory_format=torch.channels_last) for i in range(3)]
    out = torch.zeros(1, 2, 3, 3).contiguous(memory_format=torch.channels_last)
    for index, strip in enumerate(rows):
        bus.store(strip, out[:, :, index : index + 1])
    recorded = [f"event {i + 1}" for i, entry in enumerate(log) if entry[:2] == ("outward", "record_event")]
    waits = [entry[2] for entry in log if entry[:2] == ("current", "wait_event")]
    assert waits == recorded[:1]
    assert [strip.mean().item() for _, strip in bus._stored] == [1.0, 2.0]
    assert torch.equal(out.mean((0, 1, 3)), torch.tensor([0.0, 1.0, 2.0]))
