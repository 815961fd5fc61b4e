"""The transforms of inputs and outputs of Winograd's algorithm: one compiled pass for each, or operations of torch.

The operations of torch pass a dozen times over a strip of tiles for each of the two axes of a transform; the compiled
functions, in `winograd_transforms.c`, once for both axes, with the padding and the bias. Milliseconds of CPU time, one
thread of a Zen 3 with AVX2 that other processes shared, torch 2.14, gcc 12.2:

    transforms, padding and bias of a convolution of 128 channels at 128 px     39  ->   15
    of 256 channels at 64 px                                                    21  ->    8.7
    of 512 channels at 64 px                                                    42  ->   12
    of 512 channels at 32 px                                                     8.7 ->    3.4
    iteration of VGG-19 with `fastest` at 256 px, medians of six turns        1202  -> 1077
    at 512 px, of four turns                                                  4574  -> 3911

A C compiler, which the environment variable `CC` may name, takes half a second. What it made is kept in
`$XDG_CACHE_HOME/goghmark` (by default `~/.cache/goghmark`) for later processes with the same source, command and
processor. Where there is no compiler, or it fails, transforms are eager; the results differ by rounding.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional

POINTS = 36
TILE = 4  # outputs on a side of a tile, which reads two inputs more
# The finite points other than 0 are +-NEAR and +-FAR.
NEAR, FAR = 5 / 8, 3 / 2
PRODUCT, SUM = NEAR**2 * FAR**2, NEAR**2 + FAR**2

_SOURCE = Path(__file__).with_suffix(".c")
_COMPILERS = ("cc", "gcc", "clang")
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", f"-DTILE={TILE}", f"-DNEAR={NEAR}f", f"-DFAR={FAR}f")
_COMPILE_TIMEOUT_SECONDS = 60
_PROCESSOR = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Strip:
    """Rows of tiles of a convolution.

    Attributes:
        top, left: the first position that the first tile reads; negative in the padding.
        down, across: numbers of tiles.
    """

    top: int
    left: int
    down: int
    across: int

    @property
    def tiles(self) -> int:
        return self.down * self.across


class Transforms(ABC):
    """Both transforms of a strip. Feature maps have shape (1, channels, height, width), channels last in memory.

    Attributes:
        name: for the record.
    """

    name: str

    @abstractmethod
    def inputs(self, features: Tensor, strip: Strip, points: Tensor) -> None:
        """Write B^T d B of each tile to `points`, shape (36, tiles, channels); zeros lie beyond the feature map."""

    @abstractmethod
    def outputs(self, points: Tensor, strip: Strip, bias: Tensor | None, rows: Tensor) -> None:
        """Write A^T m A of each tile, plus the bias, to `rows` of the result, shape (height, width, channels)."""


class EagerTransforms(Transforms):
    """Operations of torch, for every type."""

    name = "eager"

    def inputs(self, features: Tensor, strip: Strip, points: Tensor) -> None:
        height, width = (TILE * count + 2 for count in (strip.down, strip.across))
        inside = features[:, :, max(0, strip.top) : max(0, min(strip.top + height, features.shape[2]))]
        above = min(max(0, -strip.top), height)
        right = strip.left + width - features.shape[3]
        margins = (-strip.left, right, above, height - above - inside.shape[2])
        padded = functional.pad(inside, margins).permute(0, 2, 3, 1).squeeze(0).contiguous()
        rows = padded.new_empty(6, strip.down, *padded.shape[1:])
        _apply_input_transform([padded[i : i + height - 5 : TILE] for i in range(6)], list(rows))
        target = points.unflatten(1, (strip.down, strip.across)).unflatten(0, (6, 6))
        _apply_input_transform(
            [rows[:, :, i : i + width - 5 : TILE] for i in range(6)], [target[:, i] for i in range(6)]
        )

    def outputs(self, points: Tensor, strip: Strip, bias: Tensor | None, rows: Tensor) -> None:
        m = points.unflatten(1, (strip.down, strip.across)).unflatten(0, (6, 6))
        half = m.new_empty(4, *m.shape[1:])
        _apply_output_transform(list(m), list(half))
        tiles = m.new_empty(strip.down, 4, strip.across, 4, m.shape[4])
        _apply_output_transform([half[:, i] for i in range(6)], [tiles[:, :, :, i].transpose(0, 1) for i in range(4)])
        computed = tiles.flatten(2, 3).flatten(0, 1)[: rows.shape[0], : rows.shape[1]]
        if bias is None:
            rows.copy_(computed)
        else:
            torch.add(computed, bias, out=rows)


def _apply_input_transform(d: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Multiply by B^T, in which points of opposite sign share their terms: six tensors to six others."""
    torch.add(d[4], d[0], alpha=PRODUCT, out=out[0]).sub_(d[2], alpha=SUM)
    even, odd = torch.sub(d[4], d[2], alpha=FAR**2), torch.sub(d[3], d[1], alpha=FAR**2)
    torch.add(even, odd, alpha=NEAR, out=out[1])
    torch.sub(even, odd, alpha=NEAR, out=out[2])
    torch.sub(d[4], d[2], alpha=NEAR**2, out=even)
    torch.sub(d[3], d[1], alpha=NEAR**2, out=odd)
    torch.add(even, odd, alpha=FAR, out=out[3])
    torch.sub(even, odd, alpha=FAR, out=out[4])
    torch.add(d[5], d[1], alpha=PRODUCT, out=out[5]).sub_(d[3], alpha=SUM)


