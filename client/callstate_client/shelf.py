"""The sessions and workers of a MemoryStore, and what becomes of them: by time, by owners, by a worker's end.

    live      a sign of life                      -> live, for its timeout
              its owner's process is killed       -> suspect (worker_exited)
              released, or its owner went away    -> live, an orphan, with a full timeout
    suspect   a sign of life                      -> live
    both      claimed                             -> live, of the next epoch
    ended     claimed, where it was reaped        -> live, of the next epoch, with the status it had
              saved with another status, else     -> live

What time does is in engine_fates; it happens at its own time, in order, however late somebody looks.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from callstate_client.clock import Clock
from callstate_client.engine_agenda import NEVER, Agenda
from callstate_client.engine_events import Events
from callstate_client.engine_fates import (
    DISCONNECTED,
    EXITED,
    OVERTIME,
    POISONED,
    RELEASED,
    SILENT,
    Fate,
    Spans,
    next_fate,
)
from callstate_client.engine_kept import Grave, Kept, Moment
from callstate_client.engine_workers import (
    Caller,
    Process,
    Worker,
    Workers,
)
from callstate_client.errors import SessionNotFoundError
from callstate_client.model.state import SessionState, Status

DELETED: Final = b"{}"
"""The result of a deletion, and of no other verb that takes an `op`."""

COMPLETED: Final = "completed"
"""Why a session ended when nobody said."""


class Shelf:
    """All sessions and workers of one MemoryStore. `catch_up` before anything is asked of it.

    Args:
        clock: tells the time.
        spans: how long things take.
        events: how many of them are kept.
    """

    def __init__(self, clock: Clock, spans: Spans, events: int) -> None:
        self.clock = clock
        self.spans = spans
        self.events = Events(events)
        self.workers = Workers()
        self.draining = False
        """Whether new sessions are refused."""
        self._kept: dict[str, Kept] = {}
        self._graves: dict[str, Grave] = {}
        self._agenda: Agenda[Kept | Grave | Worker] = Agenda()
        self._seq = 0
        self._seen_s = clock.monotonic()
        clock.watch(self)

    def now(self) -> Moment:
        """The present moment."""
        return Moment(self.clock.monotonic(), self.clock.now())

    # -- looking --------------------------------------------------------------------------------------------

    def all(self) -> list[Kept]:
        """Every session there is, in the order of being created."""
        return [*self._kept.values()]

    def behind(self, seq: int) -> Iterator[Kept]:
        """Those created after the one with this `seq`."""
        return (kept for kept in self.all() if kept.seq > seq)

    def get(self, session_id: str) -> Kept | None:
        """The session, or None."""
        return self._kept.get(session_id)

    def find(self, session_id: str) -> Kept:
        """The session.

        Raises:
            SessionNotFoundError: there is none.
        """
        kept = self.get(session_id)
        if kept is None:
            raise SessionNotFoundError(f"no session {session_id}")
        return kept

    def done_before(self, session_id: str, op: str | None) -> bytes | None:
        """The result that this mutation of the session, which may be deleted by now, got when it was made first."""
        remembered = self._kept.get(session_id) or self._graves.get(session_id)
        return None if remembered is None or op is None else remembered.ops.get(op)

    # -- changing -------------------------------------------------------------------------------------------

    def create(self, state: SessionState, creator: Caller) -> Kept:
        """Put a new session in, which is its creator's where that is a worker; `changed` comes next."""
        self._seq += 1
        at = self.now()
        kept = self._kept[state.id] = Kept(
            state,
            self._seq,
            at.mono,
            at.wall,
            self.spans.heartbeat_timeout_s,
            owner=creator.worker_id or "",
            instance=creator.instance,
        )
        grave = self._graves.pop(state.id, None)
        if grave is not None:
            kept.version, kept.epoch = grave.version, grave.epoch
            # a late repeat of a deletion meant the one before: it must not delete this one
            kept.ops = {op: result for op, result in grave.ops.items() if result == DELETED}
        return kept

    def remove(self, kept: Kept) -> None:
        """Delete a session."""
        at = self.now()
        del self._kept[kept.state.id]
        grave = self._graves[kept.state.id] = Grave(kept.state.id, kept.version, kept.epoch, kept.ops, at.mono)
        self._plan(grave)
        self.events.note("deleted", at.wall, kept, reason="deleted")

    def changed(
        self,
        kept: Kept,
        was_ended: bool,
        reason: str = COMPLETED,
        *,
        life: bool = True,
        reviver: Caller | None = None,
    ) -> None:
        """After a mutation: a new version and time; ended or revived where the status says so.

        Args:
            kept: the session, changed.
            was_ended: before that.
            reason: for its end.
            life: whether the mutation is a sign of life.
            reviver: who owns it from now on where it is revived and nobody does, if that is a worker.
        """
        at = self.now()
        self._raise_version(kept, at)
        kept.state.updated_at = at.wall
        kept.reckon_age(at)
        if kept.ended:
            kept.ended_mono = at.mono
            kept.suspicion = ""
            if not was_ended:
                kept.ended_reason, kept.ended_at = reason, at.wall
                self.events.note("ended", at.wall, kept, reason=reason)
        elif was_ended:
            kept.ended_reason, kept.ended_detail, kept.ended_at = "", None, None
            if not kept.owner and reviver is not None and reviver.worker_id:  # not begun anew
                kept.epoch += 1  # that is a claim: it may have been another's
                kept.owner, kept.instance, kept.orphan = reviver.worker_id, reviver.instance, ""
            self._live(kept, at)
            self.events.note("recovered", at.wall, kept, reason="revived")
        elif life:
            self.beat(kept, at)
        self._plan(kept)

    def _raise_version(self, kept: Kept, at: Moment) -> None:
        kept.version = max(kept.version + 1, int(at.wall.timestamp() * 1_000_000))

    def _live(self, kept: Kept, at: Moment) -> None:
        kept.alive_at, kept.beat_at, kept.suspicion = at.mono, at.wall, ""
        self._plan(kept)

    def beat(self, kept: Kept, at: Moment | None = None) -> None:
        """A sign of life, now or at the moment the caller has taken already."""
        at = at or self.now()
        suspected = bool(kept.suspicion)
        self._live(kept, at)
        if suspected:
            self.events.note("recovered", at.wall, kept)

    def drain(self, on: bool) -> None:
        """Take no new sessions, or take them again."""
        if on != self.draining:
            self.draining = on
            self.events.note("server.drain", self.clock.now(), drain=on)

    def refused(self, kept: Kept, caller: Caller) -> None:
        """This one was refused, for it does not hold the session: told once an epoch."""
        if kept.fenced_epoch != kept.epoch:
            kept.fenced_epoch = kept.epoch
            self.events.note("fenced", self.clock.now(), kept, worker_id=caller.worker_id)

    # -- owners ---------------------------------------------------------------------------------------------

    def claim(self, kept: Kept, worker_id: str, instance: str, reason: str) -> None:
        """This worker holds it from now on, in an epoch of its own; `reason`: why it could be claimed."""
        at = self.now()
        if kept.ended:
            if kept.ended_reason == OVERTIME:  # else it would be over time again at once
                kept.max_duration_s = None
            kept.state.status, kept.reaped = kept.status_before, False
            kept.ended_reason, kept.ended_detail, kept.ended_at = "", None, None
        kept.epoch += 1
        kept.hold_ended(at)
        kept.claimed_at = at.mono
        kept.owner, kept.instance, kept.orphan, kept.known_timeout_s = worker_id, instance, "", None
        self._raise_version(kept, at)
        self._live(kept, at)
        self.events.note("claimed", at.wall, kept, reason=reason)

    def retime(self, kept: Kept, heartbeat_timeout_s: float | None, max_duration_s: float | None) -> None:
        """Who claims it gives it other timeouts, seconds; None leaves the one there is."""
        before = kept.heartbeat_timeout_s, kept.max_duration_s
        kept.heartbeat_timeout_s = heartbeat_timeout_s or kept.heartbeat_timeout_s
        kept.max_duration_s = max_duration_s or kept.max_duration_s
        if before != (kept.heartbeat_timeout_s, kept.max_duration_s):
            self._raise_version(kept, self.now())
            self._plan(kept)

    def begin_anew(self, kept: Kept, creator: Caller) -> None:
        """Another call begins under the id of one that is over; `changed` comes next."""
        if kept.ended_reason == OVERTIME:  # else it would be over time again at once
            kept.max_duration_s = None
        kept.epoch += 1
        kept.owner, kept.instance, kept.orphan = creator.worker_id or "", creator.instance, ""
        kept.reaped, kept.status_before, kept.known_timeout_s = False, "", None
        kept.claimed_at, kept.handovers, kept.crashes = None, 0, 0

    def release(self, kept: Kept) -> None:
        """Its owner gives it up."""
        owner = kept.owner
        at = self.now()
        self._orphan(kept, RELEASED, at)
        self.events.note("released", at.wall, kept, reason=RELEASED, owner=owner)

    def _orphan(self, kept: Kept, why: str, at: Moment) -> None:
        kept.hold_ended(at)
        kept.owner, kept.instance, kept.orphan, kept.orphan_at = "", "", why, at.mono
        kept.known_timeout_s = None
        kept.alive_at, kept.suspicion = at.mono, ""  # a full timeout, but nobody said that the call is alive
        self._raise_version(kept, at)
        self._plan(kept)

    # -- workers --------------------------------------------------------------------------------------------

    def connect(self, caller: Caller, worker_id: str) -> None:
        """This view is one of this worker's.

        Raises:
            ForbiddenError: it is another's.
            ConflictError: the worker lives in another process.
        """
        if self.workers.register(caller, worker_id):
            self.events.note("worker.joined", self.clock.now(), worker_id=worker_id)

    def disconnect(self, caller: Caller) -> None:
        """This view is closed."""
        at = self.now()
        worker = self.workers.closed(caller, at.mono)
        if worker is not None:
            self._plan(worker)

    def kill(self, process: Process) -> None:
        """This process is no more."""
        at = self.now()
        worker = self.workers.exited(process)
        if worker is None:
            return
        self.events.note("worker.left", at.wall, worker_id=worker.id, reason="exited")
        for kept in self._owned(worker.id):
            kept.hold_ended(at, crashed=True)
            if 0 < self.spans.max_handovers <= kept.crashes:
                self._reap(kept, POISONED, at)
            else:
                self._suspect(kept, EXITED, "process_exited", at)
            self._plan(kept)

    def _gone(self, worker: Worker, at: Moment) -> None:
        self.workers.forget(worker)
        self.events.note("worker.left", at.wall, worker_id=worker.id, reason=DISCONNECTED)
        for kept in self._owned(worker.id):
            self._orphan(kept, DISCONNECTED, at)
            self.events.note("orphaned", at.wall, kept, reason=DISCONNECTED, owner=worker.id)

    def _owned(self, worker_id: str) -> list[Kept]:
        return [kept for kept in self._kept.values() if kept.owner == worker_id and not kept.ended]

    # -- time -----------------------------------------------------------------------------------------------

    def due_in_s(self) -> float | None:
        """Seconds until there may be something to catch up with; None: only others can bring it about."""
        first = self._agenda.next_at()
        if first == NEVER or not self.clock.runs:
            return None
        return max(0.0, first - self.clock.monotonic())

    def catch_up(self) -> None:
        """Do what time has done since the last look. Costs nothing while nothing is due."""
        now = self.now()
        while (due := self._agenda.pop(now.mono)) is not None:
            noted_s, item = due
            deadline = self._deadline(item)
            if noted_s < deadline < NEVER:  # put off meanwhile; others may come before it
                self._agenda.note(item, deadline)
            elif deadline < NEVER:
                mono = max(deadline, self._seen_s)  # a timeout may be made so short that it was over before
                at = Moment(mono, now.wall - timedelta(seconds=now.mono - mono))
                self._run_out(item, at)
                self._plan(item)
        self._seen_s = now.mono

    def _plan(self, item: Kept | Grave | Worker) -> None:
        if self._agenda.note(item, self._deadline(item)):
            self.events.stir()

    def _deadline(self, item: Kept | Grave | Worker) -> float:
        if isinstance(item, Kept):
            there = self._kept.get(item.state.id) is item
            return next_fate(item, self.spans)[0] if there else NEVER
        if isinstance(item, Worker):
            away = item in self.workers and not item.callers
            return item.away_at + self.spans.reconnect_grace_s if away else NEVER
        there = self._graves.get(item.session_id) is item
        return item.made_at + self.spans.retention_s if there else NEVER

    def _run_out(self, item: Kept | Grave | Worker, at: Moment) -> None:
        if isinstance(item, Worker):
            self._gone(item, at)
        elif isinstance(item, Grave):
            del self._graves[item.session_id]
        else:
            _, fate = next_fate(item, self.spans)
            if fate is Fate.FORGET:
                del self._kept[item.state.id]
            elif fate is Fate.SUSPECT:
                self._suspect(item, SILENT, "silence", at)
            else:
                self._reap(item, OVERTIME if fate is Fate.REAP_OVERTIME else item.suspicion, at)

    def _suspect(self, kept: Kept, why: str, evidence: str, at: Moment) -> None:
        if not kept.suspicion:
            kept.suspect_at = at.mono
        kept.suspicion = why
        left_s = kept.suspect_at + self.spans.grace_s - at.mono
        deadline = at.wall + timedelta(seconds=left_s)
        self.events.note("suspect", at.wall, kept, reason=why, evidence=evidence, deadline=deadline)

    def _reap(self, kept: Kept, reason: str, at: Moment) -> None:
        kept.status_before, kept.state.status = kept.state.status, Status.ENDED
        kept.ended_reason, kept.ended_at, kept.ended_mono = reason, at.wall, at.mono
        kept.reaped, kept.suspicion = True, ""
        kept.state.updated_at = max(kept.state.updated_at, kept.beat_at)  # the last evidence of life
        kept.version += 1
        self.events.note("expired", at.wall, kept, reason=reason)
