"""The exit statuses of `callstated`, which tell a service manager when a restart is useless."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit statuses of `callstated`.

    2, 3 and 4 recur at every start until the cause is fixed, so the unit lists them in
    `RestartPreventExitStatus=`.
    """

    OK = 0
    """Stopped on request, perhaps with sessions that are not in the store yet: the journal has them."""
    FAILED = 1
    """A failure that a restart may cure: no memory, no file descriptors, a failed fsync."""
    USAGE = 2
    """A wrong flag, key or value, an unreadable configuration file or file named in it, a Redis of another kind
    than the URL says, a path for the socket that is something else, or a missing extra."""
    ALREADY_RUNNING = 3
    """Another daemon holds the socket or the journal, or runs under the same host id over the same store."""
    JOURNAL = 4
    """The journal has lost synced data, or was written by a newer version."""
