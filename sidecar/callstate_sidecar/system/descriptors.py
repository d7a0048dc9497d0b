"""File descriptors: the soft limit is raised to the hard one, and connections are bounded by what it has room for.

A daemon without descriptors can't open the next segment of its journal, so writes would be refused, nor its store.
Each connection takes one, and a second if it is a worker's: the pidfd of its process. So connections get what is
left after the daemon's own descriptors, and so much in reserve that journal, checkpoints, store and operators
always find some.
"""

from __future__ import annotations

import fcntl
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

OF_A_CONNECTION: Final = 2
"""The socket, and the pidfd of a worker's process."""

LEAST_RESERVE: Final = 48
"""What the daemon opens itself: about 20 at rest with SQLite; then the journal's next segments and a checkpoint,
the connections to Redis, those of `limits.reserved_connections`, and ones that are accepted to be refused."""

MOST_RESERVE: Final = 256
"""The reserve where the limit on open files is high: a Redis Cluster has many servers to connect to."""

RESERVE_SHARE: Final = 8
"""The reserve between these two is this fraction (1/8) of the limit."""


def raise_limit() -> int:
    """Raise the soft limit on open files to the hard one. Returns the limit in force.

    The soft limit is low (1,024) for the sake of programs that use select(2), which can't handle more; this one
    does not. Where the system refuses, as macOS does if the hard limit is infinite, it stays.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            hard = soft
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def make_table(connections: int) -> None:
    """Have the kernel's table of this process's descriptors hold those of so many connections.

    It doubles when it is full, and in a process with threads that waits until every processor has passed through
    its scheduler (`expand_fdtable` in Linux's fs/file.c): accept(2) then held up the event loop for 10 to 20 ms,
    four times on the way to a thousand connections. The table never shrinks; a descriptor takes eight bytes of it.
    """
    last = OF_A_CONNECTION * connections + MOST_RESERVE - 1
    with Path(os.devnull).open("rb") as low, suppress(OSError):  # beyond the limit: then the table is smaller
        os.close(fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, last))


def room_for_connections(limit: int) -> int:
    """How many connections fit, at least 1.

    Args:
        limit: on open files.
    """
    reserve = max(LEAST_RESERVE, min(MOST_RESERVE, limit // RESERVE_SHARE))
    return max(1, (limit - reserve) // OF_A_CONNECTION)
