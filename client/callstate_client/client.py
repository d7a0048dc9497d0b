"""SidecarStore: the store that the daemon on this host answers for."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket as sockets
from collections.abc import Generator
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Final

from callstate_client import asks, checks, protocol
from callstate_client.api import CallStore
from callstate_client.discovery import candidates
from callstate_client.errors import (
    CallstateError,
    SessionNotFoundError,
    StoreClosedError,
)
from callstate_client.link import Link
from callstate_client.patience import TIMEOUT_S

__all__ = ["SidecarStore", "connect"]

BEATS_A_MESSAGE: Final = 2000
"""Heartbeats that leave as one message: with the longest ids half a request line's limit."""

HEARTBEAT_TIMEOUT_S: Final = 30.0
"""`reaper.heartbeat_timeout_s` of a daemon that does not say; its default."""


class SidecarStore(CallStore):
    """Keeps the state of live calls in the daemon on this host. Made by `connect()`.

    Args:
        places: where to look for the socket.
        worker_id: what this worker calls itself; default host, pid and something random.
        timeout_s: how long a call waits for its reply, seconds.
    """

    def __init__(self, socket: str | os.PathLike[str] | None, worker_id: str | None, timeout_s: float) -> None:
        super().__init__()
        self.worker_id = worker_id or f"{sockets.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        """What this worker calls itself."""
        places = candidates(socket, os.environ, os.getuid())
        self._link = Link(places, timeout_s, self._send_beats)
        self._beats: dict[str, list[asyncio.Future[None]]] = {}
        self._loop = asyncio.get_running_loop()
        self._default_timeout: tuple[int, float] | None = None

    @property
    def name(self) -> str:
        """`sidecar`."""
        return "sidecar"

    @property
    def path(self) -> str:
        """The socket of the daemon."""
        return self._link.path

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._link.closed

    async def open(self, wait_s: float) -> None:
        """Connect; see `connect()`."""
        await self._link.open(wait_s)

    async def _close(self) -> None:
        beats, self._beats = self._beats, {}
        for future in chain.from_iterable(beats.values()):
            if not future.done():
                future.set_exception(StoreClosedError())
        await self._link.close()

    def request(
        self,
        method: str,
        params: protocol.Params | None = None,
        *,
        op_of: str | None = None,
        timeout_s: float | None = None,
    ) -> asyncio.Future[bytes]:
        """Ask for a verb of the protocol; see CallStore."""
        return self._link.request(method, params, op_of=op_of, timeout_s=timeout_s)

    async def default_heartbeat_timeout_s(self) -> float:
        """What the daemon's `server.info` says; asked for once a connection."""
        generation = self._link.generation
        if self._default_timeout is None or self._default_timeout[0] != generation:
            said = (await self.info()).get("heartbeat_timeout_s", HEARTBEAT_TIMEOUT_S)
            self._default_timeout = (generation, float(said))
        return self._default_timeout[1]

    # -- heartbeats: those of one turn of the loop leave as one message -----------------------------------

    async def update_heartbeat(self, session_id: str, *, timeout_s: float | None = None) -> None:
        """Say that this call is alive; see CallStore."""
        if self.closed:
            raise StoreClosedError
        if timeout_s is not None:
            ask = asks.heartbeat(session_id)
            ask.result(await self._send(ask, timeout_s))
            return
        checks.check_session_id(session_id)
        future = self._loop.create_future()
        self._beats.setdefault(session_id, []).append(future)
        self._link.wake()
        await future

    def _send_beats(self) -> None:
        if not self._beats:
            return
        beats, self._beats = self._beats, {}
        if len(beats) <= BEATS_A_MESSAGE:
            self._send_message(beats)
            return
        ids = [*beats]
        for start in range(0, len(ids), BEATS_A_MESSAGE):
            self._send_message({session_id: beats[session_id] for session_id in ids[start : start + BEATS_A_MESSAGE]})

    def _send_message(self, beats: dict[str, list[asyncio.Future[None]]]) -> None:
        params = protocol.HeartbeatParams(session_ids=[*beats])
        self._link.ask("session.heartbeat", params, _Beats(self._link, beats))


class _Beats:
    """The heartbeats of one message; each gets its own outcome as soon as the reply is there."""

    __slots__ = ("_beats", "_link")

    def __init__(self, link: Link, beats: dict[str, list[asyncio.Future[None]]]) -> None:
        self._link = link
        self._beats = beats

    def done(self) -> bool:
        """Who waits is asked when the reply is there."""
        return False

    def set_exception(self, error: Exception) -> None:
        """None of them was answered."""
        for futures in self._beats.values():
            _settle(futures, error)

    def set_result(self, line: bytes) -> None:
        """The reply came."""
        beats = self._beats
        if line[line.find(b",", BEATS_ID_BYTES) :] != ALL_BEATEN:
            try:
                result = protocol.decode_heartbeat(line)
            except CallstateError as failure:
                self.set_exception(failure)
                return
            self._settle_failed(result)
        for futures in beats.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)

    def _settle_failed(self, result: protocol.HeartbeatResult) -> None:
        for session_id in result.missing:
            _settle(self._beats.pop(session_id, []), SessionNotFoundError(f"no session {session_id}"))
        for session_id in (*result.ended, *result.fenced):
            # the lists don't say when and why it ended, or whose it is: seldom enough to ask once more
            params = protocol.HeartbeatParams(session_id=session_id)
            again = self._link.request("session.heartbeat", params)
            again.add_done_callback(partial(_settle_one, self._beats.pop(session_id, [])))


def _settle_one(futures: list[asyncio.Future[None]], reply: asyncio.Future[bytes]) -> None:
    try:
        protocol.decode_empty(reply.result())
    except CallstateError as failure:
        _settle(futures, failure)
    else:
        _settle(futures, None)


def _settle(futures: list[asyncio.Future[None]], error: Exception | None) -> None:
    for future in futures:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


class _Connecting:
    """`async with connect() as store`, or `store = await connect()`."""

    def __init__(
        self, socket: str | os.PathLike[str] | None, worker_id: str | None, wait_s: float, timeout_s: float
    ) -> None:
        self._socket = socket
        self._worker_id = worker_id
        self._wait_s = wait_s
        self._timeout_s = timeout_s
        self._store: SidecarStore | None = None

    async def _connect(self) -> SidecarStore:
        store = SidecarStore(self._socket, self._worker_id, self._timeout_s)
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
            await self._store.close()


def connect(
    socket: str | os.PathLike[str] | None = None,
    worker_id: str | None = None,
    wait_s: float = 5.0,
    *,
    timeout_s: float = TIMEOUT_S,
) -> _Connecting:
    """The store of the daemon on this host: `async with connect() as store`, or `store = await connect()`.

    Args:
        socket: the daemon's; default `CALLSTATE_SOCKET`, else the first that exists of
            `$XDG_RUNTIME_DIR/callstate.sock`, `/run/callstate/callstate.sock` and
            `/tmp/callstate-<uid>/callstate.sock`.
        worker_id: what this worker calls itself; default host, pid and something random.
        wait_s: how long to wait for a daemon that is not there yet, seconds; 0 tries once.
        timeout_s: how long each call waits for its reply, seconds.

    Raises:
        NoDaemonError: none was found; the text lists each path tried and why not.
    """
    return _Connecting(socket, worker_id, wait_s, timeout_s)
