"""A table with its transaction and flush queue, and nothing around them."""

from __future__ import annotations

from collections.abc import Iterator

from callstate_client.engine.events import Events
from callstate_client.engine.flush_queue import FlushQueue
from callstate_client.engine.liveness import Evidence, Liveness
from callstate_client.engine.sessions.records import Record
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.table import replay
from callstate_client.engine.table.session_table import SessionTable
from callstate_client.engine.transaction import Transaction
from callstate_client.errors import NotDurableError

NOT_DURABLE = NotDurableError("the disk is full")


class TableHarness:
    """What `Engine` joins them to, as far as changes and the store go. Time stands still."""

    def __init__(self) -> None:
        self.table = SessionTable()
        self.liveness = Liveness(30.0, 30.0, 300.0)
        self.events = Events(100, "stream-1")
        self.tx = Transaction(self.table, self.liveness, self.events, self.watch)
        self.queue = FlushQueue(self.table, self.tx)

    def watch(self, session: Session) -> None:
        """A session has its full time, as a suspect where it is one."""
        if session.ended:
            self.liveness.keep(session.id, 0.0)
            return
        self.liveness.watch(session.id, 0.0)
        if session.suspected:
            self.liveness.learn(session.id, Evidence.SILENCE, 0.0, labels=session.facts.labels)

    def rollback(self) -> None:
        """The journal does not take the group."""
        self.tx.rollback(NOT_DURABLE)

    def replay(self, record: Record) -> None:
        """Apply a record of the journal."""
        replay.replay(self.table, record)

    def snapshot(self) -> Iterator[Record]:
        """All as records."""
        return replay.snapshot(self.table)

    def all_dirty(self, now: float) -> None:
        """After a replay."""
        replay.all_dirty(self.table, now)
