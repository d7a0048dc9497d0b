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

AGAIN = """
import resource, sys
from callstate_sidecar.system.heap import keep_some_free
if sys.argv[1:]:
    keep_some_free()
def copies():
    [bytearray(b"x") * 1_000_000 for _ in range(4)]
copies()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    copies()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
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


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_long_requests_find_the_memory_of_those_before() -> None:
    """Four copies of a megabyte at a time take no new pages the second time; else each time some thousand."""

    def faults(*arguments: str) -> int:
        command = [sys.executable, "-c", AGAIN, *arguments]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("kept") * 20 < faults()


def test_a_process_has_memory() -> None:
    assert resident_bytes() > 1 << 20
