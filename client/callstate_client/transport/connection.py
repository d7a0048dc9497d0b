"""One multiplexed connection to the daemon, which comes back by itself.

Requests of one turn of the loop leave in one write. Replies are matched by their id and handed over as they
came: the task that waits decodes its own. What is under way when the connection goes is sent again where that
can't do anything twice, else it fails with ConnectionLostError.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, cast

import msgspec

from callstate_client.errors import (
    CallstateError,
    ConflictError,
    ConnectionLostError,
    ForbiddenError,
    InternalError,
    InvalidParamsError,
    MethodNotFoundError,
    RequestTimeoutError,
    StoreClosedError,
    UnsupportedProtocolError,
)
from callstate_client.protocol.framing import LineBuffer
from callstate_client.protocol.messages import (
    check_protocol,
    decode_members,
    decode_register,
    encode_request,
)
from callstate_client.protocol.params import (
    Params,
)
from callstate_client.transport import fork_safety
from callstate_client.transport.backoff import CONNECT, REPLY_BYTES, SHORTEST_HANDSHAKE_S, Backoff
from callstate_client.transport.discovery import (
    Candidate,
    Tried,
    describe,
    no_daemon,
    refusal,
)
from callstate_client.transport.identity import Identity
from callstate_client.transport.pending import PendingRequest, PendingRequests

_log = logging.getLogger("callstate")

LONG_LINE_BYTES: Final = 2048
"""Requests that begin with such a long one are not joined."""

WRITE_HIGH_BYTES: Final = 1024 * 1024
WRITE_LOW_BYTES: Final = 256 * 1024
"""Unsent bytes at which writing pauses and resumes. Both set: uvloop's own low mark is 16 bytes."""

REFUSALS: Final = (ConflictError, ForbiddenError, InvalidParamsError, UnsupportedProtocolError)
"""What a daemon that is well says of a worker, or of itself, and says again to who asks again at once."""


class Waiter(Protocol):
    """Who gets a reply: a future, or what is told at once, without a turn of the loop in between."""

    def done(self) -> bool:
        """Whether nobody waits any more."""
        ...

    def set_result(self, line: bytes, /) -> None:
        """The reply came."""
        ...

    def set_exception(self, error: Exception, /) -> None:
        """There will be none."""
        ...


def _fail(waiter: Waiter, error: Exception) -> None:
    if not waiter.done():
        waiter.set_exception(error)


class _Wire(asyncio.BufferedProtocol):
    """One connection's callbacks; those of a connection that has been replaced are ignored."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._buffer = LineBuffer(REPLY_BYTES)
        self.transport: asyncio.Transport
        self.may_write = True
        self.greeted: asyncio.Future[bytes] | None = None
        """Gets the next line, the answer to a greeting."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(WRITE_HIGH_BYTES, WRITE_LOW_BYTES)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer.view

    def buffer_updated(self, nbytes: int) -> None:
        lines = self._buffer.cut(nbytes)
        if self.greeted is not None and not self.greeted.done():
            if lines:
                self.greeted.set_result(lines[0] or b"")
            return
        self._connection._received(self, lines)

    def pause_writing(self) -> None:
        self.may_write = False

    def resume_writing(self) -> None:
        self.may_write = True
        self._connection.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.greeted is not None and not self.greeted.done():
            self.greeted.set_exception(ConnectionLostError("the connection was lost"))
        self._connection._lost(self, exc)


