"""Writes that go to the store together, gathered in several steps."""

from __future__ import annotations

from callstate_client.engine.sessions.writes import Write

__all__ = ["FlushBatch"]


class FlushBatch:
    """Writes in the order in which they were taken, each with the time since which its session has been dirty.

    What a step needs to know of those before it is kept, not counted again: a batch of hundreds takes many steps.
    """

    __slots__ = ("alone", "session_ids", "size", "unwritable", "writes")

    def __init__(self) -> None:
        self.writes: list[tuple[Write, float]] = []
        self.unwritable: list[tuple[str, Exception]] = []
        """Sessions of which no write could be made, each with the reason: a bug, which is no other session's."""
        self.session_ids: set[str] = set()
        """The ids of the sessions in `writes` and `unwritable`."""
        self.size = 0
        """About how many bytes of documents are sent."""
        self.alone = False
        """Whether its only session has to be sent by itself."""

    def add(self, write: Write, since: float) -> None:
        """Add a write."""
        self.writes.append((write, since))
        self.session_ids.add(write.session_id)
        self.size += write.size

    def leave_out(self, session_id: str, error: Exception) -> None:
        """No write of this session could be made."""
        self.unwritable.append((session_id, error))
        self.session_ids.add(session_id)
