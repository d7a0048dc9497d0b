"""What reads of the store have found, as long as requests that waited for it have yet to run.

A read is shown to the requests that waited for it, and to no others, when each of them has its turn: a session that
does not become hot by it, that it is missing, or why it can't be had. It is not shown any more once the session has
become hot, has changed or has been deleted, as that has to be seen by those that run later. They have the store
read again if they don't find the session in memory. All of that may happen while the read is still under way, too:
a session may be adopted meanwhile, changed and deleted. So a reading is kept from when the store is asked.
"""

from __future__ import annotations

from typing import Final

from callstate_client.engine.sessions.session import Session
from callstate_client.engine.table.tombstones import NO_TOMBSTONE, Tombstone

READING_BYTES: Final = 500
"""What a reading takes in memory beside the document."""


class Reading:
    """What one read finds.

    Args:
        session_id: under this id.
    """

    __slots__ = ("found", "grave", "outdated", "session_id", "size_bytes", "waiting")

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.found: Session | Exception | None = None
        """The session, or why it can't be had; None: there is none."""
        self.grave = NO_TOMBSTONE
        """What a new session has to exceed, if there is none."""
        self.outdated = False
        """It is not shown: the session has become hot, has changed or was deleted since the store was asked."""
        self.size_bytes = READING_BYTES
        self.waiting = 0
        """Requests that have yet to run, and the read while it is under way."""


class Readings:
    """The readings for which requests wait."""

    def __init__(self) -> None:
        self._by_id: dict[str, list[Reading]] = {}
        """The readings that are not outdated, by session id."""
        self.size_bytes = 0
        """The size of all readings, outdated ones included."""
        self.untold = 0
        """Reads of which some that waited have not been told yet; they precede what their connections send."""

    def begin(self, session_id: str) -> Reading:
        """The store is asked for a session. The reading has to be let go of when that is over."""
        reading = Reading(session_id)
        self.keep(reading)
        return reading

    def fill(self, reading: Reading, found: Session | Exception | None, grave: Tombstone) -> None:
        """The store has answered, and nothing has outdated that."""
        reading.found, reading.grave = found, grave
        if isinstance(found, Session):
            reading.size_bytes += found.doc.size
            self.size_bytes += found.doc.size

    def keep(self, reading: Reading) -> None:
        """One request more waits for its turn."""
        if not reading.waiting:
            self.size_bytes += reading.size_bytes
            if not reading.outdated:
                self._by_id.setdefault(reading.session_id, []).append(reading)
        reading.waiting += 1

    def let_go(self, reading: Reading) -> None:
        """A request has run, or waits for another read; or the read is over."""
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
