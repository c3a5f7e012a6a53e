"""The C library's allocator, which decides what a training on a CPU pays for its memory."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Have this process keep the memory that it frees, up to its exit. Returns False where that has no effect.

    By default glibc returns large freed blocks to the system. A training step on a CPU frees its activations and the
    next one allocates them again, so that every page of them is mapped anew each time: up to a fifth of the time.
    Results do not change. Without effect outside glibc (macOS, Windows, musl).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows, which has no library without a name
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))  # no block apart, nothing returned
