"""What a forked child does with its parent's connections: it lets go of them, and tells nobody.

The kernel tells the daemon that a worker is gone when the last copy of its connections is closed, so a child that
kept one open would keep a dead parent alive. The copies are replaced by /dev/null, under the same numbers: whatever
of the parent's objects the child still has may close them without hitting another file.

So all of the client's sockets are made here, and known from before they are connected: a connection that is still
being made or greeted is a connection too, though nobody has it yet.

A fork made in C runs no hook of Python's; there the copies stay until the child execs or ends.
"""

from __future__ import annotations

import os
import socket as sockets
from contextlib import suppress
from threading import RLock
from typing import Any, Protocol
from weakref import WeakSet

__all__ = ["Forked", "connected", "unix_socket", "watch"]


class Forked(Protocol):
    """What has connections, or state, that is not its child's."""

    def forked(self) -> None:
        """Called in the child, before anything else runs there, its sockets being let go of. Must not raise."""
        ...


_watched: WeakSet[Any] = WeakSet()
_sockets: WeakSet[sockets.socket] = WeakSet()
_making = RLock()
"""Held while a socket is made, and while the process forks: no thread is forked away between a socket and its note.
Reentrant, for a signal's handler may fork."""


def watch(thing: Forked) -> None:
    """Tell this one, in a child, that it is in a child; as long as somebody has it."""
    _watched.add(thing)


def unix_socket() -> sockets.socket:
    """A Unix stream socket that a child lets go of."""
    with _making:
        made = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        _sockets.add(made)
    return made


def connected(path: str) -> sockets.socket:
    """One that is connected and does not block, for a loop's `create_unix_connection(sock=...)`.

    Raises:
        OSError: nobody listens there; or, with EAGAIN, more wait to be accepted than the listener lets.
    """
    made = unix_socket()
    try:
        made.setblocking(False)
        made.connect(path)  # to a Unix socket: at once or not at all
    except BaseException:
        made.close()
        raise
    return made


def _let_go(fd: int) -> None:
    """Close a descriptor, and put /dev/null in its place where there is one: a chroot may have none."""
    os.close(fd)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    if null != fd:
        os.dup2(null, fd, inheritable=False)
        os.close(null)


def _in_child() -> None:
    _making.release()
    for each in [*_sockets]:
        fd = each.fileno()
        if fd >= 0:  # else it was closed
            with suppress(OSError):
                _let_go(fd)
    _sockets.clear()
    for thing in [*_watched]:
        thing.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_making.acquire, after_in_parent=_making.release, after_in_child=_in_child)
