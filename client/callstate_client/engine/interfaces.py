"""What the engine needs of the program around it, as types: callers, the host, and results that take time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from callstate_client.engine.process import Process
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.stored import Query


class NotCached(Exception):  # noqa: N818 - no error: a question to the store
    """The session is not hot and the store has not been asked: ask, then run the request again."""

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self.session_id = session_id


class Deferred:
    """The answer of a verb that has to wait: `start` is given what to call with the result, or an error."""

    __slots__ = ("start",)

    def __init__(self, start: Callable[[Callable[[bytes | Exception], None]], None]) -> None:
        self.start = start


class Caller(Protocol):
    """Who asks: a connection."""

    worker: str
    """The worker it is registered as; empty for none: an operator, a simple script."""
    instance: str
    """Which store of the worker it is of; empty where it did not say."""
    told_timeout_s: float
    """The default timeout that `server.info` has told it, seconds; 0: it was not told."""

    def __hash__(self) -> int: ...

    @property
    def unsent_bytes(self) -> int:
        """What it has not taken yet of what was sent."""
        ...

    def send(self, data: bytes, /) -> object:
        """Queue lines behind what is queued already."""
        ...

    def close(self) -> None:
        """Hang up once what is queued has left."""
        ...


class InternalCaller:
    """The engine itself as a caller: no worker, and nobody who could read a reply."""

    worker = ""
    instance = ""
    told_timeout_s = 0.0
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
    """The process at the other end of a connection. Whoever has it closes it, or watches it."""

    @property
    def process(self) -> Process | None:
        """Which one; None: not known."""
        ...

    @property
    def watchable(self) -> bool:
        """Whether its exit can be watched."""
        ...

    def watch(self, exited: Callable[[], None], /) -> ExitWatch:
        """Call back once when it has exited, and never from within this call."""
        ...

    def close(self) -> None:
        """It will not be watched."""
        ...


class Host(Protocol):
    """What the engine asks of the program it runs in: the store behind, the system's word on processes, figures."""

    def when_known(self, session_id: str, then: Callable[[], None]) -> None:
        """Call `then` once the store has been asked for this session, in the order of these calls."""
        ...

    def stored_active_ids(self, cursor: str) -> Awaitable[tuple[list[str], str]]:
        """Some of the active sessions in the store, of every host, and the next cursor."""
        ...

    def find(self, query: Query, cursor: str, limit: int) -> Awaitable[tuple[list[Session], str]]:
        """Some of the sessions in the store, of every host, and the next cursor."""
        ...

    def flush(self, session_ids: list[str] | None, timeout_s: float | None) -> Awaitable[dict[str, int]]:
        """The result of `server.flush`, once the store has it or the time is up."""
        ...

    def after(self, work: Awaitable[Any], done: Callable[[Any], None]) -> None:
        """Wait for work, then call `done` with its result or its exception."""
        ...

    @property
    def accepts_new(self) -> bool:
        """Whether there is room for what the store does not have yet."""
        ...

    def identify(self, caller: Caller) -> PeerProcess | None:
        """The process behind a connection; None: it has hung up meanwhile."""
        ...

    def wake(self) -> None:
        """A worker has left, outside of any request perhaps: decide its departures and publish the events soon."""
        ...

    def info(self) -> dict[str, Any]:
        """The result of `server.info`."""
        ...

    def stats(self) -> dict[str, Any]:
        """The result of `server.stats`."""
        ...
