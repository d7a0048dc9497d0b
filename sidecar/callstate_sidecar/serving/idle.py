"""Idle connections: how long a connection may say nothing, and which one gives its place to a newcomer.

A connection is idle if it has no request under way, has read its replies, and is neither registered as a worker
nor subscribed to events. It is closed without a word, as a client that is sent something while it sends its next
request would take that for the reply; so it sees that the connection was lost, and connects again. Connections that
have never sent a request have a shorter time, and those in the reserve a very short one.

Times are kept in a heap by when each connection was last served as far as is known here. An entry is compared with
the connection itself when its time has come, so serving a request costs nothing here, and a look costs what is due.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import count
from typing import Final, Generic, Protocol, TypeVar

LOOK_EVERY_S: Final = 0.1
"""How often deadlines are looked at, seconds."""

MAKE_ROOM_S: Final = 30.0
"""A connection that has been idle for this long, seconds, gives its place to a newcomer if all are taken."""

RESERVE_FIRST_LINE_S: Final = 0.5
"""How long a connection in the reserve has for its first request, seconds: a tool sends it at once."""

RESERVE_IDLE_S: Final = 10.0
"""How long it may be idle, seconds."""

LOOKS: Final = 64
"""Entries that are looked at for a newcomer at most."""

LATE_S: Final = 0.5
"""A look that comes so much too late, seconds, closes nothing: the daemon was stopped or stalled, and has yet to
read what clients sent meanwhile."""


class Idler(Protocol):
    """What is needed to know whether a connection is idle."""

    connected_at: float
    """When it connected, monotonic seconds."""
    served_at: float
    """When its last requests were served, monotonic seconds; 0: none yet."""

    @property
    def stays(self) -> bool:
        """Whether it is never idle: it is registered as a worker."""
        ...

    @property
    def in_use(self) -> bool:
        """Whether a request is under way, or a reply unread."""
        ...


ConnectionT = TypeVar("ConnectionT", bound=Idler)


class IdleConnections(Generic[ConnectionT]):
    """Finds the connections that have been idle for too long.

    Args:
        now: the time, monotonic seconds.
        is_subscriber: whether a connection has subscribed to events.
    """

    def __init__(self, now: Callable[[], float], is_subscriber: Callable[[ConnectionT], bool]) -> None:
        self._now = now
        self._is_subscriber = is_subscriber
        self._numbers = count()
        self._open: dict[ConnectionT, None] = {}
        self._new: list[tuple[float, int, ConnectionT]] = []
        self._served: list[tuple[float, int, ConnectionT]] = []
        self._reserved: dict[ConnectionT, None] = {}
        self._looked_at = now()
        self.first_line_s = self.idle_s = 0.0

    def limit(self, first_line_s: float, idle_s: float) -> None:
        """Apply these limits, seconds; 0: no limit."""
        self.first_line_s, self.idle_s = first_line_s, idle_s

    def connected(self, connection: ConnectionT, *, reserved: bool) -> None:
        """Watch a connection, which has been accepted."""
        connection.connected_at = self._now()
        if reserved:
            self._reserved[connection] = None
            return
        self._open[connection] = None
        entry = (connection.connected_at, next(self._numbers), connection)
        heapq.heappush(self._new, entry)
        heapq.heappush(self._served, entry)

    def disconnected(self, connection: ConnectionT) -> None:
        """Forget a connection, which was closed."""
        self._reserved.pop(connection, None)
        self._open.pop(connection, None)
        for heap in (self._new, self._served):
            if len(heap) > 64 + 2 * len(self._open):  # mostly of connections that are gone
                heap[:] = [entry for entry in heap if entry[2] in self._open]
                heapq.heapify(heap)

    # -- what is due ------------------------------------------------------------------------------------------

    def look(self) -> Iterator[tuple[ConnectionT, str]]:
        """The connections to close, each with the key of the limit that it has reached."""
        now = self._now()
        late_s, self._looked_at = now - self._looked_at - LOOK_EVERY_S, now
        if late_s > LATE_S:
            return
        if self.first_line_s:
            yield from self._silent(now)
        if self.idle_s:
            while (idler := self._longest_idle(now, self.idle_s, len(self._served))) is not None:
                yield idler, "limits.idle_timeout_s"
        for connection in [*self._reserved]:
            since = connection.served_at or connection.connected_at
            span_s = RESERVE_IDLE_S if connection.served_at else RESERVE_FIRST_LINE_S
            if now - since >= span_s and not connection.in_use:
                del self._reserved[connection]
                yield connection, "limits.connections"

    def _silent(self, now: float) -> Iterator[tuple[ConnectionT, str]]:
        heap = self._new
        while heap and heap[0][0] + self.first_line_s <= now:
            connection = heapq.heappop(heap)[2]
            if connection in self._open and not connection.served_at:
                if connection.in_use:  # it waits for the daemon
                    heapq.heappush(heap, (now, next(self._numbers), connection))
                    continue
                del self._open[connection]
                yield connection, "limits.first_line_s"

    def take_longest_idle(self) -> ConnectionT | None:
        """The connection that has been idle longest, if that is MAKE_ROOM_S: the caller closes it."""
        return self._longest_idle(self._now(), MAKE_ROOM_S, LOOKS)

    def _longest_idle(self, now: float, least_s: float, looks: int) -> ConnectionT | None:
        heap = self._served
        for _ in range(looks):
            if not heap or heap[0][0] + least_s > now:
                return None
            since, number, connection = heap[0]
            if connection not in self._open or connection.stays or self._is_subscriber(connection):
                heapq.heappop(heap)
            elif connection.in_use:
                heapq.heapreplace(heap, (now, number, connection))
            elif connection.served_at > since:
                heapq.heapreplace(heap, (connection.served_at, number, connection))
            else:
                heapq.heappop(heap)
                del self._open[connection]
                return connection
        return None
