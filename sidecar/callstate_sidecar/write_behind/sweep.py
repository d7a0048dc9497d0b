"""The sweep: hot sessions are compared with the store regularly, and their TTLs are renewed.

Write-behind learns what the store has when it writes. A live call may be silent for minutes, and meanwhile the
store may lose it, or other software may change, end or delete it. So each interval all hot sessions that the store
is known to have are compared with it by version and stamp, many in one request, without reading documents:

    missing     written again, and `store.repaired` is published
    changed     written again without a change of ours, which leads to reconciliation: theirs is taken
    other       written again: the store or another host refuses, or takes it
    deleted     by other software: dropped here as well, with an event `deleted`

A session that changes meanwhile is passed over: its next write finds out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from callstate_client.engine.flush_queue import FlushQueue
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.stored import (
    StoreDownError,
    StoreError,
    StorePartDownError,
    StoreTimeoutError,
)
from callstate_sidecar.background import BackgroundTask
from callstate_sidecar.config.schema import StoreConfig
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.reconcile import Reconciler
from callstate_sidecar.stores.backend import Backend, Deviation, StoredVersion
from callstate_sidecar.system.clock import SystemClock
from callstate_sidecar.write_behind.store_state import StoreState

log = EventLog(__name__)

SESSIONS_A_REQUEST: Final = 100
"""About a millisecond of the loop, and one of a single-threaded server."""

TTL_SHARE: Final = 0.2
"""A sweep at least each time this share of the TTL has passed: it is renewed after a quarter."""


class StoreSweep(BackgroundTask):
    """Compares hot sessions with the store.

    Args:
        store: whether the store is up, and its events.
        commit: commits the open group.
        reconciler: drops what other software has deleted.
        check_loss: checks whether the store has lost everything, and repairs that.
    """

    def __init__(
        self,
        queue: FlushQueue,
        backend: Backend,
        clock: SystemClock,
        config: StoreConfig,
        metrics: Metrics,
        store: StoreState,
        commit: Callable[[], None],
        reconciler: Reconciler,
        check_loss: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(metrics)
        self._table = queue.table
        self._queue = queue
        self._backend = backend
        self._clock = clock
        self._store = store
        self._commit = commit
        self._reconciler = reconciler
        self._check_loss = check_loss
        self._interval_s = min(config.beat_interval_s, config.ttl_s * TTL_SHARE)
        self._ttl_us = config.ttl_s * 1_000_000

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            if self._store.status == "up":
                await self.sweep()

    async def sweep(self) -> None:
        """Compare all hot sessions once, as far as the store answers."""
        await self._check_loss()  # of everything, which is repaired as a whole
        missing = 0
        for session_ids in self._table.ids(SESSIONS_A_REQUEST):
            expected = self.expected(session_ids)
            before = self._store.answers
            try:
                found = await self._backend.check([*expected.values()])
            except StoreError as error:
                self._failed(error, others_answered=self._store.answers > before)
                log.debug("sweep_cut_short", "the sweep was cut short: %s", error)
                return
            for session_id, deviation in found:
                missing += deviation is Deviation.MISSING and self.is_clean(session_id, expected)
                self.settle(session_id, deviation, expected)
            self._commit()
        if missing:
            log.error(
                "store_lost_sessions", "the store has lost %d sessions; they are written to it again", missing
            )
            self._metrics.count("store_repairs")
            self._store.publish("store.repaired")

    def _failed(self, error: StoreError, *, others_answered: bool) -> None:
        """Write-behind is to find out how a store is that does not answer; unless this alone asked too much."""
        too_much = isinstance(error, StoreTimeoutError) and others_answered
        if isinstance(error, StoreDownError) and not isinstance(error, StorePartDownError) and not too_much:
            self._store.unanswered(error)

    def expected(self, session_ids: Sequence[str]) -> dict[str, StoredVersion]:
        """Those of these sessions that the store is known to have."""
        found: dict[str, StoredVersion] = {}
        for session_id in session_ids:
            session = self._table.sessions.get(session_id)
            if session is not None and self._is_due(session):
                found[session_id] = StoredVersion(
                    session_id, session.version, session.doc.call_id, not session.ended
                )
        return found

    def _is_due(self, session: Session) -> bool:
        if session.host is not None or not self._table.is_stored(session):
            return False
        # an ended session may expire in the store while it is still hot: its TTL is not renewed
        return not session.ended or self._clock.wall_us() - session.doc.updated_us < self._ttl_us / 2

    def is_clean(self, session_id: str, expected: dict[str, StoredVersion]) -> bool:
        """Whether the session is still as it was when the store was asked."""
        session = self._table.sessions.get(session_id)
        return (
            session is not None
            and session.version == expected[session_id].version
            and self._table.is_stored(session)
        )

    def settle(self, session_id: str, deviation: Deviation, expected: dict[str, StoredVersion]) -> None:
        """Do what follows from a deviation, unless the session has changed meanwhile."""
        if not self.is_clean(session_id, expected):
            return
        session = self._table.sessions[session_id]
        if deviation is Deviation.DELETED:
            self._reconciler.drop_deleted(session)
        elif deviation is Deviation.MISSING:
            self._queue.not_stored(session_id, self._clock.mono())
        else:
            session.in_store = None
            self._table.weigh(session)
            self._queue.mark_stale(session_id, self._clock.mono(), session.doc.size)
