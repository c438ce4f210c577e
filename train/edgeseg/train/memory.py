"""Keep what a training step frees, so that the next one finds it touched.

Every step needs the same few hundred megabytes again. glibc takes blocks of that size from the kernel and gives them
back when they are freed, so each step first touches all of its memory anew: tens of thousands of page faults, during
which the other threads wait.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4
"""Parameters of mallopt(3), glibc's malloc.h."""
_MIB = 1 << 20


def keep_freed_memory() -> bool:
    """Tell this process's allocator to keep what is freed, up to 2 GiB at the heap's top. Returns whether it does.

    Large blocks then come from the heap, which grows by 64 MiB at a time. Where the C library is not glibc nothing is
    changed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018  # musl has a mallopt that does nothing
    except AttributeError:
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2048 * _MIB - 1), (_M_TOP_PAD, 64 * _MIB))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)
