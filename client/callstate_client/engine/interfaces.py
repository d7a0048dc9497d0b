"""What verbs need of the daemon around them, as types: who asks, what one can ask for, and answers that wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.stored import (
    Query,
)


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
        """Nobody reads it."""

    def close(self) -> None:
        """There is nothing to close."""


INTERNAL: Final = InternalCaller()


class Services(Protocol):
    """What verbs ask of the rest of the daemon."""

    def when_known(self, session_id: str, then: Callable[[], None]) -> None:
        """Call `then` once the store was asked for this session, in the order of asking."""
        ...

    def info(self) -> dict[str, Any]:
        """The result of `server.info`."""
        ...

    def stats(self) -> dict[str, Any]:
        """The result of `server.stats`."""
        ...

    def flush(self, session_ids: list[str] | None, timeout_s: float | None) -> Awaitable[dict[str, int]]:
        """The result of `server.flush`, once the store has it or the time is up."""
        ...

    def stored_active_ids(self, cursor: str) -> Awaitable[tuple[list[str], str]]:
        """Some of the active sessions in the store, of every host, and the next cursor; see Backend.active_ids."""
        ...

    def find(self, query: Query, cursor: str, limit: int) -> Awaitable[tuple[list[Session], str]]:
        """Some of the sessions in the store, of every host, and the next cursor; see Backend.find."""
        ...

    def register(self, caller: Caller, worker_id: str, instance: str, process: str) -> None:
        """This connection is one of this worker's from now on.

        Args:
            caller: the connection.
            worker_id: the worker.
            instance: which store of the worker it is of; empty: it does not say.
            process: what the worker calls its process; empty: it does not say.

        Raises:
            ForbiddenError, ConflictError: it can't be.
        """
        ...

    def left(self, caller: Caller) -> None:
        """This connection is gone."""
        ...

    def workers_due(self, now: float) -> None:
        """Those who did not come back in time have left. `now`: seconds of the clock's `live`."""
        ...

    def is_connected(self, worker_id: str, instance: str = "") -> bool:
        """Whether the worker, or this instance of it, has a registered connection."""
        ...

    def after(self, work: Awaitable[Any], done: Callable[[Any], None]) -> None:
        """Wait for work, then call `done` with its result or its exception."""
        ...

    @property
    def accepts_new(self) -> bool:
        """Whether there is room for what the store does not have yet."""
        ...
