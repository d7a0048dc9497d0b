"""With what status callstated ends, so that whoever restarts it knows when that is no use."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit statuses of `callstated`.

    2, 3 and 4 come again at every start until somebody mends the cause: `RestartPreventExitStatus=` of the
    unit names them.
    """

    OK = 0
    """Stopped as asked; also with sessions the store has not got yet, for the journal has them."""
    FAILED = 1
    """Something that may be better after a restart: no memory, no file descriptors, an fsync that failed."""
    USAGE = 2
    """A wrong flag, key or value, an unreadable configuration file or file that it names, something in the socket's
    place that is no socket, or an extra that is not installed."""
    ALREADY_RUNNING = 3
    """Another daemon holds the socket or the journal."""
    JOURNAL = 4
    """The journal is damaged below what was synced, or written by a newer version."""
