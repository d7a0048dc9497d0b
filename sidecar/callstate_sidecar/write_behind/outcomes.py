"""What became of a batch: sessions are clean, dirty again, in quarantine, or reconciled with what the store has."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from callstate_client.engine.events import SET_ASIDE, SUPERSEDED, Events
from callstate_client.engine.flush_queue import FlushQueue
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.stored import StoreBugError, StoredSession, StoreError
from callstate_client.engine.sessions.writes import Whole, Write, is_deletion
from callstate_client.errors import UnreadableError
from callstate_sidecar.journal import PartsLog
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.reconcile import Reconciler
from callstate_sidecar.slices import Slices, in_turns
from callstate_sidecar.stores.backend import Backend, WriteOutcome, WriteResult
from callstate_sidecar.stores.fencing import Stamp, superseded_by
from callstate_sidecar.system.clock import SystemClock
from callstate_sidecar.write_behind.away_writes import AwayWrites
from callstate_sidecar.write_behind.deletions import FlushedDeletions

log = EventLog(__name__)

_WRITTEN: Final = WriteOutcome.WRITTEN
"""Looked up once: a member of an enum takes several times as long as a global name."""


class Answered(NamedTuple):
    """A write and what came of it."""

    write: Write
    since: float
    result: WriteResult


class Outcomes:
    """Applies the results of batches.

    Args:
        backend: read where the store has another state.
        commit: commits the open group.
        reconciler: decides about sessions that the store has in another state.
        parts: journals long histories in parts; None: there is no log.
    """

    def __init__(
        self,
        queue: FlushQueue,
        backend: Backend,
        clock: SystemClock,
        metrics: Metrics,
        events: Events,
        commit: Callable[[], None],
        reconciler: Reconciler,
        deletions: FlushedDeletions,
        parts: PartsLog | None,
    ) -> None:
        self._table = queue.table
        self._queue = queue
        self._backend = backend
        self._clock = clock
        self._metrics = metrics
        self._events = events
        self._commit = commit
        self._reconciler = reconciler
        self._deletions = deletions
        self._parts = parts

    async def apply(
        self, batch: list[tuple[Write, float]], results: list[WriteResult], away: AwayWrites
    ) -> deque[Answered]:
        """Apply the results of a batch, in slices; returns those to be reconciled: the store has another state.

        Each slice is between two commits: no rollback undoes what the results say, and what follows from them is in
        the journal before anything else happens.

        Args:
            batch: what was sent.
            results: in order.
            away: gets those whose part of the store does not answer.
        """
        other_state: deque[Answered] = deque()
        left = deque(zip(batch, results, strict=True))
        slices = Slices()
        try:
            while left:
                await slices.pause()  # replies were parsed in this turn
                self._commit()
                while left and not slices.is_over:
                    (write, since), result = left.popleft()
                    if result.outcome is not _WRITTEN:
                        self._not_written(Answered(write, since, result), away, other_state)
                        continue
                    self._queue.acked(write)
                    if isinstance(write, Whole):
                        self._deletions.written(write)
                    if result.set_aside:
                        self._publish_set_aside(write.session_id)
                self._commit()
        except BaseException:
            sent = [(write, since) for write, since, _ in other_state] + [each for each, _ in left]
            for write, since in sent:  # repeating what the store has is harmless
                self._queue.retry(write, since)
            raise
        return other_state

    def _not_written(self, answered: Answered, away: AwayWrites, other_state: deque[Answered]) -> None:
        write, since, result = answered
        if result.outcome is WriteOutcome.AWAY:
            away.keep(write, since)
        elif result.outcome is WriteOutcome.NOT_BASE:
            self._queue.write_whole(write, since)
        elif result.outcome is WriteOutcome.REJECTED:
            self._refused(write, f"{result.outcome.value}: {result.detail}")
        else:
            other_state.append(answered)

    def _publish_set_aside(self, session_id: str) -> None:
        """Other software had changed the document while ours had changes of its own."""
        session = self._table.sessions.get(session_id)
        if session is not None:
            self._events.note("recovered", self._clock.wall_us(), session, reason=SET_ASIDE)
        self._metrics.count("store_set_aside")
        log.warning(
            "foreign_write_set_aside",
            "session %s: other software had changed it in the store; that change is set aside for the TTL",
            session_id,
            session_id=session_id,
        )

    async def reconcile(self, other_state: deque[Answered]) -> None:
        """Read what the store has, and decide which state counts.

        Raises:
            StoreError: the store failed; what is left is dirty again.
        """
        try:
            while other_state:
                write, since, result = other_state[0]
                stored = await self._backend.read(write.session_id)
                theirs = await in_turns(self._reconciler.read(write.session_id, stored))
                await self._write_parts(write, stored, theirs)
                self._commit()
                settled = self._reconciler.settle(write, stored, theirs)
                other_state.popleft()
                if settled:
                    self._commit()
                    self._queue.retry(write, since)
                else:
                    self._superseded(write, result, stored)
        finally:
            while other_state:
                write, since, _ = other_state.pop()
                self._queue.retry(write, since)

    async def _write_parts(
        self, write: Write, stored: StoredSession | None, theirs: Session | UnreadableError | None
    ) -> None:
        """Journal the history that the store has, if it is long and may become that of the hot session."""
        if self._parts is None or not isinstance(theirs, Session):
            return
        if self._reconciler.may_take_history(write, stored, theirs):
            await self._parts.write(theirs)

    def _superseded(self, write: Write, result: WriteResult, stored: StoredSession | None) -> None:
        """The store's state counts: quarantine ours, and publish that once."""
        session = self._table.sessions.get(write.session_id)
        detail = result.detail
        if not detail and stored is not None and stored.meta is not None:
            meta = stored.meta
            detail = superseded_by(Stamp(meta.host, meta.epoch, meta.version))
        if session is not None and session.id not in self._table.quarantined:
            self._events.note("fenced", self._clock.wall_us(), session, reason=SUPERSEDED)
        self._refused(write, f"{WriteOutcome.SUPERSEDED.value}: {detail}")
        self._commit()

    def unanswered(self, write: Write, error: StoreError) -> None:
        """The store does not answer this one, while it answers others: it is tried again by itself."""
        bug = error.__cause__ if isinstance(error, StoreBugError) else None
        why = f"{'unwritable' if bug else 'unanswered'}: {error}"
        self._quarantine(write.session_id, why, deleted=is_deletion(write), alone=True, bug=bug)

    def unwritable(self, session_id: str, error: Exception) -> None:
        """No write of this session or deletion could be made, which is a bug."""
        deleted = session_id not in self._table.sessions
        why = f"unwritable: {type(error).__name__}, a bug in callstated"
        self._quarantine(session_id, why, deleted=deleted, bug=error)

    def _refused(self, write: Write, why: str) -> None:
        self._quarantine(write.session_id, why, deleted=is_deletion(write))

    def _quarantine(
        self, session_id: str, why: str, *, deleted: bool, alone: bool = False, bug: BaseException | None = None
    ) -> None:
        """The store refuses this session or deletion: keep it, log that once, and try again later."""
        already = session_id in self._table.quarantined
        self._queue.quarantine(session_id, why, self._clock.mono(), alone=alone)
        self._metrics.count("store_refused")
        if not already:  # every later turn of the call is refused again
            log.error(
                "store_refused",
                "the store refuses %s %s (%s); it stays here and in the journal, and is tried again",
                "the deletion of session" if deleted else "session", session_id, why,
                exc_info=bug, session_id=session_id,
            )  # fmt: skip
