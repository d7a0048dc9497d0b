"""Time from launch to the first reply of a daemon whose state directory has many sessions of 20 turns.

The state is written with the daemon's own table and journal: a snapshot alone, or a snapshot and as much log as
makes a checkpoint due, which is the most that a start has to replay. The store does not answer, so that only
journal and memory are measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Final

from bench.processes import Rig
from bench.sampling import Spread
from bench.targets import Verdict
from callstate_client.engine.events import Events
from callstate_client.engine.liveness import Liveness
from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.head import read_head
from callstate_client.engine.sessions.records import HistoryMode, TurnsRecord
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.table.replay import snapshot
from callstate_client.engine.table.session_table import SessionTable
from callstate_client.engine.transaction import Transaction
from callstate_sidecar.journal import Checkpointer, Files, Journal

TURNS: Final = 20

GROUP_RECORDS: Final = 64
"""Records in a group: about as many as a busy turn of the event loop collects."""

OF_SESSIONS: Final = 100_000
"""Sessions that the targets are for; with fewer the limits are proportionally lower."""

FROM_CHECKPOINT_S: Final = 5.0
FROM_LOG_S: Final = 20.0

_HEAD: Final = (
    b'{"id":"call-%08d","provider":"twilio","direction":"inbound","from":"+442079460123","to":"+15550100",'
    b'"status":"active","recovery_data":{"node":"booking"}}'
)
_TURN: Final = (
    b'{"role":"%b","content":"%d and then I would like to change the booking from Tuesday to Thursday, if there is'
    b' still a table free","timestamp":"2026-01-01T00:00:%02d.123456Z","duration_ms":900}'
)


class JournalBuilder:
    """Writes sessions to a journal: saved once and then extended turn by turn, or saved whole each time."""

    def __init__(self, directory: Path, *, saves: bool) -> None:
        self._directory = directory
        self._saves = saves
        self._table = SessionTable()
        liveness, events = Liveness(30.0, 30.0, 300.0), Events(1, "bench")
        self._tx = Transaction(self._table, liveness, events, lambda _: None)
        self._us = 1_767_225_600_000_000
        self._turns = [_TURN % (b"agent" if n % 2 else b"user", n, n % 60) for n in range(TURNS)]

    def create(self, sessions: int) -> None:
        """Write each session once, and leave a snapshot."""
        journal = self._open()
        for number in range(sessions):
            head = read_head(_HEAD % number, "$", lambda _: "2026-01-01T00:00:00Z")
            session = Session(head.session_id, Document(head, self._us))
            self._tx.create(session)
            self._write(journal, session, saves=True)  # only the snapshot remains
        Checkpointer(journal, Files(), partial(snapshot, self._table), lambda: None).run_now()
        journal.close()

    def outgrow(self) -> None:
        """Write the same sessions repeatedly until a checkpoint is due."""
        journal = self._open()
        for session in cycle([*self._table.sessions.values()]):
            if journal.checkpoint_due:
                break
            self._write(journal, session, saves=self._saves)
        self._commit(journal)
        journal.close()

    def _open(self) -> Journal:
        journal = Journal(self._directory, checkpoint_min_bytes=0)
        journal.replay(lambda _: None)
        journal.start()
        return journal

    def _write(self, journal: Journal, session: Session, *, saves: bool) -> None:
        self._tx.change(session)
        self._save(session, self._turns if saves else [])
        if not saves:
            for turn in self._turns:
                self._append(session, turn)
        if len(self._tx.records) >= GROUP_RECORDS:
            self._commit(journal)

    def _save(self, session: Session, turns: list[bytes]) -> None:
        self._us += 1000
        history = b",".join(turns)
        session.doc.replace_history(history, len(turns))
        session.next_version(self._us)
        session.journaled = True
        self._tx.log(session, session.record(HistoryMode.REPLACE, history, len(turns), []), 0.0)

    def _append(self, session: Session, turn: bytes) -> None:
        self._us += 1000
        session.doc.append(turn, 1)
        session.doc.updated_us = self._us
        version = session.next_version(self._us)
        record = TurnsRecord(session.id, version, self._us, session.doc.metrics, HistoryMode.APPEND, turn, 1)
        self._tx.log(session, record, 0.0)

    def _commit(self, journal: Journal) -> None:
        journal.append(self._tx.records)
        self._tx.commit()


def starts(from_checkpoint: int, from_log: int, turn_by_turn: int = 0) -> Iterator[Verdict]:
    """How long a daemon takes from launch to its first reply.

    Args:
        from_checkpoint: sessions in a snapshot without a log.
        from_log: sessions saved whole repeatedly, until the log has four times the size of the snapshot, at which
            a checkpoint is due.
        turn_by_turn: sessions extended turn by turn, until a checkpoint was due, after a million records; 0: not
            measured.
    """
    yield _start("checkpoint", from_checkpoint, FROM_CHECKPOINT_S, log=False, saves=True)
    yield _start("log at 4x", from_log, FROM_LOG_S, log=True, saves=True)
    if turn_by_turn:
        yield _start("log of turns", turn_by_turn, FROM_LOG_S, log=True, saves=False)


def _start(what: str, sessions: int, limit_s: float, *, log: bool, saves: bool) -> Verdict:
    with Rig() as rig:
        builder = JournalBuilder(rig.root / "start" / "journal", saves=saves)
        builder.create(sessions)
        if log:
            builder.outgrow()
        del builder  # half a gigabyte that the daemon may need
        took = Spread.of([rig.daemon("start", None, "--store", f"unix://{rig.root}/no-redis-here").started_s])
    limit_s *= sessions / OF_SESSIONS
    return Verdict(f"start with {sessions:,} sessions from a {what}", took, limit_s, unit=" s")
