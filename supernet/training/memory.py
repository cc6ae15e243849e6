"""Memory that training frees is kept for the next step, instead of being given back and asked for again."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["keep_freed_memory"]

# Parameters of glibc's mallopt, and the values that it settles at by itself in a process with large blocks.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_USUAL = {_TRIM_THRESHOLD: 64 << 20, _MMAP_THRESHOLD: 32 << 20, _MMAP_MAX: 65536}
_KEEPING = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_MAX: 0}


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Inside, glibc keeps what is freed; elsewhere than on Linux with glibc this does nothing.

    On a CPU every step allocates and frees its activations and gradients, some hundred MB. By default glibc returns
    them to the system at the end of each step, and the next step pays for tens of thousands of page faults: a fifth of
    a step of the smallest published MobileNetV3 at batch 32. The price is that the process stays as large as its
    largest step.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        yield
        return
    glibc = ctypes.CDLL(None)
    for parameter, value in _KEEPING.items():
        glibc.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in _USUAL.items():
            glibc.mallopt(parameter, value)
        glibc.malloc_trim(0)
