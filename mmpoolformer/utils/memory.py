"""Memory of the process."""

import ctypes
import sys

# Of mallopt in glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
MOST = 2**31 - 1


def keep_freed_memory() -> None:
    """Keep the memory of freed tensors on the CPU for the next ones, with glibc.

    It would hand large blocks back to the system, which then clears new memory, page by
    page, for the same tensors of the next step. The process stays as large as it once
    was; on other C libraries nothing happens.
    """
    if sys.platform != 'linux':
        return
    allocator = getattr(ctypes.CDLL(None), 'mallopt', None)  # musl has none
    # The trim threshold alone would fix the other at 128 kB, below most tensors.
    if allocator is not None and allocator(M_MMAP_THRESHOLD, MOST):
        allocator(M_TRIM_THRESHOLD, -1)
