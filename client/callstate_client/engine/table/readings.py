"""What reads of the store have found, as long as requests that waited for it have yet to run.

A read is shown to the requests that waited for it, and to no others, when each of them has its turn: a session that
does not become hot by it, that it is missing, or why it can't be had. It is not shown any more once the session has
become hot, has changed or has been deleted, as that has to be seen by those that run later. They have the store
read again if they don't find the session in memory.
"""

from __future__ import annotations

from typing import Final

from callstate_client.engine.sessions.session import Session
from callstate_client.engine.table.tombstones import NO_TOMBSTONE, Tombstone

READING_BYTES: Final = 500
"""What a reading takes in memory beside the document."""


class Reading:
    """What one read has found.

    Args:
        session_id: under this id.
        found: the session, or why it can't be had; None: there is none.
        grave: what a new session has to exceed, if there is none.
        outdated: it is not shown: the session is hot.
    """

    __slots__ = ("found", "grave", "outdated", "session_id", "size_bytes", "waiting")

    def __init__(
        self,
        session_id: str,
        found: Session | Exception | None,
        grave: Tombstone = NO_TOMBSTONE,
        *,
        outdated: bool = False,
    ) -> None:
        self.session_id = session_id
        self.found = found
        self.grave = grave
        self.outdated = outdated
        self.size_bytes = READING_BYTES + (found.doc.size if isinstance(found, Session) else 0)
        self.waiting = 0
        """Requests that have yet to run."""


class Readings:
    """The readings for which requests wait."""

    def __init__(self) -> None:
        self._by_id: dict[str, list[Reading]] = {}
        """Those that are shown."""
        self.size_bytes = 0
        """Of all of them, outdated ones included."""
        self.untold = 0
        """Reads of which some that waited have not been told yet; they precede what their connections send."""

    def keep(self, reading: Reading) -> None:
        """One request more waits for its turn."""
        if not reading.waiting:
            self.size_bytes += reading.size_bytes
            if not reading.outdated:
                self._by_id.setdefault(reading.session_id, []).append(reading)
        reading.waiting += 1

    def let_go(self, reading: Reading) -> None:
        """A request has run, or waits for another read."""
        reading.waiting -= 1
        if not reading.waiting:
            self.size_bytes -= reading.size_bytes
            if not reading.outdated:
                shown = self._by_id[reading.session_id]
                shown.remove(reading)
                if not shown:
                    del self._by_id[reading.session_id]

    def outdate(self, session_id: str) -> None:
        """The session becomes hot, changes or is deleted."""
        for reading in self._by_id.pop(session_id, ()):
            reading.outdated = True
