"""A store's connection to the daemon, which many tasks share. It reconnects when the connection is lost.

Requests of one iteration of the event loop are sent in one write, unless there is one at a time. Replies are
matched by id and passed on unparsed: the waiting task decodes its own. When the connection is lost, pending
requests that may be repeated are sent again on the next one; the others fail with ConnectionLostError. A daemon
that answers with something unreadable is disconnected.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec

from callstate_client.errors import CallstateError, ConnectionLostError, RequestTimeoutError, StoreClosedError
from callstate_client.protocol.params import Params
from callstate_client.protocol.waiter import Waiter
from callstate_client.transport.backoff import CONNECT, SHORTEST_HANDSHAKE_S, Backoff
from callstate_client.transport.dial import Attempt
from callstate_client.transport.discovery import Candidate, Tried, no_daemon
from callstate_client.transport.identity import Identity
from callstate_client.transport.nonblocking import LineProtocol, dial
from callstate_client.transport.pending import PendingRequest, PendingRequests

_log = logging.getLogger("callstate")

LONG_LINE_BYTES: Final = 2048
"""If the first of several requests is this long, they are not joined: that would copy them into fresh memory."""


class Connection:
    """The connection of one store. Belongs to the loop it is created in.

    Args:
        places: where to look for the socket; the first that answers is used from then on.
        timeout_s: how long a call waits for its reply, seconds.
        collect: called before each write, to send what was gathered in this iteration of the loop.
        identity: the worker that each connection is registered for before it is used; None: none.
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
        self._protocol: LineProtocol | None = None
        self._disconnected = asyncio.Event()
        self._reconnecting: asyncio.Task[None] | None = None
        self._backoff = Backoff(CONNECT)
        self._tried: list[Tried] = []
        self._pending = PendingRequests()
        self._unsent: list[PendingRequest] = []
        self._flush_due = False
        self._at_once = False
        """Whether the next request is written at once: the last one was alone."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._refused: CallstateError | None = None
        self.features: Collection[str] | None = None
        """The optional parts of the protocol that the daemon of the latest connection has; None before the first
        one."""
        self.generation = 0
        """The number of connections so far; each may be to another daemon."""
        self.closed = False
        self.on_drain: Callable[[bool], None] = lambda _: None
        """Called with what each registration says: whether the host refuses new sessions."""

    @property
    def path(self) -> str:
        """The daemon's socket."""
        return self.places[0].path

    # -- connecting ---------------------------------------------------------------------------------------

    async def open(self, wait_s: float) -> None:
        """Connect, retrying for `wait_s` seconds while there is no daemon.

        Raises:
            NoDaemonError: there was none in that time.
            ConflictError: another live process has our worker id.
            InvalidParamsError, ForbiddenError: the daemon refuses a worker with this id.
            UnsupportedProtocolError: it speaks another version of the protocol.
        """
        until = self._loop.time() + wait_s
        # a daemon that listens and never answers takes no more time than an absent one
        while (attempt := await self._attempt(max(until - self._loop.time(), SHORTEST_HANDSHAKE_S))) is not None:
            left = until - self._loop.time()
            attempt.check(left)
            pause_s = self._backoff.pause_s()
            if pause_s >= left:  # one more, and no others: uvloop's timers ring up to half a millisecond early
                until = 0.0
            await asyncio.sleep(min(left, pause_s))

    async def _attempt(self, timeout_s: float) -> Attempt | None:
        """Try to connect once. Returns None on success, else the failed attempt."""
        attempt = Attempt(self.places)

        async def greet(protocol: LineProtocol) -> None:
            greeting = await protocol.handshake(self._identity, min(timeout_s, self._timeout_s))
            self.features = greeting.features
            if greeting.drain is not None:
                self.on_drain(greeting.drain)

        found = await dial(attempt, lambda: LineProtocol(self), greet)
        if found is None:
            self._tried, self._refused = attempt.tried, attempt.refused
            return attempt
        protocol, place = found
        if protocol.transport.is_closing():  # lost already: `lost` is called before it becomes ours
            self._begin_reconnect()
            return None
        self.places = [place]
        self._protocol, self._refused = protocol, None
        self._disconnected.clear()
        self.generation += 1
        self.writable()
        return None

    def _begin_reconnect(self) -> None:
        if not self.closed and (self._reconnecting is None or self._reconnecting.done()):
            self._reconnecting = self._loop.create_task(self._reconnect(), name="callstate-reconnect")
            self._reconnecting.add_done_callback(self._reconnect_ended)

    def _reconnect_ended(self, task: asyncio.Task[None]) -> None:
        """Start again if the task was cancelled while requests are pending, as by code that cancels all tasks."""
        if task.cancelled() and self._pending.are_waited_for:
            self._begin_reconnect()

    async def _reconnect(self) -> None:
        reported = ""
        while True:
            await asyncio.sleep(self._backoff.pause_s())  # none, unless the last connection received nothing
            if await self._attempt(self._timeout_s) is None and self._protocol is not None:
                return
            if self._refused is not None and str(self._refused) != reported:
                # not given up: a worker that took our id meanwhile may leave, and the next daemon may accept what
                # this one refuses; until then requests time out with this as the reason
                reported = str(self._refused)
                worker_id = self._identity and self._identity.worker_id
                _log.error("can't use %s as worker %s, trying again: %s", self.path, worker_id, reported)

    async def close(self) -> None:
        """Disconnect. Pending requests fail with StoreClosedError. May be called twice."""
        if not self.closed:
            self.closed = True
            if self._reconnecting is not None:
                self._reconnecting.cancel()
            if self._timer is not None:
                self._timer.cancel()
            self._pending.fail_all(StoreClosedError())
            self._unsent.clear()
            if self._protocol is None:
                self._disconnected.set()
            else:
                self._protocol.transport.abort()  # close() would wait for a daemon that does not read
        await self._disconnected.wait()

    def reconnect(self) -> None:
        """Connect in the background, as after a connection was lost."""
        self._begin_reconnect()

    def forked(self) -> None:
        """In a child: the connection belongs to the parent. Nothing else is touched: so does the loop."""
        self._protocol = None

    # -- sending ------------------------------------------------------------------------------------------

    def send(
        self,
        method: str,
        params: Params | None,
        waiter: Waiter,
        op_of: str | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Send a request, in one write with the others of this iteration of the loop.

        One that follows the reply to the only request under way is written at once instead: a task that sends one
        after the other would wait for a callback each time.

        Args:
            method: a verb of the protocol.
            params: of the verb's class.
            waiter: gets the reply's line.
            op_of: for a mutation with an `op`, the session that remembers it.
            timeout_s: how long to wait, seconds; None for the connection's own.

        Raises:
            StoreClosedError: the connection was closed.
            InvalidParamsError: the params can't be written as JSON.
        """
        if self.closed:
            raise StoreClosedError
        deadline = self._loop.time() + (self._timeout_s if timeout_s is None else timeout_s)
        if self._protocol is None:
            self._begin_reconnect()  # does nothing unless the task that did was cancelled
        request = self._pending.add(method, params, waiter, deadline=deadline, op_of=op_of)
        if not (self._at_once and self._write_at_once(request)):
            self._unsent.append(request)
            if not self._flush_due:
                self.writable()
        if deadline < self._timer_at:
            self._watch(deadline)

    @property
    def is_up(self) -> bool:
        """Whether what is sent now is written at the end of this iteration of the loop."""
        return self._protocol is not None and self._protocol.may_write and not self.closed

    def was_sent(self, waiter: object) -> bool:
        """Whether the request with this waiter is pending and has been written to a connection."""
        return self._pending.was_sent(waiter)

    def _write_at_once(self, request: PendingRequest) -> bool:
        """Write a request, unless it has to wait for others or for the connection; returns whether it did not."""
        self._at_once = False
        protocol = self._protocol
        if self._flush_due or self._unsent or protocol is None or not protocol.may_write:
            return False
        if protocol.transport.is_closing():  # lost; it is sent on the next one
            return False
        request.connection = self.generation
        protocol.transport.write(request.line)
        return True

    def writable(self) -> None:
        """Write what is unsent at the end of this iteration of the loop."""
        if not self._flush_due and not self.closed:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self.closed:
            return
        try:
            self._collect()  # its requests find a flush scheduled, and are sent with it
        finally:
            self._flush_due = False
        protocol = self._protocol
        if protocol is None or not protocol.may_write or not self._unsent:
            return
        requests, self._unsent = self._unsent, []
        lines: list[bytes] = []
        for request in requests:
            if request.waiter.done():  # cancelled or timed out before it was sent
                self._pending.drop(request)
            else:
                request.connection = self.generation
                lines.append(request.line)
        if len(lines) > 1 and len(lines[0]) < LONG_LINE_BYTES:
            protocol.transport.write(b"".join(lines))
        else:
            protocol.transport.writelines(lines)

    # -- timeouts -----------------------------------------------------------------------------------------

    def _watch(self, deadline: float) -> None:
        # one timer for all requests: it fires about once per timeout, however many requests there are
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._expire)
        self._timer_at = deadline

    def _expire(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        for request in self._pending.take_expired(self._loop.time()):
            request.fail(self._timeout_error(request))
        deadline = self._pending.next_deadline
        if deadline is not None:
            self._watch(deadline)

    def _timeout_error(self, request: PendingRequest) -> Exception:
        if self._protocol is not None and request.connection in (0, self.generation):
            return RequestTimeoutError("the daemon did not answer in time; outcome unknown")
        if request.connection == 0:
            return no_daemon(self._tried)
        why = "" if self._refused is None else f" ({self._refused})"
        return ConnectionLostError(f"the connection was lost and did not come back in time{why}; outcome unknown")

    # -- receiving ----------------------------------------------------------------------------------------

    def received(self, source: LineProtocol, lines: list[bytes | None]) -> None:
        """Pass replies to their waiters."""
        answered = False
        waiter: Waiter | CallstateError | None = None
        try:
            for line in lines:
                waiter = self._pending.take_waiter(line or b"")
                if waiter is None:
                    continue
                if isinstance(waiter, CallstateError):
                    _log.error("the daemon sent an error that answers no request: %s", waiter)
                else:
                    answered = True
                    if not waiter.done():
                        waiter.set_result(line)  # type: ignore[arg-type]  # it has an id
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            _log.error("the program listening at %s is not callstated (%s); disconnecting", self.path, error)
            source.transport.abort()
        if answered:  # not for any line: a daemon that refuses us may say so on each connection, and then hang up
            self._backoff.reset()
        is_alone = len(lines) == 1 and not self._pending
        self._at_once = is_alone and isinstance(waiter, asyncio.Future)
        if not is_alone:
            # scheduled after the tasks that this wakes, so their next requests leave in the same iteration
            self.writable()

    def lost(self, source: LineProtocol, error: Exception | None) -> None:
        """Reconnect, unless the connection had been left before."""
        if source is not self._protocol:
            return
        self._protocol = None
        self._disconnected.set()
        if not self.closed:
            self._tried = [Tried(self.path, f"the connection was lost ({error or 'closed'})", final=True)]
            self._unsent = self._pending.connection_lost()
            self._begin_reconnect()
