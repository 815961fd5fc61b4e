"""The Python side of the fake accelerator. `import torch` calls `load` through the entry point `torch.backends`.

The C++ side, device.cpp, is compiled once for each version of it and of torch; processes that start meanwhile wait.

    PYTHONPATH=tests/fake_accelerator python -m pytest --benchmark-only --device=fake:0
"""

import fcntl
import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

_SOURCE = Path(__file__).with_name("device.cpp")
_FLAGS = ("-std=c++20", "-O1", "-fPIC", "-shared", "-Wall", "-Werror=return-type", "-Wno-sign-compare")


def compiler() -> str | None:
    """Path of the C++ compiler; None without one."""
    return shutil.which(os.environ.get("CXX", "g++"))


def library(torch: Any) -> Path:
    """Path of the compiled library, which is built at the first call.

    Raises:
        RuntimeError: there is no compiler, or it fails.
    """
    key = hashlib.sha256("\n".join((_SOURCE.read_text(), torch.__version__, sys.version, *_FLAGS)).encode())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "goghmark"
    path = cache / f"fake_accelerator-{key.hexdigest()[:16]}.so"
    if path.exists():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "fake_accelerator.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _compile(path, Path(torch.__file__).parent, int(torch._C._GLIBCXX_USE_CXX11_ABI))
    return path


def _compile(path: Path, torch_folder: Path, new_abi: int) -> None:
    executable = compiler()
    if executable is None:
        raise RuntimeError("the fake accelerator needs a C++ compiler, e.g. g++; without one, leave it off PYTHONPATH")
    unfinished = path.with_suffix(f".{os.getpid()}")
    include, libraries = torch_folder / "include", torch_folder / "lib"
    command = [
        executable,
        *_FLAGS,
        f"-D_GLIBCXX_USE_CXX11_ABI={new_abi}",
        f"-isystem{include}",
        f"-isystem{include / 'torch/csrc/api/include'}",
        str(_SOURCE),
        f"-L{libraries}",
        "-ltorch_cpu",
        "-lc10",
        f"-o{unfinished}",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"the fake accelerator does not compile: {result.stderr[-2000:]}")
    unfinished.replace(path)


def load() -> None:
    """Register the backend `fake` with torch."""
    import torch

    torch.utils.rename_privateuse1_backend("fake")
    torch.ops.load_library(str(library(torch)))
    torch._register_device_module("fake", _device_module(torch))


def _graphs() -> types.ModuleType:
    """`fake_graph`, which lies beside this file under whatever name that was imported."""
    name = f"{__package__}.fake_graph" if __package__ else "fake_graph"
    return importlib.import_module(name)


def _device_module(torch: Any) -> types.ModuleType:
    """`torch.fake`, with what torch itself asks of a backend's module, and the names that backends share."""
    module: Any = types.ModuleType("torch.fake")
    operators = torch.ops.fake_accelerator

    def index_of(device: Any = None) -> int:
        index = torch.device("fake", device).index if isinstance(device, int) else None
        index = torch.device(device).index if device is not None and index is None else index
        return torch.accelerator.current_device_index() if index is None else index

    def set_per_process_memory_fraction(fraction: float, device: Any = None) -> None:
        operators.limit(index_of(device), fraction)

    module.set_per_process_memory_fraction = set_per_process_memory_fraction
    module.device_count = operators.device_count
    module.is_available = lambda: operators.device_count() > 0
    module.current_device = torch.accelerator.current_device_index
    module.set_device = torch.accelerator.set_device_index
    module.synchronize = torch.accelerator.synchronize
    module.device = torch.accelerator.device_index
    module.is_initialized = operators.is_initialized
    module.get_device_name = lambda device=None: "fake accelerator of host memory"
    module.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
    module._is_in_bad_fork = lambda: False
    module._lazy_init = lambda: None
    module.FAKEGraph, module.graph = _graphs().FAKEGraph, _graphs().graph
    # Random numbers come from the generator of the host.
    module.manual_seed = module.manual_seed_all = lambda seed: None
    module.get_rng_state = lambda device=None: torch.get_rng_state()
    module.set_rng_state = lambda state, device=None: torch.set_rng_state(state)
    return module
