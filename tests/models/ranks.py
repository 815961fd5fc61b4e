"""Runs a function in several processes that form a gloo process group, with a file as store: no ports."""

import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

# The fork server imports these modules once; each rank is a fork of it. The optimisers import _dynamo.
multiprocessing.set_forkserver_preload(["torch", "torch._dynamo", "models.steps.distributed.sharded", __name__])


def in_ranks(ranks: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """The results of `function(*arguments)` in each rank, in float64 with one thread; a function at module level."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            _rank, (ranks, folder, function, arguments), nprocs=ranks, start_method="forkserver"
        )
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(ranks)]


def _rank(rank: int, ranks: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    store = dist.FileStore(f"{folder}/store", ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    torch.save(function(*arguments), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
