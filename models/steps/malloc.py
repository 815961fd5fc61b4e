"""How glibc's malloc treats large blocks (mallopt(3)); with other C libraries, nothing here has any effect.

It is set for the rest of the process's life: what a cell needs is right for its worker.

Short because it is set and predicted from both sides, without torch.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_NEVER = 2**31 - 1
LARGEST_IN_HEAP_BYTES = 2**25  # the most that glibc takes for M_MMAP_THRESHOLD
_MANY = 65536  # its own M_MMAP_MAX


def keep_freed_memory() -> None:
    """Take all memory from the heap and keep it: else each iteration gives it back, and has it zeroed anew."""
    _set((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER))


def keep_small_blocks(up_to_bytes: int) -> None:
    """Keep blocks of up to that size, at most 32 MiB, in the heap, and give larger ones back at once.

    For work in tiles: to give them back, too, saved little memory and cost a third of the time; to keep the maps that
    they are put together to in the same heap leaves holes in it.
    """
    limit = min(up_to_bytes, LARGEST_IN_HEAP_BYTES)
    _set((_M_MMAP_MAX, _MANY), (_M_MMAP_THRESHOLD, limit), (_M_TRIM_THRESHOLD, 2 * limit))


def _set(*values: tuple[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in values:
            mallopt(parameter, value)
