"""How glibc's malloc treats large blocks (mallopt(3)); with other C libraries, nothing here has any effect.

It is set for the rest of the process's life: what a cell needs is right for its worker.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_NEVER = 2**31 - 1
_LARGE_BYTES = 2**18
_MANY = 65536  # glibc's own M_MMAP_MAX


def keep_freed_memory() -> None:
    """Take all memory from the heap and keep it: else each iteration gives it back, and has it zeroed anew."""
    _set((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER))


def return_freed_memory() -> None:
    """Give large blocks back at once. By default only very large ones are, and of those that have many different
    sizes, as tiles have, the heap keeps twice what is ever in use.
    """
    _set((_M_MMAP_MAX, _MANY), (_M_MMAP_THRESHOLD, _LARGE_BYTES))


def _set(*values: tuple[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in values:
            mallopt(parameter, value)
