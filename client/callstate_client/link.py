"""One multiplexed connection to the daemon, which comes back by itself.

Requests of one turn of the loop leave in one write. Replies are matched by their id and handed over as they
came: the task that waits decodes its own. What is under way when the connection goes is sent again where that
can't do anything twice, else it fails with ConnectionLostError.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, cast

import msgspec

from callstate_client.discovery import Candidate, Tried, describe, no_daemon, refusal
from callstate_client.errors import (
    ConnectionLostError,
    RequestTimeoutError,
    StoreClosedError,
    TooLargeError,
)
from callstate_client.protocol import LineSplitter, Params, decode_incoming, encode_request, reply_id

_log = logging.getLogger("callstate")

TIMEOUT_S: Final = 5.0
"""How long a call waits for its reply; the daemon answers in well under a millisecond unless it restarts."""

REPLY_BYTES: Final = 64 * 1024 * 1024
"""Longest reply line taken: eight sessions of the largest size. A peer that sends more is no callstated."""

WRITE_HIGH_BYTES: Final = 1024 * 1024
WRITE_LOW_BYTES: Final = 256 * 1024
"""Unsent bytes at which writing pauses and resumes. Both set: uvloop's own low mark is 16 bytes."""

FIRST_DELAY_S: Final = 0.01
MAX_DELAY_S: Final = 0.5
"""Backoff between attempts to connect: a daemon restarts in tens of milliseconds, and a local connect that
fails costs microseconds, so there is no reason to wait long."""

OPS_REMEMBERED: Final = 16
"""The daemon knows a session's last 16 ops. Of more mutations under way, the older ones can't be repeated."""

REPEATABLE: Final = frozenset(
    {
        "session.load", "session.delete", "session.list_active", "session.list", "session.heartbeat",
        "server.ping", "server.info", "server.stats", "server.flush",
    }
)  # fmt: skip
"""What may be done twice without harm; any other verb only with an `op`."""


