"""Indexes of hot sessions by status, owner and creator, to avoid full scans. Pure."""

from __future__ import annotations

from itertools import islice
from typing import Final, TypeVar

from callstate_client.engine.numbered_order import NumberedOrder
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.table.label_index import LabelIndex
from callstate_client.model.state import Status

MOST_STATUSES: Final = 100
"""Statuses that are counted by name in the figures. A status is any text, perhaps another one of each session."""

OTHER: Final = "other"
"""The sum of all further ones."""

KeyT = TypeVar("KeyT", str, int)


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
        self.count = 0
        """How many sessions are indexed."""
        self.by_status: dict[str, int] = {}
        """Session count by status: counting 100,000 on each request would block the loop."""
        self.by_uid: dict[int, int] = {}
        """Session count by the uid of the creator, ended ones that are still hot included."""
        self.owned: dict[str, NumberedOrder[Session]] = {}
        """Each worker's sessions, ended ones that are still hot included, in the order in which they became hot."""
        self.orphans = LabelIndex()
        """Live sessions that lost their owner, in the order in which they lost it."""

    @property
    def live(self) -> int:
        """Number of sessions that have not ended."""
        return self.count - self.by_status.get(Status.ENDED, 0)

    def status_counts(self) -> dict[str, int]:
        """`by_status` for the figures, which takes no longer with many statuses."""
        counts = self.by_status
        if len(counts) <= MOST_STATUSES:
            return dict(counts)
        shown = {status: counts[status] for status in (*Status, *islice(counts, MOST_STATUSES)) if status in counts}
        shown[OTHER] = shown.get(OTHER, 0) + self.count - sum(shown.values())
        return shown

    def update(self, session: Session) -> None:
        """Index a hot session under its current status and owner."""
        status, owner = session.doc.status, session.facts.owner
        if session.counted != status:
            self.count += session.counted is None
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
        self.count -= session.counted is not None
        _move(self.by_status, session.counted, None)
        _move(self.by_uid, session.uid_counted, None)
        session.counted = session.uid_counted = None
        self._own(session, "")
        self.orphans.discard(session.id)

    def _own(self, session: Session, owner: str) -> None:
        if session.owner_counted:
            before = self.owned[session.owner_counted]
            before.drop(session)
            if not before:
                del self.owned[session.owner_counted]
        if owner:
            after = self.owned.get(owner)
            if after is None:
                after = self.owned[owner] = NumberedOrder()
            after.put(session)
        session.owner_counted = owner
