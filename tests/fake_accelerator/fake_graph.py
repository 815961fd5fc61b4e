"""Graphs that record operators and run them again: they stand for those of an accelerator, on any device.

As on CUDA, a capture computes nothing that lasts, and refuses what would wait for the device. Here operators do run
while they are recorded, and their effects are undone at its end: tensors from before have their former values, new ones
are NaN until the first replay.
"""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

ATEN = torch.ops.aten
READS = (ATEN._local_scalar_dense, ATEN.nonzero, ATEN.masked_select, ATEN.equal)
REFUSED = "operation not permitted when stream is capturing"


def tensors_of(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def storage_of(tensor):
    return tensor.untyped_storage()._cdata


class Recorder(TorchDispatchMode):
    """Runs and records every operator inside."""

    def __init__(self):
        super().__init__()
        self.calls, self.invalid = [], False
        self._new, self._before = {}, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        between = {tensor.device.type for tensor in tensors_of((args, kwargs)) if tensor.dim()} | (
            {torch.device(kwargs["device"]).type} if kwargs.get("device") is not None else set()
        )
        copies = func.overloadpacket in (ATEN.copy_, ATEN._to_copy) and len(between) > 1
        if copies or func.overloadpacket in READS:
            self.invalid = True
            raise RuntimeError(f"fake: {REFUSED} ({func})")
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in tensors_of(args[place] if place < len(args) else kwargs.get(argument.name)):
                    if storage_of(tensor) not in self._new:
                        self._before.setdefault(storage_of(tensor), (tensor, tensor.clone()))
        known = {storage_of(tensor) for tensor in tensors_of((args, kwargs))}
        result = func(*args, **kwargs)
        self._new |= {storage_of(one): one for one in tensors_of(result) if storage_of(one) not in known}
        self.calls.append((func, args, kwargs, result))
        return result

    def undo(self):
        with torch.inference_mode():
            for tensor in self._new.values():
                if tensor.is_floating_point():
                    tensor.fill_(torch.nan)
            for tensor, before in self._before.values():
                tensor.copy_(before)


class FAKEGraph:
    """The interface of `torch.cuda.CUDAGraph`."""

    def capture_begin(self):
        self._recorder = Recorder()
        self._recorder.__enter__()

    def capture_end(self):
        self._recorder.__exit__(None, None, None)
        self._recorder.undo()
        if self._recorder.invalid:
            raise RuntimeError("fake: the capture was invalidated by an earlier error")

    def replay(self):
        with _disable_current_modes(), torch.inference_mode():
            for func, args, kwargs, result in self._recorder.calls:
                again = func(*args, **kwargs)
                for old, new in zip(tensors_of(result), tensors_of(again), strict=True):
                    if storage_of(old) != storage_of(new):
                        old.copy_(new)


@contextlib.contextmanager
def graph(one):
    """The interface of `torch.cuda.graph`."""
    one.capture_begin()
    try:
        yield
    finally:
        one.capture_end()
