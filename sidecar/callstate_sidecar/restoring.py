"""Restoring the sessions at a start: replays the journal, stops for a signal, and asks systemd for the time."""

from __future__ import annotations

import gc
from typing import Final

from callstate_client.engine.engine import Engine
from callstate_client.engine.sessions.records import Record
from callstate_client.engine.table.replay import replay
from callstate_sidecar.journal import Journal
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.system.peers import Peers
from callstate_sidecar.system.signals import Signals
from callstate_sidecar.system.systemd import Notifier

log = EventLog(__name__)

NOTICE_RECORDS: Final = 20_000
NOTICE_S: Final = 30.0
"""After this many records, some tenths of a second, a replay asks systemd for this much more time."""


def restore(
    engine: Engine, journal: Journal, peers: Peers, signals: Signals, manager: Notifier, *, discard: bool
) -> None:
    """Replay the journal into the engine, and begin a new segment of it. Garbage collection is off afterwards.

    Args:
        engine: without sessions.
        journal: not started.
        peers: finds the workers' processes.
        signals: one of them ends the replay.
        manager: what is asked for more time.
        discard: have a crash from now on lose what was replayed (durability `memory`).

    Raises:
        StoppedError: a signal came.
        JournalError, OSError: the journal can't be read or begun.
    """
    gc.disable()  # nothing created here is garbage
    count = 0

    def apply(record: Record) -> None:
        nonlocal count
        signals.check()
        replay(engine.table, record)
        count += 1
        if count % NOTICE_RECORDS == 0:
            manager.extend_timeout(NOTICE_S, f"replaying the journal, {count} records so far")

    replayed = journal.replay(apply)
    engine.restore(peers.find)
    journal.start()
    if discard:
        journal.discard_replayed()
    if replayed:
        log.info("journal_replayed", "%d journal records replayed", replayed)
