"""What the engine needs of the program around it, as types: callers, the host, and results that take time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from typing import Any, Final, Protocol

from callstate_client.engine.long_result import Result
from callstate_client.engine.process import Process
from callstate_client.engine.sessions.facts import Facts
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.stored import Query, StoredSession
from callstate_client.engine.user import NOBODY, User
from callstate_client.errors import ForbiddenError
from callstate_client.protocol.results import CheckResult, EraseResult, Setting


class NotCached(Exception):  # noqa: N818 - not an error: the store has to be read
    """The session is not hot and has not been read from the store: read it, then run the request again."""

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self.session_id = session_id


class NotOurs(Exception):  # noqa: N818 - no error: a request to the store
    """The session is another host's: have the store give it to this one, then run the request again.

    Args:
        session: as the store has it.
        owner: the worker that claims it.
        force: also where its owner is alive.
        why: this host may have it.
    """

    def __init__(self, session: Session, *, owner: str, force: bool, why: str) -> None:
        super().__init__(session.id)
        self.session_id = session.id
        self.host = session.host or ""
        self.epoch = session.facts.epoch
        self.owner = owner
        self.force = force
        self.why = why
        self.seen = self.host, self.epoch, session.state
        self.revive = session.ended
        """It was reaped, and is to live again."""


class Deferred:
    """The result of a verb that has to wait.

    Args:
        start: gets the callback for the result or an error.
        reply_bytes: how large the result may be, for those that can be large; it counts as an unread reply of the
            connection from now on.
        waiting: for how many reads of the store it waits; they count as so many waiting requests.
    """

    __slots__ = ("reply_bytes", "start", "waiting")

    def __init__(
        self,
        start: Callable[[Callable[[Result | Exception], None]], None],
        reply_bytes: int = 0,
        waiting: int = 1,
    ) -> None:
        self.start = start
        self.reply_bytes = reply_bytes
        self.waiting = waiting


Steps = Generator[None, None, "Result | Deferred"]
"""A verb's work in steps of about a tenth of a millisecond; returns the result."""


class InSteps:
    """The result of a verb with more work than other clients should wait for.

    The work goes on in later turns of the loop, as long as it takes; the caller's later requests wait for it. Other
    requests run in between, so a step relies on nothing that an earlier one has read. Sessions are changed in the
    last step alone, but for signs of life, so that a group that is rolled back never has a part of a request.

    Args:
        work: raises what the verb would raise.
    """

    __slots__ = ("work",)

    def __init__(self, work: Steps) -> None:
        self.work = work

    def finish(self) -> Result | Deferred:
        """Do all of it now."""
        while True:
            try:
                next(self.work)
            except StopIteration as end:
                result: Result | Deferred = end.value
                return result


def in_steps(work: Steps) -> Result | Deferred | InSteps:
    """Do the first step now: usually it is the only one."""
    try:
        next(work)
    except StopIteration as end:
        result: Result | Deferred = end.value
        return result
    return InSteps(work)


class Caller(Protocol):
    """The sender of a request: a connection."""

    worker: str
    """The worker it is registered as; empty for none: an operator, a simple script."""
    instance: str
    """The store instance of the worker; empty if not given."""
    told_timeout_s: float
    """The default timeout that `server.info` has told it, seconds; 0: none yet."""
    user: User
    """Who connected."""

    def __hash__(self) -> int: ...

    @property
    def unsent_bytes(self) -> int:
        """Bytes queued and not yet read."""
        ...

    def send(self, data: bytes, /) -> object:
        """Append lines to the send queue."""
        ...

    def close(self) -> None:
        """Close the connection once the queue is sent."""
        ...


class Access(Protocol):
    """What users may do. A front without users is OPEN."""

    restricts: bool
    """Whether somebody may be refused something; otherwise only `check_operator`, `note` and `describe` are
    asked."""

    def admit(self, ctx: Any, caller: Caller, method: str, params: Any, /) -> Callable[[], None] | None:
        """Refuse a request that its user may not send; ctx: the Context of verbs.

        Returns:
            what to call once the request has succeeded; None: nothing.

        Raises:
            ForbiddenError: it is refused.
        """
        ...

    def admit_save(self, caller: Caller, session_id: str, session: Session | None, /) -> None:
        """Refuse a save of this session, or, if there is none, its creation.

        Raises:
            ForbiddenError: it is refused.
        """
        ...

    def sees_all(self, user: User, /) -> bool:
        """Whether every session is shown to this user."""
        ...

    def sees(self, user: User, uid: int, gid: int, /) -> bool:
        """Whether a session of this creator is shown to this user."""
        ...

    def may_beat(self, user: User, facts: Facts, /) -> bool:
        """Whether heartbeats of this user count for a session."""
        ...

    def check_operator(self, caller: Caller, what: str, /) -> None:
        """Refuse what is an operator's alone, even where nothing is restricted.

        Raises:
            ForbiddenError: the caller is none.
        """
        ...

    def note(self, caller: Caller, method: str, session_id: str, /) -> None:
        """Note what an operator has done, where nothing is restricted; `admit` sees to it otherwise."""
        ...

    def describe(self, user: User, /) -> dict[str, Any]:
        """Members of `server.info` about a user's own access."""
        ...


