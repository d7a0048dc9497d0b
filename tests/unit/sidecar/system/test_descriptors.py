"""How many connections fit into the limit on open files."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from callstate_sidecar.system.descriptors import LEAST_RESERVE, MOST_RESERVE, room_for_connections

RAISED = """
import resource
from callstate_sidecar.system.descriptors import raise_limit
print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""

TABLE = """
from pathlib import Path
from callstate_sidecar.system.descriptors import make_table
def size():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("FDSize"))
before = size()
make_table(1000)
print(before, size(), len([*Path("/proc/self/fd").iterdir()]))
make_table(10**8)
"""


@pytest.mark.parametrize(
    ("limit", "room"),
    [
        (10, 1),
        (64, 8),
        (256, 104),
        (1024, 448),
        (4096, 1920),
        (65536, 32640),
        (sys.maxsize, (sys.maxsize - 256) // 2),
    ],
)
def test_each_connection_counts_as_two_and_some_are_kept(limit: int, room: int) -> None:
    assert room_for_connections(limit) == room
    if room > 1:
        assert LEAST_RESERVE <= limit - 2 * room <= MOST_RESERVE + 1


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    hard = min(200, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    limited = ["sh", "-c", f'ulimit -Sn 100; ulimit -Hn {hard}; exec "$0" -c "$1"', sys.executable, RAISED]
    said = subprocess.run(limited, capture_output=True, text=True, check=True).stdout
    assert said.split() == [str(hard)] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="FDSize is in Linux's procfs")
def test_the_table_has_room_before_there_are_connections() -> None:
    limited = ["sh", "-c", 'ulimit -Sn 4096; exec "$0" -c "$1"', sys.executable, TABLE]
    said = subprocess.run(limited, capture_output=True, text=True, check=True).stdout
    before, after, opened = map(int, said.split())
    assert before <= 256
    assert after >= 2000
    assert opened < 10
