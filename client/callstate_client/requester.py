"""How a store sends a request and awaits its reply; the verbs are built on it (session_api.py).

What differs between stores is abstract here: a connection to the daemon, or the engine in this process.
"""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection
from time import monotonic
from types import TracebackType
from typing import Protocol, TypeVar

from callstate_client import protocol, requests
from callstate_client.errors import ConnectionLostError, NoDaemonError, RequestTimeoutError, ShuttingDownError
from callstate_client.protocol.events import Cursor, Event
from callstate_client.protocol.waiter import Waiter
from callstate_client.requests import PreparedRequest
from callstate_client.telemetry import Telemetry
from callstate_client.transport.backoff import RESTART, Backoff
from callstate_client.uncopied import Uncopied

__all__ = ["EventSource", "Requester"]

ResultT = TypeVar("ResultT")


class EventSource(Protocol):
    """What `events()` gives: an async iterator, and a context manager that subscribes on entering."""

    def __aiter__(self) -> EventSource:
        """The events, as they come."""
        ...

    async def __anext__(self) -> Event:
        """The next event, however long it takes."""
        ...

    async def __aenter__(self) -> EventSource:
        """Subscribe: from now on no event is missed."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unsubscribe."""
        ...

    def take(self) -> Event | None:
        """The next event if it has arrived, else None."""
        ...

    def close(self) -> None:
        """Unsubscribe. Iterations that are waiting for an event end."""
        ...


class Requester(Uncopied, ABC):
    """Sends requests. `timeout_s` is how long one may take, seconds; None for the store's own."""

    instead = "share this one within the process, and make one with connect() in another"

    def __init__(self, close_timeout_s: float, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.close_timeout_s = close_timeout_s
        """How long leaving a call, and `close()`, wait until what was queued is acknowledged, seconds."""
        self._redaction: requests.Redaction | None = None
        self._telemetry: Telemetry | None = None
        self._ops = requests.Ops()
        self._unnamed_worker = f"nobody-{secrets.token_hex(6)}"

    # -- what each kind of store implements ---------------------------------------------------------------

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether `close()` was called."""

    @property
    @abstractmethod
    def worker_id(self) -> str | None:
        """The worker id that this store acts under; None if it is not a worker."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The kind of store, for logs."""

    @abstractmethod
    def request(
        self,
        method: str,
        params: protocol.Params | None = None,
        *,
        op_of: str | None = None,
        timeout_s: float | None = None,
    ) -> Awaitable[bytes]:
        """Send one request of the protocol. Returns the reply's line, for one of protocol's decoders.

        Args:
            method: the verb.
            params: of the verb's class.
            op_of: for a mutation with an `op`, the session that remembers it: it may be sent twice.
            timeout_s: seconds; None for the store's own.
        """

    @abstractmethod
    def events(self, *types: str, since: Cursor | None = None, worker_id: str | None = None) -> EventSource:
        """Events of sessions, workers and the daemon's store: `async for event in store.events()`.

        From `async with store.events() as events` on, or else from the first event that is awaited, no event is
        missed. Where events could not be kept, there is one of type `gap`: reconcile by `sessions()` then.

        Args:
            types: which, see `EventType`; none: all but `turn`.
            since: the last event seen (`event.cursor`): later ones that are still kept come first.
            worker_id: leave out what workers other than this one do with sessions of their own: that they claim one
                that was nobody's, end or delete one that they own. Left in if the daemon is too old to do that.
        """

    @abstractmethod
    async def default_heartbeat_timeout_s(self) -> float:
        """Silence after which a session without a timeout of its own becomes a suspect, seconds."""

    @property
    def _known_features(self) -> Collection[str] | None:
        """`features()` if they are known without a request, else None."""
        return None

    @property
    def _place(self) -> object:
        """Where the sessions are kept: equal for all stores that share them."""
        return self

    def _may_have_left(self, reply: object) -> bool:
        """Whether a request may have reached the daemon whose reply is no longer awaited, or is posted."""
        return True

    def _gather(self, post: Callable[[], None]) -> bool:
        """Have this called once all that this iteration of the loop does is done, to `_post` what there is by then.
        False if nothing can be posted now, as by a store that has no such way: requests are awaited then."""
        return False

    def _post(self, method: str, params: protocol.Params, waiter: Waiter) -> bool:
        """Send a request, whose reply is passed to a waiter. In a call of what `_gather` was given.

        Unlike that of `request` it is not sent again by the store: with the connection it is lost.

        Returns:
            whether it is sent; if not, the waiter is not used.

        Raises:
            InvalidParamsError: the params can't be written as JSON.
        """
        return False

    # -- what they share ----------------------------------------------------------------------------------

    def _observe(self, telemetry: Telemetry | None) -> None:
        """Report to this observer from now on."""
        self._telemetry = telemetry
        if telemetry is not None:
            self.request = telemetry.observed(self.request)  # type: ignore[method-assign]

    @property
    def _claimant(self) -> str:
        """The worker id that sessions are claimed under, also if this store is not a worker."""
        return self.worker_id or self._unnamed_worker

    def new_op(self) -> str:
        """A unique name for one mutation."""
        return self._ops.new()

    async def _execute(
        self, request: PreparedRequest[ResultT], timeout_s: float | None, epoch: int | None = None
    ) -> ResultT:
        """Send a request and decode its reply. If the daemon refuses it as it is stopping, the next one gets it.

        Args:
            request: what to send.
            timeout_s: seconds; None for the store's own.
            epoch: the fencing token of a mutation; None for none.
        """
        if epoch is not None:
            requests.fenced(request, epoch)
        until = monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        reply = await self.request(request.method, request.params, op_of=request.op_of, timeout_s=timeout_s)
        try:
            return request.result(reply)
        except ShuttingDownError as refused:
            await self._wait_answering(until, refused)
        left_s = until - monotonic()
        reply = await self.request(request.method, request.params, op_of=request.op_of, timeout_s=left_s)
        return request.result(reply)

    async def _wait_answering(self, until: float, refused: ShuttingDownError) -> None:
        """Wait for a daemon that answers. One that is stopping refuses every request; one that is being drained
        refuses new sessions only.

        Args:
            until: for how long; a time of the monotonic clock, seconds.
            refused: what the daemon has said.

        Raises:
            ShuttingDownError: what it has said: there was none in that time.
        """
        backoff = Backoff(RESTART)
        while True:
            try:
                protocol.decode_empty(await self.request("server.ping", timeout_s=until - monotonic()))
            except ShuttingDownError:
                pause_s = backoff.pause_s()
                if monotonic() + pause_s >= until:
                    raise refused from None
            except (NoDaemonError, ConnectionLostError, RequestTimeoutError) as error:
                raise refused from error
            else:
                return
            await asyncio.sleep(pause_s)
