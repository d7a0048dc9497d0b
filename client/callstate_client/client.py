"""SidecarStore: a store whose sessions the daemon on this host keeps; and `connect()`, which makes it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Generator, Sequence
from types import TracebackType
from typing import Final
from weakref import WeakSet

from callstate_client import protocol
from callstate_client.api import CallStore
from callstate_client.calls.heartbeats.loop_watchdog import LoopHeartbeats
from callstate_client.calls.heartbeats.schedule import Heartbeats, default_timeout_s
from callstate_client.errors import ConnectionLostError, ShuttingDownError, StoreClosedError
from callstate_client.protocol.events import Cursor
from callstate_client.protocol.waiter import Waiter
from callstate_client.requests import BeforeSend, Redaction, validation
from callstate_client.telemetry import Telemetry
from callstate_client.transport import fork_safety
from callstate_client.transport.backoff import CLOSE_TIMEOUT_S, TIMEOUT_S
from callstate_client.transport.connection import Connection
from callstate_client.transport.discovery import Candidate, candidates
from callstate_client.transport.event_stream import EventStream
from callstate_client.transport.heartbeat_batch import HeartbeatBatcher
from callstate_client.transport.identity import Identity
from callstate_client.transport.loop_affinity import check_loop

__all__ = ["SidecarStore", "connect"]

STALL_TIMEOUT_S: Final = 20.0
"""How long a worker's event loop may not run before it counts as hung, seconds: no blocking call of a healthy
worker takes so long, and the calls become suspect only a heartbeat timeout later."""


class SidecarStore(CallStore):
    """Keeps the state of live calls in the daemon on this host. Made by `connect()`.

    A forked child may continue to use it, in an event loop of its own: it connects again, as another worker. The
    calls that were held stay with the parent.

    Args:
        socket, worker_id, timeout_s, register, stall_timeout_s, close_timeout_s, before_send, telemetry: see
            `connect()`.
    """

    def __init__(
        self,
        socket: str | os.PathLike[str] | None,
        worker_id: str | None,
        timeout_s: float,
        *,
        register: bool = True,
        stall_timeout_s: float = STALL_TIMEOUT_S,
        close_timeout_s: float = CLOSE_TIMEOUT_S,
        before_send: BeforeSend | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        redaction = Redaction.of(before_send)
        self._identity = Identity.of(worker_id)
        validation.check_worker_id(self._identity.worker_id)
        self._timeout_s = timeout_s
        self._register = register
        self._stall_timeout_s = stall_timeout_s
        self._places: Sequence[Candidate] = candidates(socket, os.environ, os.getuid())
        self._streams: WeakSet[EventStream] = WeakSet()
        self._begin()
        super().__init__(close_timeout_s, timeout_s)
        self._redaction = redaction
        self._observe(telemetry)
        fork_safety.watch(self)

    def _begin(self) -> None:
        """Make what belongs to one process and one event loop."""
        self._loop = asyncio.get_running_loop()
        self._batcher = HeartbeatBatcher(self._send_heartbeats)
        self._posts: list[Callable[[], None]] = []
        self._connection = Connection(self._places, self._timeout_s, self._collect, self._registered())
        self._connection.on_drain = self._set_draining
        self._is_forked = False

    def _new_heartbeats(self) -> Heartbeats:
        return LoopHeartbeats(lambda: self._connection.places, self._registered, self._stall_timeout_s)

    def _registered(self) -> Identity | None:
        """The worker that connections are registered for; None: they are not registered."""
        return self._identity if self._register else None

    def forked(self) -> None:
        """In a child: leave the parent its connections and calls. Ours are made with the first request."""
        self._places = self._connection.places
        self._connection.forked()
        for stream in [*self._streams]:
            stream.forked()
        self._streams = WeakSet()
        self._lose_all(ConnectionLostError("this is a forked child: the call is held by its parent"))
        self._identity = self._identity.in_child()
        self._is_forked = not self._connection.closed

    def _begin_anew(self) -> None:
        self._begin()
        self._held.heartbeats = self._new_heartbeats()
        self._connection.reconnect()

    @property
    def worker_id(self) -> str:
        """The id of this worker."""
        return self._identity.worker_id

    @property
    def name(self) -> str:
        """`sidecar`."""
        return "sidecar"

    @property
    def path(self) -> str:
        """The daemon's socket."""
        return self._connection.path

    @property
    def _place(self) -> object:
        return self.path

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._connection.closed

    async def open(self, wait_s: float) -> None:
        """Connect; see `connect()`."""
        await self._connection.open(wait_s)

    async def close(self) -> None:
        """Close the store; see CallStore.

        Raises:
            UndeliveredError: as there.
            RuntimeError: this is not the store's loop, whose connections and tasks can't be waited for here.
        """
        if not (self.closed or self._is_forked):
            check_loop(self._loop, "this store")
        await super().close()

    async def _close(self) -> None:
        self._batcher.fail(StoreClosedError())
        for stream in [*self._streams]:
            stream.close()
        await self._connection.close()

    def events(self, *types: str, since: Cursor | None = None, worker_id: str | None = None) -> EventStream:
        """The events of calls, workers and the store; see CallStore."""
        if self.closed:
            raise StoreClosedError
        known = self._known_features
        of_worker = worker_id if known is not None and protocol.EVENTS_WORKER in known else None
        stream = EventStream(self._connection.places, types, since, worker_id=of_worker, timeout_s=self._timeout_s)
        self._streams.add(stream)
        return stream

    def request(
        self,
        method: str,
        params: protocol.Params | None = None,
        *,
        op_of: str | None = None,
        timeout_s: float | None = None,
    ) -> asyncio.Future[bytes]:
        """Send a request of the protocol; see CallStore."""
        if self._is_forked:
            self._begin_anew()
        check_loop(self._loop, "this store")
        reply: asyncio.Future[bytes] = self._loop.create_future()
        self._connection.send(method, params, reply, op_of, timeout_s)
        return reply

    def _gather(self, post: Callable[[], None]) -> bool:
        # an observer of requests sees those that are awaited
        if self._telemetry is not None or self._is_forked or not self._connection.is_up:
            return False
        self._posts.append(post)
        self._connection.writable()
        return True

    def _post(self, method: str, params: protocol.Params, waiter: Waiter) -> bool:
        if not self._connection.is_up:
            return False
        self._connection.send(method, params, waiter)
        return True

    def _collect(self) -> None:
        """Send what was gathered in this iteration of the loop."""
        self._batcher.flush()
        if self._posts:
            posts, self._posts = self._posts, []
            for post in posts:
                post()

    def _may_have_left(self, reply: object) -> bool:
        if isinstance(reply, asyncio.Future) and reply.done():
            return not reply.cancelled()
        return self._connection.was_sent(reply)

    async def default_heartbeat_timeout_s(self) -> float:
        """The heartbeat timeout that `server.info` reports now; a reload of the daemon may change it."""
        return default_timeout_s(await self.info())

    async def features(self) -> Collection[str]:
        """The optional parts of the protocol that the daemon supports, as reported on the newest connection."""
        known = self._known_features
        return await super().features() if known is None else known

    @property
    def _known_features(self) -> Collection[str] | None:
        return self._connection.features

    # -- heartbeats: those of one iteration of the loop leave as one message --------------------------------

    async def update_heartbeat(self, session_id: str, *, timeout_s: float | None = None) -> None:
        """Report that this call is alive; see CallStore."""
        if self.closed:
            raise StoreClosedError
        if self._is_forked:
            self._begin_anew()
        check_loop(self._loop, "this store")
        if timeout_s is not None:
            await super().update_heartbeat(session_id, timeout_s=timeout_s)
            return
        validation.check_session_id(session_id)
        future: asyncio.Future[None] = self._loop.create_future()
        self._batcher.add(session_id, future)
        self._connection.writable()
        try:
            await future
        except ShuttingDownError:  # by itself it is sent again, if the daemon is stopping
            await super().update_heartbeat(session_id)

    def _send_heartbeats(self, params: protocol.HeartbeatParams, waiter: Waiter) -> None:
        self._connection.send("session.heartbeat", params, waiter)


