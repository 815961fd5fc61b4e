"""How glibc's malloc treats large blocks (mallopt(3)); with other C libraries, nothing here has any effect.

It is set for the rest of the process's life: what a cell needs is right for its worker.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_NEVER = 2**31 - 1
_LARGEST_IN_HEAP_BYTES = 2**25  # the most that glibc takes for M_MMAP_THRESHOLD
_MANY = 65536  # its own M_MMAP_MAX


def keep_freed_memory() -> None:
    """Take all memory from the heap and keep it: else each iteration gives it back, and has it zeroed anew."""
    _set((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER))


def keep_small_blocks() -> None:
    """Keep blocks of up to 32 MiB, as tiles are, and give larger ones back at once.

    To give back tiles, too, saved a quarter of the memory of a small picture, and cost a third of the time.
    """
    _set(
        (_M_MMAP_MAX, _MANY),
        (_M_MMAP_THRESHOLD, _LARGEST_IN_HEAP_BYTES),
        (_M_TRIM_THRESHOLD, 2 * _LARGEST_IN_HEAP_BYTES),
    )


def _set(*values: tuple[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in values:
            mallopt(parameter, value)
