"""A process by its pidfd, and the notice of its exit.

A pidfd refers to one process, even when its pid is reused, and becomes readable when that process exits
(pidfd_open(2)). Whoever holds it can wait for the exit in the event loop, as for any other descriptor.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable

from callstate_client.engine.process import Process


class Peer:
    """A process and its pidfd. The holder closes it, or passes it to a `Watch`.

    Args:
        process: which one; None if the kernel does not tell.
        pidfd: -1 for none.
        exited: the process is known to have exited.
    """

    __slots__ = ("exited", "pidfd", "process")

    def __init__(self, process: Process | None, pidfd: int = -1, *, exited: bool = False) -> None:
        self.process = process
        self.pidfd = pidfd
        self.exited = exited

    @property
    def watchable(self) -> bool:
        """Whether its exit is known or can be watched for."""
        return self.exited or self.pidfd >= 0

    def watch(self, exited: Callable[[], None]) -> Watch:
        """Call back once when the process has exited; see Watch."""
        return Watch(self, exited)

    def close(self) -> None:
        """Close the pidfd; may be called twice."""
        pidfd, self.pidfd = self.pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)


class Watch:
    """Calls back once, from the running loop, when a peer's process has exited; never from the constructor.

    Args:
        peer: a watchable one; the watch takes over its pidfd and closes it.
        exited: called after the watch has been closed.
    """

    def __init__(self, peer: Peer, exited: Callable[[], None]) -> None:
        if not peer.watchable:
            raise ValueError("there is no pidfd to watch this peer by")
        self._peer = peer
        self._exited = exited
        self._loop = asyncio.get_running_loop()
        self._soon: asyncio.Handle | None = None
        if peer.exited:
            self._soon = self._loop.call_soon(self._notify)
        else:
            self._loop.add_reader(peer.pidfd, self._notify)

    def _notify(self) -> None:
        self.close()
        self._exited()

    def close(self) -> None:
        """Stop watching; may be called twice, and from the callback."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._peer.pidfd >= 0:
            self._loop.remove_reader(self._peer.pidfd)  # first: once closed, the number may be another file's
            self._peer.close()


def poll(fd: int, events: int) -> int:
    """What poll(2) reports of a descriptor right now: of these events, and errors and hang-ups in any case."""
    poller = select.poll()
    poller.register(fd, events)
    found = poller.poll(0)
    return found[0][1] if found else 0


def has_exited(pidfd: int) -> bool:
    """Whether the process has exited."""
    return bool(poll(pidfd, select.POLLIN))
