"""What the engine sees of a view: a connection without a socket, and the process behind it.

A process lives until it is killed. All views of one worker are of one process; a view of no worker has its own.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from callstate_client.engine.process import Process
from callstate_client.engine.user import NOBODY

_pids = count(1)


class ViewProcess:
    """The process that views run in, where a daemon would have one of the operating system."""

    def __init__(self) -> None:
        self.views: set[View] = set()
        """The views that are open."""
        pid = next(_pids)
        self.identity = Process(pid, start_ticks=pid, boot_id="memory")
        self.exited: Callable[[], None] | None = None
        """Called when it is killed."""

    def kill(self) -> None:
        """It runs no more: whoever watches it hears so."""
        exited, self.exited = self.exited, None
        if exited is not None:
            exited()


class ViewPeer:
    """The process of one view, as the engine watches it (PeerProcess, Watch)."""

    watchable = True

    def __init__(self, process: ViewProcess) -> None:
        self.process = process.identity
        self._process = process
        self._watching = False

    def watch(self, exited: Callable[[], None], /) -> ViewPeer:
        """Call back once the process is killed."""
        self._process.exited, self._watching = exited, True
        return self

    def close(self) -> None:
        """Watch no more."""
        if self._watching:
            self._process.exited, self._watching = None, False


class View:
    """One view, as the engine knows its callers (Caller). Events of a view do not come this way: see events.py."""

    worker = ""
    instance = ""
    told_timeout_s = 0.0
    user = NOBODY
    unsent_bytes = 0

    def __init__(self, process: ViewProcess) -> None:
        self.process = process
        process.views.add(self)

    @property
    def closed(self) -> bool:
        """Whether it was closed, by itself or with its process."""
        return self not in self.process.views

    def send(self, data: bytes, /) -> None:
        """Lines that are no reply have no reader here."""

    def close(self) -> None:
        """Use it no more. May be called twice."""
        self.process.views.discard(self)
