"""What a forked child does with its parent's connections: it closes its copies, which the daemon does not notice.

The kernel reports the end of a connection to the daemon when its last copy is closed, so a child that kept a copy
open would keep a dead parent alive. The copies are replaced by /dev/null under the same descriptor numbers: objects
of the parent that the child still has can close those without hitting another file.

Therefore all sockets of the client are created here and recorded before they are connected, as a process may fork
while it connects.

A fork made in C runs no Python hooks; the copies then stay open until the child execs or ends.
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
    """An object with connections, or other state, that a forked child must not use."""

    def forked(self) -> None:
        """Called in the child before anything else runs there, after its sockets were closed. Must not raise."""
        ...


_watched: WeakSet[Any] = WeakSet()
_sockets: WeakSet[sockets.socket] = WeakSet()
_making = RLock()
"""Held while a socket is created and recorded, and while the process forks, so that no fork comes in between.
Reentrant, as a signal handler may fork."""


def watch(thing: Forked) -> None:
    """Call `thing.forked()` in each forked child. Keeps only a weak reference."""
    _watched.add(thing)


def unix_socket() -> sockets.socket:
    """A Unix stream socket that forked children close."""
    with _making:
        made = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        _sockets.add(made)
    return made


def connected(path: str) -> sockets.socket:
    """A connected, non-blocking socket, for a loop's `create_unix_connection(sock=...)`.

    Raises:
        OSError: nobody listens there; with EAGAIN, the listener's backlog is full.
    """
    made = unix_socket()
    try:
        made.setblocking(False)
        made.connect(path)  # a Unix socket connects at once or not at all
    except BaseException:
        made.close()
        raise
    return made


def _let_go(fd: int) -> None:
    """Close a descriptor and open /dev/null in its place, unless there is no /dev/null, as in a chroot."""
    os.close(fd)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    if null != fd:
        os.dup2(null, fd, inheritable=False)
        os.close(null)


def _in_child() -> None:
    _making.release()
    for each in [*_sockets]:
        fd = each.fileno()
        if fd >= 0:  # else it is closed
            with suppress(OSError):
                _let_go(fd)
    _sockets.clear()
    for thing in [*_watched]:
        thing.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_making.acquire, after_in_parent=_making.release, after_in_child=_in_child)
