"""One cell over several hosts, started by torchrun as in the documentation."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import ranks
from tests.paths import ROOT

SMALL = ("--benchmark=data_parallel_weak", "--model=basic_cnn", "--resolution=32", "--batch=2", "--cell-seconds=0.05")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--rdzv-backend=c10d")
LINK = ("goghmark0", "goghmark1")
ADDRESSES = ("10.213.7.1", "10.213.7.2")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def two_hosts(folder: Path) -> Iterator[list[list[str]]]:
    """Two network namespaces connected by a veth pair; yields for each the prefix of a command on that host."""
    hosts = [f"goghmark-{os.getpid()}-{number}" for number in (1, 2)]
    ip("link", "add", LINK[0], "type", "veth", "peer", "name", LINK[1])
    try:
        for host, link, address in zip(hosts, LINK, ADDRESSES, strict=True):
            ip("netns", "add", host)
            ip("link", "set", link, "netns", host)
            for command in (("addr", "add", f"{address}/24", "dev", link), ("link", "set", link, "up")):
                ip("-n", host, *command)
            ip("-n", host, "link", "set", "lo", "up")
        # Each host also has its own name, which resolves to its address.
        named = 'hostname "$0" && mount --bind "$1" /etc/hosts && shift && exec "$@"'
        table = folder / "hosts"
        lines = [f"{address} {host}" for address, host in zip(ADDRESSES, hosts, strict=True)]
        table.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        enter = ["unshare", "--uts", "--mount", "sh", "-c", named]
        yield [["ip", "netns", "exec", host, *enter, host, str(table)] for host in hosts]
    finally:
        for host in hosts:  # this also removes the veth pair
            subprocess.run(["ip", "netns", "del", host], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", LINK[0]], capture_output=True, check=False)


def ip(*arguments: str) -> None:
    try:
        subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        pytest.skip("`ip`, which makes the hosts, is not installed (Debian: iproute2)")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"hosts cannot be made: ip {' '.join(arguments)}: {error.stderr.strip()}")


@pytest.mark.slow
def test_two_hosts_run_one_cell_and_rank_0_records_them_both(tmp_path):
    with contextlib.contextmanager(two_hosts)(tmp_path) as hosts:
        started = [
            subprocess.Popen(
                [
                    *host, *TORCHRUN, "--nnodes=2", "--nproc-per-node=1", f"--rdzv-endpoint={ADDRESSES[0]}:29400",
                    f"--local-addr={address}", "-m", "benchmarks.ranks", *SMALL,
                    f"--record={tmp_path / address}.json",
                ],
                cwd=ROOT, env=ENVIRONMENT | {"GLOO_SOCKET_IFNAME": link},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            for host, address, link in zip(hosts, ADDRESSES, LINK, strict=True)
        ]  # fmt: skip
        outputs = [process.communicate(timeout=240)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    (path,) = tmp_path.glob("*.json")  # of rank 0, on either host
    record = json.loads(path.read_text())
    (cell,) = record["cells"]
    assert (cell["status"], cell["ranks"], cell["scaling"]) == ("ok", 2, "weak")
    names = {f"goghmark-{os.getpid()}-{number}" for number in (1, 2)}
    assert set(cell["hosts"]) == set(record["machines"]) == names
    assert {device.split(" ")[0] for device in cell["rank_devices"]} == names
    assert f"with 2 ranks on {', '.join(cell['hosts'])}: " in "".join(outputs)
    assert cell["images_per_second"] == pytest.approx(4 / cell["median_seconds"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--model=vgg91"], "--model: no model named 'vgg91'; there are: alexnet, basic_cnn"),
        (["--resolution=big"], "--resolution: 'big' is not a resolution"),
        (["--benchmark=data_parallel_strong", "--batch=3"], "a batch of 3 cannot be divided among 2 ranks"),
    ],
)
def test_bad_input_is_reported_in_one_sentence_by_rank_0_only(options, sentence, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert ranks.main(options) == 2
        error = capsys.readouterr().err
        assert (sentence in error and error.count("\n") == 1) if rank == "0" else not error


def test_without_torchrun_the_error_says_what_to_run(capsys, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert ranks.main([]) == 2
    assert "torchrun must start this command, see --help" in capsys.readouterr().err
