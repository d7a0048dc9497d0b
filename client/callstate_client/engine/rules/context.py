"""What verbs share: access to sessions, limits, and deadlines.

A session is hot (in the table), known to be missing (deleted, or just not found in the store), or neither: then it
has to be read from the store (`NotCached`), and the request runs again, shown what was read (`show`). Who may
change a session is in authority.py, how a change affects its life in lifecycle.py.
"""

from __future__ import annotations

from collections.abc import Callable

from callstate_client.engine.clock import EngineClock
from callstate_client.engine.events import Events
from callstate_client.engine.interfaces import INTERNAL, OPEN, Access, Caller, Host, NotCached
from callstate_client.engine.limits import Limits
from callstate_client.engine.liveness import Liveness
from callstate_client.engine.phases import Evidence
from callstate_client.engine.rules.param_checks import checked_id
from callstate_client.engine.rules.room import LAST_WORDS_BYTES, Room
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.store_form import FoundUnreadableError
from callstate_client.engine.table.readings import Reading
from callstate_client.engine.table.session_table import SessionTable
from callstate_client.engine.transaction import Transaction
from callstate_client.engine.user import User
from callstate_client.engine.workers.departures import Departures
from callstate_client.engine.workers.registry import WorkerRegistry
from callstate_client.errors import (
    OverloadedError,
    SessionNotFoundError,
    ShuttingDownError,
    StoreUnavailableError,
    TooLargeError,
)
from callstate_client.model.times import ZERO_TIME, parse_us


