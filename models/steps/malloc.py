"""Options of glibc's malloc for large blocks, see mallopt(3). Without effect with other C libraries.

They last until the process ends, which is as long as the worker of one cell.

Short because steps set these options and predictions read them, without torch.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_LARGEST_INT = 2**31 - 1
LARGEST_IN_HEAP_BYTES = 2**25  # the largest M_MMAP_THRESHOLD that glibc accepts
_DEFAULT_MMAP_MAX = 65536


def keep_freed_memory() -> None:
    """Allocate all memory from the heap and never return it: else the kernel zeroes it again in each iteration."""
    _set_options((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _LARGEST_INT))


def keep_small_blocks(up_to_bytes: int, spare_bytes: int = 0) -> None:
    """Allocate blocks of up to this size, at most 32 MiB, from the heap; return larger blocks to the kernel when freed.

    The heap keeps what is free at its end up to twice that size, or up to `spare_bytes` if that is more.

    For tiles: to return their blocks as well saved little memory and took a third more time. Whole feature maps in the
    same heap would fragment it.
    """
    limit = min(up_to_bytes, LARGEST_IN_HEAP_BYTES)
    spare = max(2 * limit, spare_bytes)
    _set_options((_M_MMAP_MAX, _DEFAULT_MMAP_MAX), (_M_MMAP_THRESHOLD, limit), (_M_TRIM_THRESHOLD, spare))


class FreePages:
    """The pages of the heap that hold no block.

    Attributes:
        returns: how many times they were returned in this process. A model of the heap, which has no pages, asks.
    """

    returns = 0

    @classmethod
    def give_back(cls) -> None:
        """Return them to the kernel, those between blocks as well. malloc_trim(3)."""
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
            cls.returns += 1


def _set_options(*values: tuple[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in values:
            mallopt(parameter, value)
