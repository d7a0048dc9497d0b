"""What every verb needs: the session a request names, and the rules that hold for all of them. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from callstate_client.engine.clock import Clock
from callstate_client.engine.events import REVIVED, Events
from callstate_client.engine.interfaces import (
    INTERNAL,
    Caller,
    NotCached,
    Services,
)
from callstate_client.engine.limits import Limits
from callstate_client.engine.liveness import Evidence, Liveness, Phase
from callstate_client.engine.names import checked_id
from callstate_client.engine.sessions.session import Entry, FoundUnreadableError
from callstate_client.engine.table.cache import Cache
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

OVERTIME: Final = "max_duration"
"""Why a session ended that lasted too long."""

DELETED: Final = b"{}"
"""The result of a deletion, and of no other verb that takes an `op`."""


class Context:
    """One daemon's sessions, as the verbs see them."""

    def __init__(
        self,
        cache: Cache,
        liveness: Liveness,
        clock: Clock,
        limits: Limits,
        services: Services,
        events: Events,
        max_handovers: int,
    ) -> None:
        self.cache = cache
        self.liveness = liveness
        self.clock = clock
        self.limits = limits
        self.services = services
        self.events = events
        self.max_handovers = max_handovers
        """So many claimers a call may kill, each within a minute of its claim; 0: any number."""
        self.draining = False
        """No new sessions are taken."""
        self.departing: dict[str, str] = {}
        """Sessions whose owner has left, and why they lose it: soon, for one turn does not see to a thousand."""
        self.lifted: dict[str, str] = {}
        """Suspicions that are lifted by what the open group changed: they are back where that is undone."""
        self.departed: dict[str, str] = {}
        """Departures that the open group has seen to: they are before us again where it is undone."""
        self.read_through: dict[str, Entry | Exception] = {}
        """While requests that waited for the store are run: what it had, of sessions that are not kept hot."""

    # -- finding ------------------------------------------------------------------------------------------

    def known(self, session_id: str) -> Entry | None:
        """The session as far as it is at hand: hot, or just read from the store."""
        entry = self.cache.entries.get(session_id)
        if entry is None and not self.cache.known_missing(session_id, self.clock.mono()):
            found = self.read_through.get(session_id)  # as it was before this turn: it may have been deleted since
            entry = found if isinstance(found, Entry) else None
        return entry

    def lookup(self, session_id: str) -> Entry | None:
        """The session, or None where there is none.

        Raises:
            NotCached: nobody knows yet.
            StoreUnavailableError: nobody can know now.
            UnreadableError: the store has something there that is no session.
        """
        entry = self.cache.entries.get(session_id)
        if entry is not None:
            return entry
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

    def find(self, session_id: str) -> Entry:
        """The session.

        Raises:
            SessionNotFoundError: there is none.
        """
        entry = self.lookup(session_id)
        if entry is None:
            raise SessionNotFoundError(f"no session {session_id}")
        return entry

    def unreadable(self, session_id: str) -> Entry | None:
        """What stands for a session whose document in the store can't be read."""
        found = self.read_through.get(session_id)
        return found.entry if isinstance(found, FoundUnreadableError) else None

    # -- rules --------------------------------------------------------------------------------------------

    def check_epoch(self, caller: Caller, entry: Entry, epoch: int | None) -> None:
        """Nobody changes a session of another host, or with an epoch that is not the session's.

        Raises:
            FencedError: that is the case.
        """
        if entry.host:
            raise FencedError("the session belongs to another host", epoch=entry.epoch, host=entry.host)
        if epoch is not None and not entry.is_epoch(epoch):
            raise self.fenced(caller, entry, f"the session's epoch is {entry.epoch}")

    def check_authority(self, caller: Caller, entry: Entry, epoch: int | None) -> None:
        """Nobody changes a session of another host, or with an epoch that is not the session's; no worker changes
        another one's, nor what another instance of it holds that is there as well.

        Raises:
            FencedError: that is the case.
        """
        self.check_epoch(caller, entry, epoch)
        worker = caller.worker
        if entry.owner and worker:
            if entry.owner != worker:
                raise self.fenced(caller, entry, f"the session is {entry.owner}'s")
            if self._is_held_elsewhere(caller, entry):
                raise self.fenced(caller, entry, f"the session is held by another instance of {worker}")

    def _is_held_elsewhere(self, caller: Caller, entry: Entry) -> bool:
        """Whether another instance of the worker that asks holds its session, and is there itself."""
        ours, holder = caller.instance, entry.instance
        return bool(ours and holder) and ours != holder and self.services.is_connected(entry.owner, holder)

    def fenced(self, caller: Caller, entry: Entry, why: str) -> FencedError:
        """The error for who acts on what is another's by now; the first of an epoch is an event."""
        if entry.fenced_epoch != entry.epoch:
            entry.fenced_epoch = entry.epoch
            self.events.note("fenced", self.now_us(), entry, worker_id=caller.worker)
        return FencedError(why, epoch=entry.epoch, owner=entry.owner or None)

    def check_writable(self, caller: Caller, entry: Entry, epoch: int | None) -> None:
        """As `check_authority`; and what was reaped takes nothing more, while what a worker ended still does.

        Raises:
            FencedError, SessionEndedError: it can't be changed.
        """
        self.check_authority(caller, entry, epoch)
        if entry.reaped:
            raise ended_error(entry)

    def speaks_for(self, caller: Caller, entry: Entry) -> bool:
        """Whether a beat of the caller says that the session is alive.

        It does for nobody's session, its own, and one whose owner is not here to say so itself, as one that was
        claimed for by an unregistered connection. Authority is another matter.
        """
        owner, worker = entry.owner, caller.worker
        return owner in ("", worker) or (not worker and not self.services.is_connected(owner))

    def check_room(self) -> None:
        """Whether another session may be created.

        Raises:
            ShuttingDownError, OverloadedError: no; live calls go on.
        """
        if self.draining:
            raise ShuttingDownError("the daemon drains: it takes no new sessions")
        if len(self.cache.entries) >= self.limits.sessions:
            raise OverloadedError(f"limits.sessions ({self.limits.sessions}) is reached")
        if not self.services.accepts_new:
            raise OverloadedError("the store is away and store.max_dirty_bytes is reached")

    def check_growth(self, entry: Entry, size: int) -> None:
        """Whether a session may grow to so many bytes by a turn; the first time that it may not is an event.

        Raises:
            TooLargeError: no.
        """
        if size > self.limits.session_bytes and not entry.doc.full:
            entry.doc.full = True
            self.events.note("session.full", self.now_us(), entry)
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

    def sign_of_life(self, caller: Caller, entry: Entry, now_us: int, epoch: int | None) -> None:
        """After a change that left the status alone: whoever made it is alive, an ended session stays hot.

        Args:
            caller: who changed it.
            entry: what was changed.
            now_us: when, microseconds since 1970.
            epoch: that the request gave: whoever knows it speaks for the owner, also over another connection.
        """
        if entry.doc.status == "ended":
            self.liveness.keep(entry.id, self.clock.live())
        elif not entry.owner or entry.owner == caller.worker or epoch is not None:
            self.beat(caller, entry, now_us, self.clock.live())
        elif self.liveness.phase(entry.id) is None:
            self.watch(caller, entry)

    def beat(self, caller: Caller, entry: Entry, now_us: int, now: float) -> None:
        """A live session shows that it lives."""
        if entry.beat_us < now_us:  # noqa: PLR1730 - `max` is a call, and each turn comes through here
            entry.beat_us = now_us
        entry.restored = False
        phase = self.liveness.beat(entry.id, now, entry.awaited_s)
        if phase is not Phase.LIVE:
            self.came_back(caller, entry, phase, now_us)

    def came_back(self, caller: Caller, entry: Entry, phase: Phase | None, now_us: int) -> None:
        """A session that was in this phase has shown that it lives."""
        if phase is Phase.SUSPECT:
            entry.suspected = ""
            self.events.note("recovered", now_us, entry)
        elif phase is None:
            self.watch(caller, entry)

    def settle(
        self,
        caller: Caller,
        entry: Entry,
        was_ended: bool,
        now_us: int,
        epoch: int | None,
        reason: str = "completed",
    ) -> None:
        """After a change: end or revive where the status says so, and take it as a sign of life."""
        if entry.ended == was_ended:
            self.sign_of_life(caller, entry, now_us, epoch)
        elif was_ended:
            entry.ended_reason, entry.ended_detail, entry.ended_us = "", "", 0
            entry.beat_us = max(entry.beat_us, now_us)
            self.watch(caller, entry)
            self.events.note("recovered", now_us, entry, reason=REVIVED)
        else:
            entry.ended_reason = reason
            entry.ended_us = now_us
            self.lift(entry)
            self.liveness.keep(entry.id, self.clock.live())

    def lift(self, entry: Entry) -> None:
        """What is being changed leaves no room for suspicion, nor its owner anything to leave: it was claimed,
        released or ended."""
        self.see_to_departure(entry.id)
        if entry.suspected:
            self.lifted[entry.id] = entry.suspected
            entry.suspected = ""

    def see_to_departure(self, session_id: str) -> None:
        """What its owner's leaving means for a session is part of the open group."""
        why = self.departing.pop(session_id, None)
        if why is not None:
            self.departed[session_id] = why

    def is_down(self) -> None:
        """The open group is in the journal: there is nothing left to take back."""
        self.lifted.clear()
        self.departed.clear()

    def is_undone(self, entries: Iterable[Entry | str]) -> None:
        """The open group is not in the journal, and these sessions are as they were before, or not there at all."""
        for undone in entries:
            if not isinstance(undone, Entry):
                self.liveness.forget(undone)
            elif undone.ended:
                self.liveness.keep(undone.id, self.clock.live())
            else:
                self._watch_again(undone)
        self.departing.update(self.departed)
        self.is_down()

    def _watch_again(self, entry: Entry) -> None:
        """As `watch`, after a change was undone; but a suspect is one again: its worker is as dead as before."""
        suspected = entry.suspected or self.lifted.get(entry.id, "")
        self.watch(INTERNAL, entry)
        if suspected:
            entry.suspected = suspected
            self.liveness.learn(entry.id, Evidence.SILENCE, self.clock.live(), labels=entry.labels)

    def watch(self, caller: Caller, entry: Entry) -> None:
        """Give a live session its full timeout, and its limit where it has one.

        One without a timeout of its own keeps the default of now for good: whoever beats for it goes by that, and
        knows nothing of a configuration that is changed meanwhile.
        """
        entry.suspected = ""
        if entry.heartbeat_timeout_s is None:
            entry.heartbeat_timeout_s = self._default_timeout_s(caller)
        self.liveness.watch(entry.id, self.clock.live(), entry.awaited_s)
        self._limit(entry)

    def _default_timeout_s(self, caller: Caller) -> float:
        """For a session that was given none: not below what the caller was told, for it may go by that. Who has
        given an instance goes by the replies to its saves and claims."""
        told_s = 0.0 if caller.instance else caller.told_timeout_s
        return max(self.liveness.timeout_s, told_s)

    def retime(self, caller: Caller, entry: Entry, before_s: float | None) -> None:
        """A live session was given another timeout or limit; that by itself is no sign of life.

        Where it was not its owner who did it, the longer one of both holds until the reply to a beat has told it:
        till then it beats by the one before.

        Args:
            caller: who gave it.
            entry: the session.
            before_s: the timeout that it had, seconds.
        """
        if not entry.owner or self.is_holder(caller, entry):
            entry.known_timeout_s = None
        elif entry.known_timeout_s is None and entry.heartbeat_timeout_s != before_s:
            entry.known_timeout_s = before_s
        self.liveness.retime(entry.id, entry.awaited_s)
        self._limit(entry)

    def is_holder(self, caller: Caller, entry: Entry) -> bool:
        """Whether the caller is who holds it, and beats for it."""
        return entry.owner == caller.worker and entry.instance == caller.instance

    def told(self, entry: Entry) -> float | None:
        """The timeout in force, which the owner is told by this reply, and beats by from now on."""
        entry.known_timeout_s = None
        self.liveness.retime(entry.id, entry.heartbeat_timeout_s)
        return entry.heartbeat_timeout_s

    def step_back(self) -> None:
        """A stall was noticed, and the clock has stepped back by it: what began since then begins now."""
        now = self.clock.live()
        self.liveness.step_back(now)
        for session_id in [*self.liveness.limited]:
            entry = self.cache.entries.get(session_id)
            if entry is not None and entry.born > now:
                entry.born = now
                self._limit(entry)

    def _limit(self, entry: Entry) -> None:
        if entry.max_duration_s is None:
            self.liveness.limit(entry.id, None)  # an undone change may have set one
            return
        created = entry.doc.created_at
        if entry.born_of != created:  # once: the wall clock may be set while the call goes on
            age_s = 0.0 if created == ZERO_TIME else max(0.0, (self.now_us() - parse_us(created)) / 1e6)
            entry.born_of, entry.born = created, self.clock.live() - age_s
        self.liveness.limit(entry.id, entry.born + entry.max_duration_s)


def ended_error(entry: Entry) -> SessionEndedError:
    """Says when and why the session ended."""
    return SessionEndedError(
        f"the session has ended: {entry.ended_reason}",
        ended_at=format_us(entry.ended_us) if entry.ended_us else None,
        reason=entry.ended_reason,
    )