class _Call:
    """A request under way."""

    __slots__ = ("deadline", "future", "line", "op_of", "repeatable", "request_id", "wire")

    def __init__(
        self,
        request_id: int,
        line: bytes,
        future: asyncio.Future[bytes],
        *,
        deadline: float,
        repeatable: bool,
        op_of: str | None,
    ) -> None:
        self.request_id = request_id
        self.line = line
        self.future = future
        self.deadline = deadline
        self.repeatable = repeatable
        self.op_of = op_of  # the session that remembers the op
        self.wire: _Wire | None = None  # the connection it was sent on last

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class _Wire(asyncio.Protocol):
    """One connection's callbacks; the link ignores those of a connection that is no longer its own."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._splitter = LineSplitter(REPLY_BYTES)
        self.transport: asyncio.Transport
        self.may_write = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(WRITE_HIGH_BYTES, WRITE_LOW_BYTES)

    def data_received(self, data: bytes) -> None:
        self._link._received(self, self._splitter.feed(data))

    def pause_writing(self) -> None:
        self.may_write = False

    def resume_writing(self) -> None:
        self.may_write = True
        self._link.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._link._lost(self, exc)


class Link:
    """The way to the daemon. Belongs to the loop it is made in.

    Args:
        places: where to look for the socket; the first that answers is kept to from then on.
        timeout_s: how long a call waits for its reply, seconds.
        collect: called before each write, to make requests of what has gathered in this turn of the loop.
    """

    def __init__(self, places: Sequence[Candidate], timeout_s: float, collect: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._places = places
        self._timeout_s = timeout_s
        self._collect = collect
        self._wire: _Wire | None = None
        self._gone = asyncio.Event()
        self._reconnecting: asyncio.Task[None] | None = None
        self._delay_s = 0.0
        self._tried: list[Tried] = []
        self._last_id = 0
        self._pending: dict[int, _Call] = {}
        self._unsent: list[_Call] = []
        self._flush_due = False
        self._timer: asyncio.TimerHandle | None = None
        self.generation = 0
        """Raised by each connection: what a daemon said of itself holds as long."""
        self.closed = False

    @property
    def path(self) -> str:
        """The socket of the daemon."""
        return self._places[0].path

    # -- connecting ---------------------------------------------------------------------------------------

    async def open(self, wait_s: float) -> None:
        """Connect, trying for so long while the daemon is not there yet.

        Raises:
            NoDaemonError: it never was.
        """
        until = self._loop.time() + wait_s
        while not await self._attempt():
            left = until - self._loop.time()
            if left <= 0 or any(place.hopeless for place in self._tried):
                raise no_daemon(self._tried)
            await asyncio.sleep(min(left, self._backoff()))

    async def _attempt(self) -> bool:
        uid = os.getuid()
        self._tried = []
        for place in self._places:
            refused = refusal(place, uid)
            if refused is None:
                try:
                    _, wire = await self._loop.create_unix_connection(lambda: _Wire(self), place.path)
                except OSError as error:
                    refused = describe(place, error)
                else:
                    self._connected(wire, place)
                    return True
            self._tried.append(refused)
            if refused.final:
                break
        return False

    def _backoff(self) -> float:
        self._delay_s = min(max(2 * self._delay_s, FIRST_DELAY_S), MAX_DELAY_S)
        return self._delay_s * random.uniform(0.5, 1.0)

    def _connected(self, wire: _Wire, place: Candidate) -> None:
        if wire.transport.is_closing():
            # already lost: its connection_lost came, or comes, before the link knew it
            self._begin_reconnect()
            return
        self._places = [place]
        self._wire = wire
        self._gone.clear()
        self.generation += 1
        self.wake()

    def _begin_reconnect(self) -> None:
        if not self.closed and (self._reconnecting is None or self._reconnecting.done()):
            self._reconnecting = self._loop.create_task(self._reconnect(), name="callstate-reconnect")

    async def _reconnect(self) -> None:
        while True:
            if self._delay_s:  # the last connection brought nothing: no hurry
                await asyncio.sleep(self._delay_s * random.uniform(0.5, 1.0))
            self._backoff()
            if await self._attempt() and self._wire is not None:
                return

    async def close(self) -> None:
        """Leave. What is under way fails with StoreClosedError. May be called twice."""
        if not self.closed:
            self.closed = True
            if self._reconnecting is not None:
                self._reconnecting.cancel()
            if self._timer is not None:
                self._timer.cancel()
            for call in self._pending.values():
                call.fail(StoreClosedError())
            self._pending.clear()
            self._unsent.clear()
            if self._wire is None:
                self._gone.set()
            else:
                self._wire.transport.abort()  # close() would wait for a daemon that does not read
        await self._gone.wait()

    # -- sending ------------------------------------------------------------------------------------------

    def request(
        self, method: str, params: Params | None, *, op_of: str | None = None, timeout_s: float | None = None
    ) -> asyncio.Future[bytes]:
        """Send a request with the others of this turn of the loop; the future gives the reply's line.

        Args:
            method: a verb of the protocol.
            params: of the verb's class.
            op_of: for a mutation with an `op`, the session that remembers it.
            timeout_s: how long to wait; None for the link's own.
        """
        if self.closed:
            raise StoreClosedError
        self._last_id += 1
        call = _Call(
            self._last_id,
            encode_request(self._last_id, method, params),
            self._loop.create_future(),
            deadline=self._loop.time() + (self._timeout_s if timeout_s is None else timeout_s),
            repeatable=op_of is not None or method in REPEATABLE,
            op_of=op_of,
        )
        self._pending[call.request_id] = call
        self._unsent.append(call)
        self.wake()
        self._watch(call.deadline)
        return call.future

    def wake(self) -> None:
        """Write what there is at the end of this turn of the loop."""
        if not self._flush_due and not self.closed:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._collect()
        self._flush_due = False
        wire = self._wire
        if wire is None or not wire.may_write or not self._unsent:
            return
        calls, self._unsent = self._unsent, []
        lines: list[bytes] = []
        for call in calls:
            if call.future.done():  # cancelled or too late before it ever left
                self._pending.pop(call.request_id, None)
            else:
                call.wire = wire
                lines.append(call.line)
        wire.transport.write(b"".join(lines))

    # -- timeouts -----------------------------------------------------------------------------------------

    def _watch(self, deadline: float) -> None:
        if self._timer is None or deadline < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        # one timer for all: it fires about once a timeout, however many calls there are
        self._timer = None
        now = self._loop.time()
        for call in [call for call in self._pending.values() if call.deadline <= now]:
            del self._pending[call.request_id]
            call.fail(self._too_late(call))
        if self._pending:
            self._watch(min(call.deadline for call in self._pending.values()))

    def _too_late(self, call: _Call) -> Exception:
        if call.wire is None:
            return no_daemon(self._tried) if self._wire is None else RequestTimeoutError("the daemon takes nothing")
        if call.wire is not self._wire:
            return ConnectionLostError("the connection was lost and did not come back in time; outcome unknown")
        return RequestTimeoutError("the daemon did not answer in time; outcome unknown")

    # -- receiving ----------------------------------------------------------------------------------------

    def _received(self, wire: _Wire, lines: list[bytes | None]) -> None:
        self._delay_s = 0.0
        pending = self._pending
        for line in lines:
            request_id = None if line is None else reply_id(line)
            if request_id is not None:
                call = pending.pop(request_id, None)
                if call is not None and not call.future.done():
                    call.future.set_result(cast(bytes, line))
            elif not line or not self._unusual(line):
                _log.error("what listens at %s is no callstated; leaving it", self.path)
                wire.transport.abort()
                return

    def _unusual(self, line: bytes) -> bool:
        """A line that is no plain reply. False where no callstated would send it."""
        try:
            incoming = decode_incoming(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return False
        if isinstance(incoming.id, int):
            call = self._pending.pop(incoming.id, None)
            if call is not None and not call.future.done():
                call.future.set_result(line)
        elif incoming.error is not None:
            error = incoming.error.exception()
            if isinstance(error, TooLargeError) and self._pending:
                # the id was in a line the daemon dropped; of those under way it was the longest
                longest = max(self._pending.values(), key=lambda call: len(call.line))
                del self._pending[longest.request_id]
                longest.fail(error)
            else:
                _log.error("the daemon answered to no request: %s", error)
        return True

    def _lost(self, wire: _Wire, error: Exception | None) -> None:
        if wire is not self._wire:
            return
        self._wire = None
        self._gone.set()
        if self.closed:
            return
        self._tried = [Tried(self.path, f"the connection was lost ({error or 'closed'})", final=True)]
        under_way: Counter[str] = Counter()
        for call in reversed([*self._pending.values()]):
            if call.wire is None:
                continue
            if call.op_of is not None:
                under_way[call.op_of] += 1
            if not call.repeatable or (call.op_of is not None and under_way[call.op_of] > OPS_REMEMBERED):
                del self._pending[call.request_id]
                call.fail(ConnectionLostError("the connection was lost; outcome unknown"))
        # in the order they were made in: what is for one session takes effect in the order sent
        self._unsent = [*self._pending.values()]
        self._begin_reconnect()