class _Connecting:
    """`async with connect() as store`, or `store = await connect()`."""

    def __init__(self, make: Callable[[], SidecarStore], wait_s: float) -> None:
        self._make = make
        self._wait_s = wait_s
        self._store: SidecarStore | None = None

    async def _connect(self) -> SidecarStore:
        store = self._make()
        try:
            await store.open(self._wait_s)
        except BaseException:
            await store.close()
            raise
        return store

    def __await__(self) -> Generator[None, None, SidecarStore]:
        return self._connect().__await__()

    async def __aenter__(self) -> SidecarStore:
        self._store = await self._connect()
        return self._store

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._store is not None:
            await self._store.__aexit__(kind, error, trace)


def connect(
    socket: str | os.PathLike[str] | None = None,
    worker_id: str | None = None,
    wait_s: float = 5.0,
    *,
    timeout_s: float = TIMEOUT_S,
    register: bool = True,
    stall_timeout_s: float = STALL_TIMEOUT_S,
    close_timeout_s: float = CLOSE_TIMEOUT_S,
    before_send: BeforeSend | None = None,
    telemetry: Telemetry | None = None,
) -> _Connecting:
    """Connect to the daemon on this host: `async with connect() as store`, or `store = await connect()`.

    Args:
        socket: path of the daemon's socket; default `CALLSTATE_SOCKET`, else the first that exists of
            `$XDG_RUNTIME_DIR/callstate.sock`, `/run/callstate/callstate.sock` and
            `/tmp/callstate-<uid>/callstate.sock`.
        worker_id: the id of this worker, 1 to 64 bytes of printable ASCII without spaces; by default host name, pid
            and a random part. Each store holds its own calls; when the process ends, all of them become suspects.
        wait_s: how long to wait for a daemon that does not listen yet, seconds; 0 tries once.
        timeout_s: how long each request waits for its reply, seconds.
        register: be a worker, which owns the calls that it creates and claims. False for an operator's tool, which
            may read and change everything and owns nothing.
        stall_timeout_s: when the event loop has not run for this long, seconds, no more heartbeats are sent for the
            calls that are held, so that a hung worker is not mistaken for a live one.
        close_timeout_s: how long leaving a call, and closing the store, wait until queued changes are acknowledged,
            seconds, also through a restart of the daemon; 0: not at all. What a call still has queued after that is
            delivered in the background as long as the store is open.
        before_send: gets a session's id and a copy of each turn before it is sent, and returns the turn to send in
            its place, for example without card numbers. If it raises, the turn is not sent: BeforeSendError.
        telemetry: where requests and calls are reported, such as `callstate_client.otel.OpenTelemetry()`.

    Raises:
        NoDaemonError: none was found; the text lists each path tried and why it could not be used.
        InvalidParamsError: the worker id is malformed, or refused by the daemon. Raised without waiting, as are the
            next two.
        ConflictError: another live process is registered under this worker id; `owner` is the id.
        UnsupportedProtocolError: the daemon speaks another version of the protocol.
        ValueError: one of the durations is negative, or not a number.
    """
    validation.check_waits(
        wait_s=wait_s, timeout_s=timeout_s, stall_timeout_s=stall_timeout_s, close_timeout_s=close_timeout_s
    )
    return _Connecting(
        lambda: SidecarStore(
            socket,
            worker_id,
            timeout_s,
            register=register,
            stall_timeout_s=stall_timeout_s,
            close_timeout_s=close_timeout_s,
            before_send=before_send,
            telemetry=telemetry,
        ),
        wait_s,
    )
