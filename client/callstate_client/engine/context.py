"""What every verb needs: the session a request names, and the rules that hold for all of them. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from callstate_client.engine.clock import Clock
from callstate_client.engine.departures import Departures
from callstate_client.engine.events import REVIVED, Events
from callstate_client.engine.interfaces import (
    INTERNAL,
    Caller,
    Host,
    NotCached,
)
from callstate_client.engine.limits import Limits
from callstate_client.engine.liveness import Evidence, Liveness, Phase
from callstate_client.engine.names import checked_id
from callstate_client.engine.sessions.facts import NOT_ENDED
from callstate_client.engine.sessions.session import FoundUnreadableError, Session
from callstate_client.engine.table.cache import Cache
from callstate_client.engine.worker_registry import WorkerRegistry
from callstate_client.errors import (
    FencedError,
    OverloadedError,
    SessionEndedError,
    SessionNotFoundError,
    ShuttingDownError,
    StoreUnavailableError,
    TooLargeError,
)
from callstate_client.model.times import ZERO_TIME, format_us, parse_us

DELETED: Final = b"{}"
"""The result of a deletion, and of no other verb that takes an `op`."""


class Context:
    """One daemon's sessions, as the verbs see them."""

    host: Host
    """What the engine runs in; set before the first request."""

    def __init__(
        self,
        cache: Cache,
        liveness: Liveness,
        clock: Clock,
        limits: Limits,
        events: Events,
        departures: Departures,
        registry: WorkerRegistry,
        max_handovers: int,
    ) -> None:
        self.cache = cache
        self.liveness = liveness
        self.clock = clock
        self.limits = limits
        self.events = events
        self.departures = departures
        self.registry = registry
        self.max_handovers = max_handovers
        """So many claimers a call may kill, each within a minute of its claim; 0: any number."""
        self.draining = False
        """No new sessions are taken."""
        self.lifted: dict[str, str] = {}
        """Suspicions that are lifted by what the open group changed: they are back where that is undone."""
        self.departed: dict[str, str] = {}
        """Departures that the open group has seen to: they are before us again where it is undone."""
        self.read_through: dict[str, Session | Exception] = {}
        """While requests that waited for the store are run: what it had, of sessions that are not kept hot."""

    # -- finding ------------------------------------------------------------------------------------------

    def known(self, session_id: str) -> Session | None:
        """The session as far as it is at hand: hot, or just read from the store."""
        session = self.cache.sessions.get(session_id)
        if session is None and not self.cache.known_missing(session_id, self.clock.mono()):
            found = self.read_through.get(session_id)  # as it was before this turn: it may have been deleted since
            session = found if isinstance(found, Session) else None
        return session

    def lookup(self, session_id: str) -> Session | None:
        """The session, or None where there is none.

        Raises:
            NotCached: nobody knows yet.
            StoreUnavailableError: nobody can know now.
            UnreadableError: the store has something there that is no session.
        """
        session = self.cache.sessions.get(session_id)
        if session is not None:
            return session
        checked_id(session_id, "$.params.session_id")
        if self.cache.known_missing(session_id, self.clock.mono()):
            return None
        found = self.read_through.get(session_id)
        if found is None:
            raise NotCached(session_id)
        if isinstance(found, FoundUnreadableError):
            raise found.error
        if isinstance(found, Exception):
            raise StoreUnavailableError(str(found))
        return found

    def find(self, session_id: str) -> Session:
        """The session.

        Raises:
            SessionNotFoundError: there is none.
        """
        session = self.lookup(session_id)
        if session is None:
            raise SessionNotFoundError(f"no session {session_id}")
        return session

    def unreadable(self, session_id: str) -> Session | None:
        """What stands for a session whose document in the store can't be read."""
        found = self.read_through.get(session_id)
        return found.session if isinstance(found, FoundUnreadableError) else None

    # -- rules --------------------------------------------------------------------------------------------

    def check_epoch(self, caller: Caller, session: Session, epoch: int | None) -> None:
        """Nobody changes a session of another host, or with an epoch that is not the session's.

        Raises:
            FencedError: that is the case.
        """
        if session.host:
            raise FencedError("the session belongs to another host", epoch=session.facts.epoch, host=session.host)
        if epoch is not None and not session.is_epoch(epoch):
            raise self.fenced(caller, session, f"the session's epoch is {session.facts.epoch}")

    def check_authority(self, caller: Caller, session: Session, epoch: int | None) -> None:
        """Nobody changes a session of another host, or with an epoch that is not the session's; no worker changes
        another one's, nor what another instance of it holds that is there as well.

        Raises:
            FencedError: that is the case.
        """
        self.check_epoch(caller, session, epoch)
        worker = caller.worker
        if session.facts.owner and worker:
            if session.facts.owner != worker:
                raise self.fenced(caller, session, f"the session is {session.facts.owner}'s")
            if self._is_held_elsewhere(caller, session):
                raise self.fenced(caller, session, f"the session is held by another instance of {worker}")

    def _is_held_elsewhere(self, caller: Caller, session: Session) -> bool:
        """Whether another instance of the worker that asks holds its session, and is there itself."""
        ours, holder = caller.instance, session.facts.instance
        return bool(ours and holder) and ours != holder and self.registry.is_connected(session.facts.owner, holder)

    def fenced(self, caller: Caller, session: Session, why: str) -> FencedError:
        """The error for who acts on what is another's by now; the first of an epoch is an event."""
        if session.fenced_epoch != session.facts.epoch:
            session.fenced_epoch = session.facts.epoch
            self.events.note("fenced", self.now_us(), session, worker_id=caller.worker)
        return FencedError(why, epoch=session.facts.epoch, owner=session.facts.owner or None)

    def check_writable(self, caller: Caller, session: Session, epoch: int | None) -> None:
        """As `check_authority`; and what was reaped takes nothing more, while what a worker ended still does.

        Raises:
            FencedError, SessionEndedError: it can't be changed.
        """
        self.check_authority(caller, session, epoch)
        if session.facts.reaped:
            raise ended_error(session)

    def speaks_for(self, caller: Caller, session: Session) -> bool:
        """Whether a beat of the caller says that the session is alive.

        It does for nobody's session, its own, and one whose owner is not here to say so itself, as one that was
        claimed for by an unregistered connection. Authority is another matter.
        """
        owner, worker = session.facts.owner, caller.worker
        return owner in ("", worker) or (not worker and not self.registry.is_connected(owner))

    def check_room(self) -> None:
        """Whether another session may be created.

        Raises:
            ShuttingDownError, OverloadedError: no; live calls go on.
        """
        if self.draining:
            raise ShuttingDownError("the daemon drains: it takes no new sessions")
        if len(self.cache.sessions) >= self.limits.sessions:
            raise OverloadedError(f"limits.sessions ({self.limits.sessions}) is reached")
        if not self.host.accepts_new:
            raise OverloadedError("the store is away and store.max_dirty_bytes is reached")

    def check_growth(self, session: Session, size: int) -> None:
        """Whether a session may grow to so many bytes by a turn; the first time that it may not is an event.

        Raises:
            TooLargeError: no.
        """
        if size > self.limits.session_bytes and not session.doc.full:
            session.doc.full = True
            self.events.note("session.full", self.now_us(), session)
        self.check_size(size)

    def check_size(self, size: int) -> None:
        """Whether a session may have so many bytes.

        Raises:
            TooLargeError: no.
        """
        if size > self.limits.session_bytes:
            raise TooLargeError(f"the session would pass limits.session_bytes ({self.limits.session_bytes})")

    # -- what a change brings with it -----------------------------------------------------------------------

    def now_us(self) -> int:
        """The present wall time."""
        return self.clock.wall_us()

    def sign_of_life(self, caller: Caller, session: Session, now_us: int, epoch: int | None) -> None:
        """After a change that left the status alone: whoever made it is alive, an ended session stays hot.

        Args:
            caller: who changed it.
            session: what was changed.
            now_us: when, microseconds since 1970.
            epoch: that the request gave: whoever knows it speaks for the owner, also over another connection.
        """
        if session.doc.status == "ended":
            self.liveness.keep(session.id, self.clock.live())
        elif not session.facts.owner or session.facts.owner == caller.worker or epoch is not None:
            self.beat(caller, session, now_us, self.clock.live())
        elif self.liveness.phase(session.id) is None:
            self.watch(caller, session)

    def beat(self, caller: Caller, session: Session, now_us: int, now: float) -> None:
        """A live session shows that it lives."""
        if session.beat_us < now_us:  # noqa: PLR1730 - `max` is a call, and each turn comes through here
            session.beat_us = now_us
        session.restored = False
        phase = self.liveness.beat(session.id, now, session.awaited_s)
        if phase is not Phase.LIVE:
            self.came_back(caller, session, phase, now_us)

    def came_back(self, caller: Caller, session: Session, phase: Phase | None, now_us: int) -> None:
        """A session that was in this phase has shown that it lives."""
        if phase is Phase.SUSPECT:
            session.suspected = ""
            self.events.note("recovered", now_us, session)
        elif phase is None:
            self.watch(caller, session)

    def settle(
        self,
        caller: Caller,
        session: Session,
        was_ended: bool,
        now_us: int,
        epoch: int | None,
        reason: str = "completed",
    ) -> None:
        """After a change: end or revive where the status says so, and take it as a sign of life."""
        if session.ended == was_ended:
            self.sign_of_life(caller, session, now_us, epoch)
        elif was_ended:
            session.change_facts(**NOT_ENDED)
            session.beat_us = max(session.beat_us, now_us)
            self.watch(caller, session)
            self.events.note("recovered", now_us, session, reason=REVIVED)
        else:
            session.change_facts(ended_reason=reason, ended_us=now_us)
            self.lift(session)
            self.liveness.keep(session.id, self.clock.live())

    def lift(self, session: Session) -> None:
        """What is being changed leaves no room for suspicion, nor its owner anything to leave: it was claimed,
        released or ended."""
        self.decide_departure(session.id)
        if session.suspected:
            self.lifted[session.id] = session.suspected
            session.suspected = ""

    def decide_departure(self, session_id: str) -> None:
        """What its owner's leaving means for a session is part of the open group."""
        why = self.departures.pending.pop(session_id, None)
        if why is not None:
            self.departed[session_id] = why

    def is_down(self) -> None:
        """The open group is in the journal: there is nothing left to take back."""
        self.lifted.clear()
        self.departed.clear()

    def is_undone(self, sessions: Iterable[Session | str]) -> None:
        """The open group is not in the journal, and these sessions are as they were before, or not there at all."""
        for undone in sessions:
            if not isinstance(undone, Session):
                self.liveness.forget(undone)
            elif undone.ended:
                self.liveness.keep(undone.id, self.clock.live())
            else:
                self._watch_again(undone)
        self.departures.pending.update(self.departed)
        self.is_down()

    def _watch_again(self, session: Session) -> None:
        """As `watch`, after a change was undone; but a suspect is one again: its worker is as dead as before."""
        suspected = session.suspected or self.lifted.get(session.id, "")
        self.watch(INTERNAL, session)
        if suspected:
            session.suspected = suspected
            self.liveness.learn(session.id, Evidence.SILENCE, self.clock.live(), labels=session.facts.labels)

    def watch(self, caller: Caller, session: Session) -> None:
        """Give a live session its full timeout, and its limit where it has one.

        One without a timeout of its own keeps the default of now for good: whoever beats for it goes by that, and
        knows nothing of a configuration that is changed meanwhile.
        """
        session.suspected = ""
        if session.facts.heartbeat_timeout_s is None:
            session.change_facts(heartbeat_timeout_s=self._default_timeout_s(caller))
        self.liveness.watch(session.id, self.clock.live(), session.awaited_s)
        self._limit(session)

    def _default_timeout_s(self, caller: Caller) -> float:
        """For a session that was given none: not below what the caller was told, for it may go by that. Who has
        given an instance goes by the replies to its saves and claims."""
        told_s = 0.0 if caller.instance else caller.told_timeout_s
        return max(self.liveness.timeout_s, told_s)

    def retime(self, caller: Caller, session: Session, before_s: float | None) -> None:
        """A live session was given another timeout or limit; that by itself is no sign of life.

        Where it was not its owner who did it, the longer one of both holds until the reply to a beat has told it:
        till then it beats by the one before.

        Args:
            caller: who gave it.
            session: the session.
            before_s: the timeout that it had, seconds.
        """
        if not session.facts.owner or self.is_holder(caller, session):
            session.known_timeout_s = None
        elif session.known_timeout_s is None and session.facts.heartbeat_timeout_s != before_s:
            session.known_timeout_s = before_s
        self.liveness.retime(session.id, session.awaited_s)
        self._limit(session)

    def is_holder(self, caller: Caller, session: Session) -> bool:
        """Whether the caller is who holds it, and beats for it."""
        return session.facts.owner == caller.worker and session.facts.instance == caller.instance

    def told(self, session: Session) -> float | None:
        """The timeout in force, which the owner is told by this reply, and beats by from now on."""
        session.known_timeout_s = None
        self.liveness.retime(session.id, session.facts.heartbeat_timeout_s)
        return session.facts.heartbeat_timeout_s

    def step_back(self) -> None:
        """A stall was noticed, and the clock has stepped back by it: what began since then begins now."""
        now = self.clock.live()
        self.liveness.step_back(now)
        for session_id in [*self.liveness.limited]:
            session = self.cache.sessions.get(session_id)
            if session is not None and session.born > now:
                session.born = now
                self._limit(session)

    def _limit(self, session: Session) -> None:
        if session.facts.max_duration_s is None:
            self.liveness.limit(session.id, None)  # an undone change may have set one
            return
        created = session.doc.created_at
        if session.born_of != created:  # once: the wall clock may be set while the call goes on
            age_s = 0.0 if created == ZERO_TIME else max(0.0, (self.now_us() - parse_us(created)) / 1e6)
            session.born_of, session.born = created, self.clock.live() - age_s
        self.liveness.limit(session.id, session.born + session.facts.max_duration_s)


def ended_error(session: Session) -> SessionEndedError:
    """Says when and why the session ended."""
    return SessionEndedError(
        f"the session has ended: {session.facts.ended_reason}",
        ended_at=format_us(session.facts.ended_us) if session.facts.ended_us else None,
        reason=session.facts.ended_reason,
    )