class _Open:
    """Nobody is refused anything, and there are no operators."""

    restricts = False

    def admit(self, ctx: Any, caller: Caller, method: str, params: Any, /) -> None:
        """Everything is admitted."""

    def admit_save(self, caller: Caller, session_id: str, session: Session | None, /) -> None:
        """Every save is admitted."""

    def sees_all(self, user: User, /) -> bool:
        """Everybody sees all."""
        return True

    def sees(self, user: User, uid: int, gid: int, /) -> bool:
        """Everybody sees all."""
        return True

    def may_beat(self, user: User, facts: Facts, /) -> bool:
        """Everybody may."""
        return True

    def check_operator(self, caller: Caller, what: str, /) -> None:
        """There is none."""
        raise ForbiddenError(f"{what} is reserved for operators, and a store without users has none", what=what)

    def note(self, caller: Caller, method: str, session_id: str, /) -> None:
        """Nobody reads it."""

    def describe(self, user: User, /) -> dict[str, Any]:
        """There is nothing to say."""
        return {}


OPEN: Final = _Open()


class InternalCaller:
    """The engine itself as a caller: it is not a worker, and reads no replies."""

    worker = ""
    instance = ""
    told_timeout_s = 0.0
    user = NOBODY
    unsent_bytes = 0

    def send(self, data: bytes, /) -> None:
        """Drop it."""

    def close(self) -> None:
        """There is nothing to close."""


INTERNAL: Final = InternalCaller()


class ExitWatch(Protocol):
    """A watch over a process."""

    def close(self) -> None:
        """Stop watching. May be called twice."""
        ...


class PeerProcess(Protocol):
    """The process at the other end of a connection. Its holder has to close or watch it."""

    @property
    def process(self) -> Process | None:
        """What identifies the process; None: not known."""
        ...

    @property
    def watchable(self) -> bool:
        """Whether its exit can be watched."""
        ...

    def watch(self, exited: Callable[[], None], /) -> ExitWatch:
        """Call `exited` once when it has exited, and never from within this call."""
        ...

    def close(self) -> None:
        """Release it; it will not be watched."""
        ...


ShowStored = Callable[[str, Session | None, int], bool]
"""Called with an id, the session, None if there is none or it can't be read, and the bytes that were read."""


class Host(Protocol):
    """What the engine needs of the program it runs in: the store, processes, and figures."""

    def when_known(self, caller: Caller, session_id: str, then: Callable[[], None]) -> None:
        """Call `then` once this session has been read from the store: for each caller in the order of its requests,
        and in its share of the time."""
        ...

    @property
    def is_shared(self) -> bool:
        """Whether other hosts use the store too."""
        ...

    def when_taken(self, caller: Caller, theirs: NotOurs, then: Callable[[], None]) -> None:
        """As `when_known`, once the store has given another host's session to this one, or has said why not."""
        ...

    def when_written(self, caller: Caller, session: Session, then: Callable[[], None], /) -> None:
        """As `when_known`, once the history of this session, which is not hot, is in the journal, as far as that is
        possible."""
        ...

    def is_dead(self, host_id: str, /) -> bool:
        """Whether another host has been silent for so long that its sessions may be taken over."""
        ...

    def stored_active_ids(self, cursor: str) -> Awaitable[tuple[list[str], str]]:
        """Some of the active sessions in the store, of every host, and the next cursor."""
        ...

    def find(self, query: Query, cursor: str, limit: int) -> Awaitable[tuple[list[str], str]]:
        """The ids of some of the sessions in the store that may match, of every host, and the next cursor."""
        ...

    def show_ids(self, session_ids: Sequence[str], show: ShowStored, /) -> Awaitable[None]:
        """Show sessions of the store that don't have to be read for it, until `show` returns False."""
        ...

    def show_stored(self, session_ids: Sequence[str], show: ShowStored, /) -> Awaitable[None]:
        """Read sessions of the store one after the other, until `show` returns False."""
        ...

    def flush(self, session_ids: list[str] | None, timeout_s: float | None) -> Awaitable[dict[str, int]]:
        """The result of `server.flush`, once everything is stored or the time is up."""
        ...

    def erase(self, session_id: str, timeout_s: float | None) -> Awaitable[EraseResult]:
        """The result of `server.erase`, once no file has bytes of this deleted session.

        Raises:
            WireError: that could not be achieved.
        """
        ...

    def read_stored(self, session_id: str) -> Awaitable[StoredSession | None]:
        """What the store has under this id; raises StoreError."""
        ...

    def retry_refused(self) -> None:
        """Some of what the store refuses is to be tried again now."""
        ...

    def check_store(self, repair: bool) -> Awaitable[CheckResult]:
        """The result of `server.check`, once memory and store have been compared."""
        ...

    def after(self, work: Awaitable[Any], done: Callable[[Any], None]) -> None:
        """Wait for work, then call `done` with its result or its exception."""
        ...

    @property
    def accepts_new(self) -> bool:
        """Whether there is room for more unstored changes."""
        ...

    def identify(self, caller: Caller) -> PeerProcess | None:
        """The process at the other end of a connection; None if it has disconnected."""
        ...

    def wake(self) -> None:
        """A worker has left, perhaps outside of any request: process its departures and publish events soon."""
        ...

    def info(self) -> dict[str, Any]:
        """The result of `server.info`."""
        ...

    def stats(self) -> dict[str, Any]:
        """The result of `server.stats`."""
        ...

    def settings(self) -> Iterable[Setting]:
        """The configuration in force, for `server.config`."""
        ...
