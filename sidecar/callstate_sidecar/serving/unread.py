"""The bound on unread replies of all connections together.

Each connection stops being served when its own unread replies pass `limits.pending_reply_bytes`. Hundreds of
connections whose clients read nothing would still hold gigabytes. So once all of them hold half of
`limits.reply_bytes_total`, each connection gets only its share of that half, and stops being served sooner; and if
the total is reached all the same (the last reply to each may be large), connections are closed, the one with most
unread bytes first, until it is not.

What clients have sent counts too, while it is held here: an unfinished line, and lines that wait to be served. A
thousand connections with a megabyte each, and no newline, would take as much.

Adding up takes as long as there are connections, so it is done again only when as many bytes were sent since as
there was room left.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Final, Protocol

from callstate_sidecar.logs.event_log import EventLog

log = EventLog(__name__)

LEAST_SHARE_BYTES: Final = 64 * 1024
"""What each connection may leave unread, however many there are: a page of results."""

CHECKS: Final = 16
"""Under pressure the total is added up after each sixteenth of it that was sent."""


class Reader(Protocol):
    """What the bound needs to know of a connection."""

    @property
    def held_bytes(self) -> int:
        """Bytes of replies that the client has not read yet, and of lines that are unfinished or not served yet."""
        ...

    def bound(self, pending_reply_bytes: int, /) -> None:
        """Serve it no more while it has more unread bytes than this."""
        ...

    def abort(self) -> None:
        """Close it at once, without sending the rest."""
        ...


class UnreadReplies:
    """Watches the total.

    Args:
        connections: all that are open.
        cut_off: is told the number of connections closed.
    """

    def __init__(self, connections: Set[Reader], cut_off: Callable[[int], None]) -> None:
        self._connections = connections
        self._cut_off = cut_off
        self.share_bytes = 0
        """Unread bytes at which a connection is not served."""

    def limit(self, each_bytes: int, total_bytes: int) -> None:
        """Apply limits.

        Args:
            each_bytes: unread bytes of one connection.
            total_bytes: unread bytes of all.
        """
        self._each = min(each_bytes, total_bytes)
        self._total = total_bytes
        self._room = 0
        self.share_bytes = 0
        self._check()

    def held_more(self, size: int) -> None:
        """This many bytes of replies were handed to a connection's transport, or of lines were received."""
        self._room -= size
        if self._room < 0:
            self._check()

    def _check(self) -> None:
        unread = {connection: connection.held_bytes for connection in self._connections}
        total = sum(unread.values())
        if total > self._total:
            total = self._close_largest(unread, total)
        half = self._total // 2
        if total > half:
            self._bound(min(self._each, max(LEAST_SHARE_BYTES, half // max(1, len(unread)))))
        elif total <= half // 2 or not self.share_bytes:
            self._bound(self._each)
        self._room = max(half - total, self._total // CHECKS)

    def _close_largest(self, unread: dict[Reader, int], total: int) -> int:
        """Close connections until the total is within its limit; returns it."""
        closed = 0
        for connection in sorted(unread, key=unread.__getitem__, reverse=True):
            if total <= self._total:
                break
            total -= unread.pop(connection)
            connection.abort()
            closed += 1
        log.warning(
            "connections_cut_off", "limits.reply_bytes_total is reached; %d connections were closed", closed
        )
        self._cut_off(closed)
        return total

    def _bound(self, share_bytes: int) -> None:
        if share_bytes != self.share_bytes:
            self.share_bytes = share_bytes
            for connection in self._connections:
                connection.bound(share_bytes)
