"""When memory that is free in the C library's heap is given back to the operating system.

By itself glibc gives back at once what is free at the end of its heap, and large blocks. The next request as long
as the last one then gets pages that the kernel has to clear first, for each copy on the way from the socket to the
journal: half of what a line of a megabyte costs, while the loop serves nobody else. So some free memory is kept.

What a flood of requests leaves is holes between blocks that outlive it, and these stay resident: in a daemon that
had been flooded for a quarter of an hour they were 45 MB of 111. malloc_trim(3) gives them back.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

KEPT_BYTES: Final = 32 << 20
"""So much may stay free at the end of the heap until the next trim: a group of the journal with all its copies."""

LARGE_BYTES: Final = 32 << 20
"""Blocks of this size and more have pages of their own, given back when they are freed."""

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
"""From malloc.h of glibc."""

GROWTH_BYTES: Final = 16 << 20
"""By so much a process has to have grown: a trim takes milliseconds, and threads that allocate wait for it."""


def resident_bytes() -> int:
    """The process's memory; 0 where there is no procfs."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def keep_some_free() -> None:
    """Have this process keep KEPT_BYTES of free memory, where the C library can: musl has no mallopt(3)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


class Heap:
    """The heap of this process.

    Args:
        resident: the process's memory, bytes.
        trim: malloc_trim; None: the C library's, or nothing where it has none, as musl.
    """

    def __init__(
        self, resident: Callable[[], int] = resident_bytes, trim: Callable[[int], Any] | None = None
    ) -> None:
        self._resident = resident
        self._trim = trim or getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._least = resident()
        """The least memory since the last trim."""

    def trim(self) -> None:
        """Give back what is free, if the process has grown since that was done before."""
        now = self._resident()
        if now < self._least + GROWTH_BYTES:
            self._least = min(now, self._least)
        elif self._trim is not None:
            self._trim(0)
            self._least = self._resident()