def _apply_output_transform(m: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Multiply by A^T, the powers of the points: six tensors to four others."""
    even, far_even = m[1] + m[2], m[3] + m[4]
    torch.add(m[0], even, out=out[0]).add_(far_even)
    torch.mul(even, NEAR**2, out=out[2]).add_(far_even, alpha=FAR**2)
    odd, far_odd = torch.sub(m[1], m[2], out=even), torch.sub(m[3], m[4], out=far_even)
    torch.mul(odd, NEAR, out=out[1]).add_(far_odd, alpha=FAR)
    torch.add(m[5], odd, alpha=NEAR**3, out=out[3]).add_(far_odd, alpha=FAR**3)


class FusedTransforms(Transforms):
    """Compiled, for float32 on the cpu. With fake tensors there is nothing to do: they need no memory of their own.

    Args:
        library: the compiled file; none for fake tensors.
    """

    name = "fused"

    def __init__(self, library: ctypes.CDLL | None) -> None:
        self._library = library

    def inputs(self, features: Tensor, strip: Strip, points: Tensor) -> None:
        if self._library is not None:
            _, channels, height, width = features.shape
            numbers = (height, width, channels, strip.top, strip.left, strip.down, strip.across)
            self._library.transform_inputs(
                _address(features), *map(ctypes.c_long, numbers), _address(points), torch.get_num_threads()
            )

    def outputs(self, points: Tensor, strip: Strip, bias: Tensor | None, rows: Tensor) -> None:
        if self._library is not None:
            height, width, channels = rows.shape
            self._library.transform_outputs(
                _address(points),
                *map(ctypes.c_long, (strip.down, strip.across, channels)),
                None if bias is None else _address(bias),
                *map(ctypes.c_long, (height, width)),
                _address(rows),
                torch.get_num_threads(),
            )


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


EAGER = EagerTransforms()


def transforms_of(features: Tensor) -> Transforms:
    """The transforms for such features: compiled in float32 on the cpu where a compiler is there, else eager."""
    if features.dtype != torch.float32 or features.device.type != "cpu":
        return EAGER
    if isinstance(features, FakeTensor):  # predictions compile nothing
        return FusedTransforms(None) if _compiler() else EAGER
    library = _library()
    return EAGER if library is None else FusedTransforms(library)


def _compiler() -> list[str]:
    """The command of a C compiler; empty without one."""
    if "CC" in os.environ:
        return shlex.split(os.environ["CC"])
    return [name for name in _COMPILERS if shutil.which(name)][:1]


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The compiled file, loaded; None if there is no compiler, or it cannot compile it for this processor."""
    compiler = _compiler()
    if not compiler:
        return None
    kept = _cache_folder() / f"winograd-transforms-{_fingerprint(compiler)}.so"
    with contextlib.suppress(OSError):  # it is not there, or no longer whole
        return ctypes.CDLL(str(kept))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "transforms.so"
        try:
            subprocess.run(
                [*compiler, *_FLAGS, str(_SOURCE), "-o", str(target)],
                check=True,
                capture_output=True,
                timeout=_COMPILE_TIMEOUT_SECONDS,
            )
            library = ctypes.CDLL(str(target))
        except (OSError, subprocess.SubprocessError):
            return None
        _keep(target, kept)
    return library


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "goghmark"


def _fingerprint(compiler: Sequence[str]) -> str:
    """Of everything that the compiled file depends on."""
    try:
        processor = next(line for line in _PROCESSOR.read_text().splitlines() if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        processor = platform.processor()
    parts = [*compiler, *_FLAGS, _SOURCE.read_text(), platform.machine(), processor]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _keep(compiled: Path, kept: Path) -> None:
    """Copy a compiled file into the cache as a whole, where that can be written."""
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        unfinished = kept.with_suffix(f".{os.getpid()}")
        shutil.copyfile(compiled, unfinished)
        unfinished.replace(kept)
