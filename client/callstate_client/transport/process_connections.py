"""The blocking connections of one process, idle and in use, and which of their pending mutations may be repeated.

A forked child gets an object of its own and closes its copies of the parent's connections. Mutations are numbered
by session, because the daemon remembers only a session's last `OPS_REMEMBERED`: one that was followed by as many
others must not be sent again.
"""

from __future__ import annotations

from threading import Event, RLock
from weakref import WeakSet

from callstate_client.transport.blocking import BlockingConnection
from callstate_client.transport.pending import OPS_REMEMBERED


class ProcessConnections:
    """Connections of one process, and the numbers of its pending mutations. Safe to use from many threads."""

    def __init__(self) -> None:
        self.idle: list[BlockingConnection] = []
        """Those that no request uses, the last used one at the end, so that few are used and stay warm. `pop` and
        `append` are atomic."""
        self.closing = Event()
        self._all: WeakSet[BlockingConnection] = WeakSet()
        """Weak: a KeyboardInterrupt may come when a connection has just been taken from `idle`, or made, and nobody
        else has it yet. It is closed with its socket then."""
        self._mutations: dict[str, list[int]] = {}
        self._lock = RLock()
        """Reentrant: a signal handler may send a request while it is held."""

    def add(self, connection: BlockingConnection) -> None:
        """Add a new connection, which is interrupted at once if the pool was closed meanwhile."""
        with self._lock:
            self._all.add(connection)
            if self.closing.is_set():
                connection.interrupt()

    def drop(self, connection: BlockingConnection) -> None:
        """Close a connection that only the caller has."""
        with self._lock:
            self._all.discard(connection)
            connection.close()

    def drop_idle(self) -> None:
        """Close those that no request uses."""
        while self.idle:
            try:
                connection = self.idle.pop()
            except IndexError:  # another thread took it
                return
            self.drop(connection)

    def close(self) -> None:
        """Wake the threads that wait for replies, which then close their connections, and close the idle ones."""
        with self._lock:
            self.closing.set()
            for connection in [*self._all]:
                connection.interrupt()
        self.drop_idle()

    def abandon(self) -> None:
        """In a child: close its copies of the parent's connections."""
        for connection in self._all:  # without the lock, which a thread of the parent may have held
            connection.close()

    def begin(self, session_id: str) -> int:
        """Count a mutation of this session as pending, and return its number.

        Those of other threads that are pending by now may take effect after it: they have greater numbers.
        """
        with self._lock:
            counts = self._mutations.setdefault(session_id, [0, 0])
            number = counts[1] + 1 - counts[0]
            counts[0] += 1
            counts[1] += 1
            return number

    def done(self, session_id: str) -> None:
        """Count it as no longer pending."""
        with self._lock:
            counts = self._mutations[session_id]
            counts[0] -= 1
            if not counts[0]:
                del self._mutations[session_id]

    def is_remembered(self, session_id: str, number: int) -> bool:
        """Whether the daemon still remembers the `op` of a mutation, if that took effect."""
        return self._mutations[session_id][1] - number < OPS_REMEMBERED
