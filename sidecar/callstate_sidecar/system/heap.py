"""Gives memory that is free in the C library's heap back to the operating system.

By itself glibc gives back what is free at the end of its heap. A flood of requests leaves holes between blocks that
outlive it, and these stay resident: in a daemon that had been flooded for a quarter of an hour they were 45 MB of
111. malloc_trim(3) gives them back.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

GROWTH_BYTES: Final = 16 << 20
"""By so much a process has to have grown: a trim takes milliseconds, and threads that allocate wait for it."""


def resident_bytes() -> int:
    """The process's memory; 0 where there is no procfs."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


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
