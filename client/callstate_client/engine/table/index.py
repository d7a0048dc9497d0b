"""Indexes of hot sessions by status, owner and creator, to avoid full scans. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

from callstate_client.engine.sessions.session import Session
from callstate_client.engine.table.label_index import LabelIndex

MIN_HOLES: Final = 1000
"""Numbers of dropped sessions are purged once they outnumber the others by this many."""


class Numbered(Protocol):
    """What a NumberedOrder holds."""

    seq: int
    """Its number in the order."""


NumberedT = TypeVar("NumberedT", bound=Numbered)
KeyT = TypeVar("KeyT", str, int)


class NumberedOrder(Generic[NumberedT]):
    """Entries in the order in which they were added, numbered for use as a cursor: a page costs what it shows, not
    what precedes it."""

    def __init__(self) -> None:
        self.last = 0
        """The last number assigned."""
        self._numbers: list[int] = []
        self._entries: dict[int, NumberedT] = {}

    def add(self, entry: NumberedT) -> None:
        """Assign an entry the next number."""
        self.last += 1
        entry.seq = self.last
        self._numbers.append(entry.seq)
        self._entries[entry.seq] = entry

    def drop(self, entry: NumberedT) -> None:
        """Remove an entry."""
        del self._entries[entry.seq]
        if len(self._numbers) > 2 * len(self._entries) + MIN_HOLES:
            self._numbers = [*self._entries]

    def behind(self, number: int) -> Iterator[NumberedT]:
        """Iterate over the entries after this number; none may be added or dropped meanwhile."""
        numbers, entries = self._numbers, self._entries
        for place in range(bisect_right(numbers, number), len(numbers)):
            entry = entries.get(numbers[place])
            if entry is not None:
                yield entry

    def chunks(self, size: int) -> Iterator[list[NumberedT]]:
        """Iterate over all entries, so many at a time. Any may be added or dropped in between: those that are added
        meanwhile come at the end, so entries must not be added faster than they are consumed."""
        number = 0
        while some := [*islice(self.behind(number), size)]:
            number = some[-1].seq
            yield some


def _move(counts: dict[KeyT, int], before: KeyT | None, after: KeyT | None) -> None:
    """Count one session under another key; None: under none."""
    if before is not None:
        counts[before] -= 1
        if not counts[before]:
            del counts[before]
    if after is not None:
        counts[after] = counts.get(after, 0) + 1


class Index:
    """Counts and lists updated with each change of a session's status or owner, or an orphan's labels."""

    def __init__(self) -> None:
        self.by_status: dict[str, int] = {}
        """Session count by status: counting 100,000 on each request would block the loop."""
        self.by_uid: dict[int, int] = {}
        """Session count by the uid of the creator, ended ones that are still hot included."""
        self.owned: dict[str, dict[str, None]] = {}
        """The ids of each worker's sessions, ended ones that are still hot included."""
        self.orphans = LabelIndex()
        """Live sessions that lost their owner, in the order in which they lost it."""

    @property
    def live(self) -> int:
        """Number of sessions that have not ended."""
        return sum(count for status, count in self.by_status.items() if status != "ended")

    def update(self, session: Session) -> None:
        """Index a hot session under its current status and owner."""
        status, owner = session.doc.status, session.facts.owner
        if session.counted != status:
            _move(self.by_status, session.counted, status)
            session.counted = status
        if session.owner_counted != owner:
            self._own(session, owner)
        if session.uid_counted != session.facts.uid:
            _move(self.by_uid, session.uid_counted, session.facts.uid)
            session.uid_counted = session.facts.uid
        if session.facts.orphan and status != "ended":
            self.orphans.put(session.id, session.facts.labels)
        elif self.orphans:
            self.orphans.discard(session.id)

    def drop(self, session: Session) -> None:
        """The session is hot no longer."""
        _move(self.by_status, session.counted, None)
        _move(self.by_uid, session.uid_counted, None)
        session.counted = session.uid_counted = None
        self._own(session, "")
        self.orphans.discard(session.id)

    def _own(self, session: Session, owner: str) -> None:
        if session.owner_counted:
            sessions = self.owned[session.owner_counted]
            del sessions[session.id]
            if not sessions:
                del self.owned[session.owner_counted]
        if owner:
            self.owned.setdefault(owner, {})[session.id] = None
        session.owner_counted = owner