class Connection:
    """The way to the daemon. Belongs to the loop it is made in.

    Args:
        places: where to look for the socket; the first that answers is kept to from then on.
        timeout_s: how long a call waits for its reply, seconds.
        collect: called before each write, to make requests of what has gathered in this turn of the loop.
        identity: whom each connection is registered for before it is used; None: nobody.
    """

    def __init__(
        self,
        places: Sequence[Candidate],
        timeout_s: float,
        collect: Callable[[], None],
        identity: Identity | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.places = places
        self._identity = identity
        self._timeout_s = timeout_s
        self._collect = collect
        self._wire: _Wire | None = None
        self._gone = asyncio.Event()
        self._reconnecting: asyncio.Task[None] | None = None
        self._backoff = Backoff(CONNECT)
        self._tried: list[Tried] = []
        self._calls: PendingRequests[Waiter] = PendingRequests(_fail)
        self._unsent: list[PendingRequest[Waiter]] = []
        self._flush_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._refused: CallstateError | None = None
        self.info: dict[str, Any] = {}
        """What the daemon of the newest connection said of itself."""
        self.generation = 0
        """Raised by each connection: what a daemon said of itself holds as long."""
        self.closed = False
        self.told_draining: Callable[[bool], None] = lambda _: None
        """Called with what each registration says of the host."""

    @property
    def path(self) -> str:
        """The socket of the daemon."""
        return self.places[0].path

    # -- connecting ---------------------------------------------------------------------------------------

    async def open(self, wait_s: float) -> None:
        """Connect, trying for so long while the daemon is not there yet.

        Raises:
            NoDaemonError: it never was.
            ConflictError: another process has our worker id, and lives.
            InvalidParamsError, ForbiddenError: the daemon takes nobody of this id.
            UnsupportedProtocolError: it speaks another version of the protocol.
        """
        until = self._loop.time() + wait_s
        # one that listens and never answers takes no longer than one that is not there
        while not await self._attempt(max(until - self._loop.time(), SHORTEST_HANDSHAKE_S)):
            if self._refused is not None:
                raise self._refused
            left = until - self._loop.time()
            if left <= 0 or any(place.hopeless for place in self._tried):
                raise no_daemon(self._tried)
            await asyncio.sleep(min(left, self._backoff.pause_s()))

    async def _attempt(self, timeout_s: float) -> bool:
        uid = os.getuid()
        tried: list[Tried] = []
        standing: CallstateError | None = None
        for place in self.places:
            refused = refusal(place, uid)
            if refused is None:
                try:
                    made = fork_safety.connected(place.path)
                    _, wire = await self._loop.create_unix_connection(lambda: _Wire(self), sock=made)
                except OSError as error:
                    refused = describe(place, error)
                else:
                    unwelcome = await self._greet(wire, min(timeout_s, self._timeout_s))
                    if unwelcome is None:
                        self._connected(wire, place)
                        return True
                    standing = unwelcome if isinstance(unwelcome, REFUSALS) else None
                    silent = isinstance(unwelcome, TimeoutError)
                    refused = Tried(place.path, str(unwelcome) or "no answer in time", final=True, silent=silent)
            tried.append(refused)
            if refused.final:
                break
        self._tried, self._refused = tried, standing
        return False

    async def _greet(self, wire: _Wire, timeout_s: float) -> CallstateError | TimeoutError | None:
        """Ask who answers, and say whose the connection is, before anything else is said on it.

        Gives why it can't be used.
        """
        try:
            async with asyncio.timeout(timeout_s):
                self.info = check_protocol(decode_members(await self._ask_first(wire, "server.info")))
                if self._identity is not None:
                    introduction = self._identity.introduction(self.info.get("features", ()))
                    line = await self._ask_first(wire, "worker.register", introduction)
                    with suppress(MethodNotFoundError):  # an older daemon, which knows no workers
                        self.told_draining(decode_register(line).drain)
        except InternalError as error:
            wire.transport.abort()
            return InternalError(f"what listens there does not answer as a callstated: {error}")
        except (CallstateError, TimeoutError) as error:
            wire.transport.abort()
            return error
        except BaseException:
            wire.transport.abort()
            raise
        return None

    async def _ask_first(self, wire: _Wire, method: str, params: Params | None = None) -> bytes:
        wire.greeted = self._loop.create_future()
        wire.transport.write(encode_request(0, method, params))
        return await wire.greeted

    def _connected(self, wire: _Wire, place: Candidate) -> None:
        if wire.transport.is_closing():
            # already lost: its connection_lost came, or comes, before it is ours
            self._begin_reconnect()
            return
        self.places = [place]
        self._wire, self._refused = wire, None
        self._gone.clear()
        self.generation += 1
        self.wake()

    def _begin_reconnect(self) -> None:
        if not self.closed and (self._reconnecting is None or self._reconnecting.done()):
            self._reconnecting = self._loop.create_task(self._reconnect(), name="callstate-reconnect")
            self._reconnecting.add_done_callback(self._stopped)

    def _stopped(self, task: asyncio.Task[None]) -> None:
        """Cancelled by whoever cancels all tasks: go on for those who still wait, if there are any."""
        if task.cancelled() and self._calls.are_waited_for:
            self._begin_reconnect()

    async def _reconnect(self) -> None:
        told = ""
        while True:
            await asyncio.sleep(self._backoff.pause_s())  # none, unless the last connection brought nothing
            if await self._attempt(self._timeout_s) and self._wire is not None:
                return
            if self._refused is not None and str(self._refused) != told:
                # not given up: who took our id while we were away may go, and the next daemon may take what this
                # one does not; until then requests are late, and say this as the reason
                told = str(self._refused)
                worker_id = self._identity and self._identity.worker_id
                _log.error("no use of %s as %s, trying again: %s", self.path, worker_id, told)

    async def close(self) -> None:
        """Leave. What is under way fails with StoreClosedError. May be called twice."""
        if not self.closed:
            self.closed = True
            if self._reconnecting is not None:
                self._reconnecting.cancel()
            if self._timer is not None:
                self._timer.cancel()
            self._calls.fail_all(StoreClosedError())
            self._unsent.clear()
            if self._wire is None:
                self._gone.set()
            else:
                self._wire.transport.abort()  # close() would wait for a daemon that does not read
        await self._gone.wait()

    def reconnect(self) -> None:
        """Connect in the background, as after a connection was lost."""
        self._begin_reconnect()

    def forked(self) -> None:
        """In a child: the connection is the parent's. Nothing else is touched, the loop being the parent's too."""
        self._wire = None

    # -- sending ------------------------------------------------------------------------------------------

    def ask(
        self,
        method: str,
        params: Params | None,
        waiter: Waiter,
        op_of: str | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Send a request with the others of this turn of the loop.

        Args:
            method: a verb of the protocol.
            params: of the verb's class.
            waiter: gets the reply's line.
            op_of: for a mutation with an `op`, the session that remembers it.
            timeout_s: how long to wait; None for the connection's own.
        """
        if self.closed:
            raise StoreClosedError
        deadline = self._loop.time() + (self._timeout_s if timeout_s is None else timeout_s)
        if self._wire is None:
            self._begin_reconnect()  # nothing, unless the task that did was cancelled
        self._unsent.append(self._calls.add(method, params, waiter, deadline=deadline, op_of=op_of))
        if not self._flush_due:
            self.wake()
        if deadline < self._timer_at:
            self._watch(deadline)

    def was_sent(self, waiter: Waiter) -> bool:
        """Whether the request that this one waits for has left."""
        return self._calls.was_sent(waiter)

    def wake(self) -> None:
        """Write what there is at the end of this turn of the loop."""
        if not self._flush_due and not self.closed:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self.closed:
            return
        try:
            self._collect()  # its requests find a flush due, and leave with this one
        finally:
            self._flush_due = False
        wire = self._wire
        if wire is None or not wire.may_write or not self._unsent:
            return
        calls, self._unsent = self._unsent, []
        lines: list[bytes] = []
        for call in calls:
            if call.waiter.done():  # cancelled or too late before it ever left
                self._calls.drop(call)
            else:
                call.connection = self.generation
                lines.append(call.line)
        # joining what is long would copy it once more, into memory that is fresh each time
        if len(lines) > 1 and len(lines[0]) < LONG_LINE_BYTES:
            wire.transport.write(b"".join(lines))
        else:
            wire.transport.writelines(lines)

    # -- timeouts -----------------------------------------------------------------------------------------

    def _watch(self, deadline: float) -> None:
        # one timer for all: it fires about once a timeout, however many calls there are
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._expire)
        self._timer_at = deadline

    def _expire(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        for call in self._calls.late(self._loop.time()):
            _fail(call.waiter, self._too_late(call))
        deadline = self._calls.next_deadline
        if deadline is not None:
            self._watch(deadline)

    def _too_late(self, call: PendingRequest[Waiter]) -> Exception:
        if self._wire is not None and call.connection in (0, self.generation):
            return RequestTimeoutError("the daemon did not answer in time; outcome unknown")
        if call.connection == 0:
            return no_daemon(self._tried)
        why = "" if self._refused is None else f" ({self._refused})"
        return ConnectionLostError(f"the connection was lost and did not come back in time{why}; outcome unknown")

    # -- receiving ----------------------------------------------------------------------------------------

    def _received(self, wire: _Wire, lines: list[bytes | None]) -> None:
        self._backoff.reset()
        try:
            for line in lines:
                waiter = self._calls.waiter(line or b"")
                if waiter is None:
                    continue
                if isinstance(waiter, CallstateError):
                    _log.error("the daemon answered to no request: %s", waiter)
                elif not waiter.done():
                    waiter.set_result(cast(bytes, line))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            _log.error("what listens at %s is no callstated (%s); leaving it", self.path, error)
            wire.transport.abort()
        # behind the tasks that this wakes, so what they ask for leaves in the same turn of the loop
        self.wake()

    def _lost(self, wire: _Wire, error: Exception | None) -> None:
        if wire is not self._wire:
            return
        self._wire = None
        self._gone.set()
        if not self.closed:
            self._tried = [Tried(self.path, f"the connection was lost ({error or 'closed'})", final=True)]
            self._unsent = self._calls.connection_lost()
            self._begin_reconnect()
