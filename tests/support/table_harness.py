"""A session table with its transaction and flush queue, and nothing around them."""

from __future__ import annotations

from collections.abc import Iterator

from callstate_client.engine.events import Events
from callstate_client.engine.flush_queue import FlushQueue
from callstate_client.engine.liveness import Liveness
from callstate_client.engine.phases import Evidence
from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.head import read_head
from callstate_client.engine.sessions.records import HistoryMode, Record, TurnsRecord
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.writes import Write
from callstate_client.engine.table import replay
from callstate_client.engine.table.session_table import SessionTable
from callstate_client.engine.transaction import Transaction
from callstate_client.errors import NotDurableError
from support.clock import START_US
from support.core import HOST, TIME

NOT_DURABLE = NotDurableError("the disk is full")
TURN = b'{"role":"user"}'


def new_session(session_id: str, status: str = "active", at_us: int = START_US) -> Session:
    """A session without turns, which is in no table yet."""
    head = read_head(b'{"id":"%b","status":"%b"}' % (session_id.encode(), status.encode()), "$", lambda _: TIME)
    return Session(session_id, Document(head, at_us))


class TableHarness:
    """The parts of `Engine` that changes and their flushing need, on a clock that stands still."""

    def __init__(self) -> None:
        self.table = SessionTable()
        self.liveness = Liveness(30.0, 30.0, 300.0)
        self.events = Events(100, "stream-1", self.table.hot)
        self.tx = Transaction(self.table, self.liveness, self.events, self.watch)
        self.queue = FlushQueue(self.table, self.tx)

    # -- changes, all in the open group -----------------------------------------------------------------------

    def create(
        self, session_id: str, now: float = 0.0, status: str = "active", *, at_us: int = START_US
    ) -> Session:
        """Create a session, with version and epoch above those of a deleted one under this id."""
        session = new_session(session_id, status, at_us)
        tombstone = self.table.tombstones.predecessor(session_id)
        session.version = tombstone.version
        session.change_facts(epoch=tombstone.epoch)
        self.tx.create(session)
        session.next_version(at_us)
        self.tx.log(session, session.record(HistoryMode.KEEP, b"", 0, []), now)
        return session

    def add_turn(
        self,
        session: Session,
        now: float = 0.0,
        op: str | None = None,
        *,
        turn: bytes = TURN,
        at_us: int = START_US,
    ) -> None:
        """Add a turn."""
        self.tx.change(session)
        session.doc.append(turn, 1)
        session.doc.updated_us = at_us
        version = session.next_version(at_us)
        ops = session.keep_op(op, b"%d" % version)
        record = TurnsRecord(session.id, version, at_us, session.doc.metrics, HistoryMode.APPEND, turn, 1, ops)
        self.tx.log(session, record, now)

    def remove(self, session: Session, now: float = 0.0) -> None:
        """Delete a session."""
        self.tx.remove(session, session.version + 1, now)

    # -- writes to the store ----------------------------------------------------------------------------------

    def take(self, sessions: int = 100, size_bytes: int = 1 << 20) -> list[tuple[Write, float]]:
        """Commit, and take a batch of writes, each with the time since when it is due."""
        self.tx.commit()
        return self.queue.take(HOST, sessions, size_bytes)

    def flush(self) -> list[Write]:
        """Commit, and let the store confirm everything that is dirty."""
        writes = [write for write, _ in self.take()]
        for write in writes:
            self.queue.acked(write)
        return writes

    # -- the rest of the engine -------------------------------------------------------------------------------

    def watch(self, session: Session) -> None:
        """Start the session's timeout anew: its grace period, if it is a suspect."""
        if session.ended:
            self.liveness.keep(session, 0.0)
            return
        self.liveness.watch(session, 0.0)
        if session.suspected:
            self.liveness.learn(session, Evidence.SILENCE, 0.0, labels=session.facts.labels)

    def rollback(self) -> None:
        """Undo the open group, as when the journal can't be written."""
        self.tx.rollback(NOT_DURABLE)

    def replay(self, record: Record) -> None:
        """Apply a record of the journal."""
        replay.replay(self.table, record)

    def snapshot(self) -> Iterator[Record]:
        """The records of a snapshot."""
        return replay.snapshot(self.table)

    def all_dirty(self, now: float) -> None:
        """Mark all sessions dirty, as after a replay."""
        replay.all_dirty(self.table, now)
