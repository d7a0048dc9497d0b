"""Free memory is given back, when it is worth it."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from callstate_sidecar.system.heap import GROWTH_BYTES, Heap, resident_bytes

HOLES = """
from callstate_sidecar.system.heap import Heap, resident_bytes
heap = Heap()
blocks = [bytes(4000) for _ in range(20_000)]
kept = blocks[::20]  # one in twenty outlives the others
full = resident_bytes()
del blocks
heap.trim()
print(full, resident_bytes())
"""


def test_it_is_trimmed_each_time_the_process_has_grown() -> None:
    sizes = iter((100, 100, GROWTH_BYTES + 99, 50, GROWTH_BYTES + 50, 80, GROWTH_BYTES + 79, GROWTH_BYTES + 80, 90))
    trims: list[int] = []
    heap = Heap(lambda: next(sizes), trims.append)
    counts = []
    for _ in range(6):
        heap.trim()
        counts.append(len(trims))
    assert counts == [0, 0, 0, 1, 1, 2]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library has no malloc_trim")
def test_holes_between_blocks_are_given_back() -> None:
    """In a process of its own, whose heap has nothing else."""
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    full, left = map(int, done.stdout.split())
    assert full - left > 50_000_000


def test_a_process_has_memory() -> None:
    assert resident_bytes() > 1 << 20
