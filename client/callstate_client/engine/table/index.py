"""Hot sessions by status and by owner: what would otherwise be found by looking at all of them. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

from callstate_client.engine.sessions.session import Session
from callstate_client.engine.table.label_index import LabelIndex

MIN_HOLES: Final = 1000
"""Numbers of sessions that are gone are swept out when they are as many as the others, and at least this many."""


class HotOrder:
    """Hot sessions in the order in which they became hot, each with a number to go on behind: pages cost what they
    show, not what lies before them."""

    def __init__(self) -> None:
        self.last = 0
        """The number that was given last."""
        self._numbers: list[int] = []
        self._entries: dict[int, Session] = {}

    def add(self, session: Session) -> None:
        """Give a session the next number."""
        self.last += 1
        session.seq = self.last
        self._numbers.append(session.seq)
        self._entries[session.seq] = session

    def drop(self, session: Session) -> None:
        """The session is hot no longer."""
        del self._entries[session.seq]
        if len(self._numbers) > 2 * len(self._entries) + MIN_HOLES:
            self._numbers = [*self._entries]

    def behind(self, number: int) -> Iterator[Session]:
        """The sessions behind this number; none may become hot or cold while they are being taken."""
        numbers, sessions = self._numbers, self._entries
        for place in range(bisect_right(numbers, number), len(numbers)):
            session = sessions.get(numbers[place])
            if session is not None:
                yield session


class Index:
    """Counts and lists that follow each change of a session's status or owner, and of an orphan's labels."""

    def __init__(self) -> None:
        self.by_status: dict[str, int] = {}
        """How many sessions have each status: counting 100,000 at each look would hold the loop."""
        self.owned: dict[str, dict[str, None]] = {}
        """The ids of each worker's sessions, ended ones that are still hot included."""
        self.orphans = LabelIndex()
        """Live sessions whose owner is gone, in the order in which they lost it."""

    @property
    def live(self) -> int:
        """How many have not ended."""
        return sum(count for status, count in self.by_status.items() if status != "ended")

    def update(self, session: Session) -> None:
        """The session is hot, and has perhaps another status or owner than it was entered under."""
        status, owner = session.doc.status, session.facts.owner
        if session.counted != status:
            self._count(session, status)
        if session.owner_counted != owner:
            self._own(session, owner)
        if session.facts.orphan and status != "ended":
            self.orphans.put(session.id, session.facts.labels)
        elif self.orphans:
            self.orphans.discard(session.id)

    def drop(self, session: Session) -> None:
        """The session is hot no longer."""
        self._count(session, None)
        self._own(session, "")
        self.orphans.discard(session.id)

    def _count(self, session: Session, status: str | None) -> None:
        counts = self.by_status
        if session.counted is not None:
            counts[session.counted] -= 1
            if not counts[session.counted]:
                del counts[session.counted]
        if status is not None:
            counts[status] = counts.get(status, 0) + 1
        session.counted = status

    def _own(self, session: Session, owner: str) -> None:
        if session.owner_counted:
            sessions = self.owned[session.owner_counted]
            del sessions[session.id]
            if not sessions:
                del self.owned[session.owner_counted]
        if owner:
            self.owned.setdefault(owner, {})[session.id] = None
        session.owner_counted = owner
