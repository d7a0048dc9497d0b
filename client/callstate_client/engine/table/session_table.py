"""The sessions in memory, with the indexes and queues that spare full scans.

Plain data, without rules: sessions are changed through a transaction (transaction.py), written to the store through
the flush queue (flush_queue.py), and restored from journal records by replay.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Final

from callstate_client.engine.hot_bytes import HotBytes
from callstate_client.engine.numbered_order import NumberedOrder
from callstate_client.engine.sessions.records import WorkerRecord
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.weight import weight
from callstate_client.engine.table.dirty_set import DirtySet
from callstate_client.engine.table.index import Index
from callstate_client.engine.table.quarantine import Quarantine
from callstate_client.engine.table.readings import Readings
from callstate_client.engine.table.set_aside import SetAside
from callstate_client.engine.table.tombstones import Tombstones

IDS_AT_ONCE: Final = 200
"""Sessions looked at in one go: a microsecond and more for each that is in no processor cache."""


class SessionTable:
    """All hot sessions of this host."""

    def __init__(self) -> None:
        self.hot = HotBytes()
        """What everything in here takes in memory."""
        self.sessions: dict[str, Session] = {}
        self.index = Index()
        self.order: NumberedOrder[Session] = NumberedOrder()
        """Hot sessions in the order in which they became hot."""
        self.tombstones = Tombstones(self.hot)
        self.readings = Readings()
        self.dirty = DirtySet()
        self.quarantined = Quarantine()
        """Hot sessions and pending deletions that the store refuses."""
        self.set_aside = SetAside(self.hot)
        """Copies of sessions that another host has taken over."""
        self.unflushed_beats: dict[str, int] = {}
        """Heartbeats in neither journal nor store, microseconds since 1970."""
        self.processes: dict[str, WorkerRecord] = {}
        """The processes of the workers that own sessions or may own some."""
        self.parts: dict[int, list[tuple[bytes, int]]] = {}
        """During a replay: parts of histories by their key, until their sessions come."""
        self.store_in_doubt = False
        """Whether the store may have lost data: it has failed, and has not been checked since."""

    def ids(self, size: int) -> Iterator[list[str]]:
        """The ids of all hot sessions, so many at a time.

        Sessions may come and go in between: some may be hot no longer, and new ones come at the end.
        """
        for sessions in self.order.chunks(size):
            yield [session.id for session in sessions]

    def each_id(self) -> Iterator[str]:
        """Like `ids`, one at a time, without a long step."""
        return chain.from_iterable(self.ids(IDS_AT_ONCE))

    def insert(self, session: Session) -> None:
        """Add a hot session."""
        session_id = session.id
        self.order.add(session)
        self.sessions[session_id] = session
        self.tombstones.became_hot(session_id)
        self.readings.outdate(session_id)
        self.index.update(session)
        self.quarantined.discard(session_id)  # the refused deletion of a predecessor
        self.weigh(session)

    def drop(self, session_id: str) -> None:
        """Remove a session, if it is hot."""
        session = self.sessions.pop(session_id, None)
        if session is not None:
            self.index.drop(session)
            self.order.drop(session)
            self.quarantined.discard(session_id)
            self.hot.total -= session.weighed
            session.weighed = 0

    def weigh(self, session: Session) -> None:
        """Count what a hot session takes by now, after any change of its document, facts or merge base."""
        size = weight(session)
        self.hot.total += size - session.weighed
        session.weighed = size

    def weigh_if_hot(self, session: Session) -> None:
        """Like `weigh`, for a session that may have left memory meanwhile."""
        if self.sessions.get(session.id) is session:
            self.weigh(session)

    def add_unflushed_beat(self, session: Session) -> None:
        """Give a session that was read from the store the last heartbeat, if the store does not have it yet."""
        beat_us = self.unflushed_beats.get(session.id)
        if beat_us is not None:
            session.beat_us = max(session.beat_us, beat_us)

    def is_stored(self, session: Session) -> bool:
        """Whether the store is known to have its current state, with no write in flight."""
        if self.store_in_doubt or session.id in self.dirty.marks or session.id in self.dirty.in_flight:
            return False
        return session.stored_version >= session.version