class Context:
    """The sessions of one engine, as verbs see them."""

    host: Host
    """The program that the engine runs in; set before the first request."""

    def __init__(
        self,
        table: SessionTable,
        tx: Transaction,
        liveness: Liveness,
        clock: EngineClock,
        limits: Limits,
        events: Events,
        departures: Departures,
        registry: WorkerRegistry,
        max_handovers: int,
    ) -> None:
        self.table = table
        self.tx = tx
        self.liveness = liveness
        self.clock = clock
        self.limits = limits
        self.events = events
        self.departures = departures
        self.registry = registry
        self.max_handovers = max_handovers
        """How many claimers a call may kill, each within a minute of its claim; 0: any number."""
        self.access: Access = OPEN
        self.guard: Access | None = None
        """`access`, if it restricts anybody; None if not. For verbs that look at sessions of several users."""
        self.room = Room(table.hot)
        self.user_sessions: Callable[[User], int] | None = None
        """How many of the sessions in memory one user may have created; None: any number."""
        self.draining = False
        """Whether new sessions are refused."""
        self.reading: Reading | None = None
        """While a request that waited for the store runs: what was read there, if the session is not hot."""
        self._shows_miss = False
        """Whether `reading` found no session, and is remembered as a miss only while the request runs."""

    # -- finding ------------------------------------------------------------------------------------------

    def show(self, reading: Reading | None) -> None:
        """Show the next request what was read for it; call `hide` when it has run. A miss counts as one, however
        long ago it was read."""
        if reading is None or reading.outdated:
            return
        self.reading = reading
        if reading.found is None:
            tombstones, now = self.table.tombstones, self.clock.mono()
            if not tombstones.known_missing(reading.session_id, now):
                tombstones.remember_miss(reading.session_id, now, reading.grave)
                self._shows_miss = True

    def hide(self) -> None:
        """Hide what `show` has shown, now that the request has run: it is not for others."""
        reading, self.reading = self.reading, None
        if self._shows_miss and reading is not None:
            self._shows_miss = False
            self.table.tombstones.forget_miss(reading.session_id)

    def _found(self, session_id: str) -> Session | Exception | None:
        reading = self.reading
        return None if reading is None or reading.session_id != session_id else reading.found

    def known(self, session_id: str) -> Session | None:
        """The session if it is hot or was just read from the store."""
        session = self.table.sessions.get(session_id)
        if session is None and not self.table.tombstones.known_missing(session_id, self.clock.mono()):
            found = self._found(session_id)  # from before this turn: it may be deleted by now
            session = found if isinstance(found, Session) else None
        return session

    def lookup(self, session_id: str) -> Session | None:
        """The session, or None if it does not exist.

        Raises:
            NotCached: it has to be read from the store.
            StoreUnavailableError: the store can't be read now.
            UnreadableError: the store has a document that is not a session.
        """
        session = self.table.sessions.get(session_id)
        if session is not None:
            return session
        checked_id(session_id, "$.params.session_id")
        if self.table.tombstones.known_missing(session_id, self.clock.mono()):
            return None
        found = self._found(session_id)
        if found is None:
            raise NotCached(session_id)
        if isinstance(found, FoundUnreadableError):
            raise found.error
        if isinstance(found, Exception):
            raise StoreUnavailableError(str(found))
        return found

    def ask_first(self, session_id: str, path: str) -> None:
        """Have the store asked for a session before anything else of a request is checked that may create it: the
        request is run again then, and checked once.

        Raises:
            NotCached: it has to be read from the store.
            InvalidParamsError: it is no id; `path`: its place, for the error.
        """
        if session_id in self.table.sessions or self._found(session_id) is not None:
            return
        checked_id(session_id, path)
        if not self.table.tombstones.known_missing(session_id, self.clock.mono()):
            raise NotCached(session_id)

    def find(self, session_id: str) -> Session:
        """The session.

        Raises:
            SessionNotFoundError: it does not exist.
        """
        session = self.lookup(session_id)
        if session is None:
            raise SessionNotFoundError(f"no session {session_id}")
        return session

    def unreadable(self, session_id: str) -> Session | None:
        """The placeholder for a session whose document in the store can't be read."""
        found = self._found(session_id)
        return found.session if isinstance(found, FoundUnreadableError) else None

    def shown_to(self, caller: Caller) -> Callable[[Session], bool] | None:
        """A function that tells whether a session is shown to the caller's user; None: all are."""
        guard = self.guard
        if guard is None or guard.sees_all(caller.user):
            return None
        user = caller.user
        return lambda session: guard.sees(user, session.facts.uid, session.facts.gid)

    # -- room ---------------------------------------------------------------------------------------------

    def check_room(self, creator: User | None = None, ended: Session | None = None) -> None:
        """Refuse a new session if there is no room for it; live calls continue.

        Args:
            creator: who creates it; None: it exists already, in the store.
            ended: the session whose id it takes, if it takes one: if that is hot, it takes its place as well.

        Raises:
            ShuttingDownError, OverloadedError: there is no room.
        """
        if self.draining:
            raise ShuttingDownError("the daemon is draining: it accepts no new sessions")
        replaced = None if ended is None else self.table.sessions.get(ended.id)
        if replaced is None and len(self.table.sessions) >= self.limits.sessions:
            raise OverloadedError(f"limits.sessions ({self.limits.sessions}) is reached")
        is_one_more = replaced is None or (creator is not None and replaced.facts.uid != creator.uid)
        if creator is not None and self.user_sessions is not None and is_one_more:
            most = self.user_sessions(creator)
            if self.table.index.by_uid.get(creator.uid, 0) >= most:
                raise OverloadedError(f"limits.per_uid.sessions ({most}) is reached: {creator}")
        self.room.check_new(self.limits)
        if not self.host.accepts_new:
            raise OverloadedError("the store is down and store.max_dirty_bytes is reached")

    def check_brought_in(self) -> None:
        """Refuse a session that is only in the store and would become hot, if there is no room for it.

        Raises:
            OverloadedError: there is none.
        """
        self.room.check_new(self.limits)

    def check_share(self, session: Session, added: int, *, ends: bool = False) -> None:
        """Refuse a session to grow beyond its share while memory is short.

        Args:
            session: a hot one.
            added: bytes that a change adds.
            ends: whether it ends then, so that it can leave memory soon.

        Raises:
            OverloadedError: it would have more than its share.
        """
        if 0 < self.limits.hot_bytes < self.table.hot.total and added > (LAST_WORDS_BYTES if ends else 0):
            self.room.check_growth(self.limits, session.doc.size + added)

    def evict(self, session: Session) -> None:
        """Drop an ended session from memory, which the store has."""
        self.liveness.forget(session)
        self.tx.evict(session)

    def check_growth(self, session: Session, size: int) -> None:
        """Like `check_size`, for a session that grows by a turn; the first refusal is an event.

        Raises:
            TooLargeError: it would be too large.
            OverloadedError: memory is short, and it would have more than its share.
        """
        limits = self.limits
        if size > limits.session_bytes:
            if not session.doc.full:
                session.doc.full = True
                self.events.note("session.full", self.now_us(), session)
            self.check_size(size)
        if 0 < limits.hot_bytes < self.table.hot.total:
            self.room.check_growth(limits, size)

    def check_size(self, size: int) -> None:
        """Refuse a session of more bytes than `limits.session_bytes`.

        Raises:
            TooLargeError: it has more.
        """
        if size > self.limits.session_bytes:
            raise TooLargeError(f"the session would exceed limits.session_bytes ({self.limits.session_bytes})")

    def check_head(self, size: int, before: int = 0) -> None:
        """Refuse a head of more bytes than `limits.head_bytes`: an update costs what the head is long.

        Args:
            size: bytes of the new head.
            before: bytes of the present one; a head that is too long may become shorter.

        Raises:
            TooLargeError: it has more.
        """
        if size > self.limits.head_bytes and size > before:
            raise TooLargeError(
                f"the session without its history would exceed limits.head_bytes ({self.limits.head_bytes})"
            )

    def now_us(self) -> int:
        """The present wall time."""
        return self.clock.wall_us()

    def lift(self, session: Session) -> None:
        """Lift the suspicion and settle the pending departure of a session that is claimed, released or ended."""
        self.decide_departure(session.id)
        self.tx.lift_suspicion(session)

    def decide_departure(self, session_id: str) -> None:
        """Settle a session's pending departure with the open group."""
        self.tx.decide_departure(self.departures.pending, session_id)

    def mark_stale(self, session: Session) -> None:
        """Other hosts are to learn of its state, which has changed while nothing else has."""
        self.table.dirty.mark(session.id, self.clock.mono(), session.doc.size)

    def watch_again(self, session: Session) -> None:
        """After a rollback: give a session its full time again. A suspect stays one: its worker is as dead as
        before."""
        if session.ended:
            session.suspected = ""
            self.liveness.keep(session, self.clock.live())
            return
        suspected = session.suspected
        self.watch(INTERNAL, session)
        if suspected:
            session.suspected = suspected
            self.liveness.learn(session, Evidence.SILENCE, self.clock.live(), labels=session.facts.labels)

    def watch(self, caller: Caller, session: Session) -> None:
        """Give a live session its full timeout, and its limit if it has one.

        Without a timeout of its own it keeps the present default for good: its owner uses that, and does not learn
        of a later change of the configuration.
        """
        session.suspected = ""
        if session.facts.heartbeat_timeout_s is None:
            session.change_facts(heartbeat_timeout_s=self._default_timeout_s(caller))
        self.liveness.watch(session, self.clock.live(), session.awaited_s)
        self.limit_duration(session)

    def _default_timeout_s(self, caller: Caller) -> float:
        """The timeout of a session without one: not below what `server.info` told the caller, which may rely on it.
        A caller with an instance uses the replies to its saves and claims."""
        told_s = 0.0 if caller.instance else caller.told_timeout_s
        return max(self.liveness.timeout_s, told_s)

    def step_back(self) -> None:
        """After the clock has stepped back by the length of a stall: nothing may have begun later than now."""
        now = self.clock.live()
        self.liveness.step_back(now)
        for session in self.liveness.limited:
            if session.born > now:
                session.born = now
                self.limit_duration(session)

    def limit_duration(self, session: Session) -> None:
        """Limit a session to its `max_duration_s`, counted from its creation."""
        if session.facts.max_duration_s is None:
            self.liveness.limit(session, None)  # an undone change may have set one
            return
        created = session.doc.created_at
        if session.born_of != created:  # once: the wall clock may be set while the call goes on
            age_s = 0.0 if created == ZERO_TIME else max(0.0, (self.now_us() - parse_us(created)) / 1e6)
            session.born_of, session.born = created, self.clock.live() - age_s
        self.liveness.limit(session, session.born + session.facts.max_duration_s)
