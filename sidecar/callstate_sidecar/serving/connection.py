"""One connection: bytes in, lines to the server, replies out, and bounds on both.

Requests are served in the order sent, a few lines in one turn of the loop, so that a client that sends a lot
shares the loop with the others (fair_queue.py). While lines wait here (the share of this turn is used up, the
client does not read its replies, too many of its requests wait for the store), the socket is not read from, and the
kernel's buffers exert backpressure on the client. So the bytes that either end has to buffer are bounded.

Replies are queued, not sent: they leave with the group that their requests changed or read (group_commit.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol, cast

from callstate_client.engine.long_result import Result, in_a_row
from callstate_client.engine.user import NOBODY
from callstate_client.protocol.framing import LineSplitter
from callstate_sidecar.access.peer import peer_pid, peer_user
from callstate_sidecar.serving.admission import Place
from callstate_sidecar.serving.fair_queue import SHARE_S, FairQueue
from callstate_sidecar.serving.rates import RequestRates
from callstate_sidecar.serving.resumed import Resumed

LINES_A_TURN: Final = 8
"""Lines of one connection served in one turn of the loop. Then other connections are served, and the replies leave:
a client with many requests in flight reads the first ones on another processor while the next are served. Fewer
lines would mean more groups, and a journal write for each."""

LOW_WATER_SHARE: Final = 4
"""Serving resumes once unsent replies are down to this fraction (1/4) of `limits.pending_reply_bytes`. uvloop's own
low-water mark is 16 bytes."""

HANG_UP_S: Final = 10.0
"""Seconds that a client has to read the remaining replies of a connection that is being closed."""

MAX_WAITING: Final = 1000
"""Requests of one connection that may wait for the store or a flush; at this number it is not read from."""


class Group(Protocol):
    """The group of a turn of the loop (GroupCommit), as a connection uses it."""

    def begin_alone(self, connection: ClientConnection, /) -> bool:
        """Whether to end the group as soon as the lines that this connection has received are served."""
        ...

    def end(self, now: float, /) -> None:
        """Commit the group, and let its replies leave. `now`: monotonic seconds; 0: to be read."""
        ...


class LineServer(Protocol):
    """The server, as a connection uses it."""

    @property
    def group(self) -> Group:
        """What is committed at the end of this turn of the loop."""
        ...

    @property
    def queue(self) -> FairQueue:
        """The connections whose lines wait for a later turn of the loop."""
        ...

    @property
    def held(self) -> Callable[[ClientConnection], bool] | None:
        """Whether a connection has to wait before it is served; None: never."""
        ...

    @property
    def untold(self) -> bool:
        """Whether requests that have waited for the store may be about to run."""
        ...

    @property
    def rates(self) -> RequestRates | None:
        """How many requests a second each user may have served; None: any number."""
        ...

    def connected(self, connection: ClientConnection, /) -> None:
        """A client has connected: bound its unread replies, or refuse it."""
        ...

    def disconnected(self, connection: ClientConnection, /) -> None:
        """The client has disconnected."""
        ...

    def handle(self, connection: ClientConnection, line: bytes | None, /) -> None:
        """Serve one line; None: one that was too long, and was dropped."""
        ...

    def reply_queued(self, connection: ClientConnection, /) -> None:
        """The first reply of a turn is queued: take it when it may leave."""
        ...

    def held_more(self, size: int, /) -> None:
        """This many bytes more are held: replies that were sent, or lines that are unfinished or wait."""
        ...


class ClientConnection(asyncio.Protocol):
    """One client.

    Args:
        server: serves its lines.
        line_bytes: the longest line that is accepted.
    """

    __slots__ = (
        "__weakref__", "_arrived", "_backlog", "_blocked", "_ended", "_group", "_loop", "_paused_reading",
        "_pending_bytes", "_queued", "_received_bytes", "_server", "_splitter", "ahead", "busy", "closing",
        "connected_at", "expected_bytes", "instance", "line_bytes", "member", "out", "out_bytes", "place",
        "queue", "resumed", "served_at", "told_timeout_s", "transport", "user", "waiting", "worker",
    )  # fmt: skip

    def __init__(self, server: LineServer, line_bytes: int) -> None:
        self._server = server
        self._group = server.group
        self.queue = server.queue
        self._loop = asyncio.get_running_loop()
        self._splitter = LineSplitter(line_bytes)
        self.line_bytes = line_bytes
        self._pending_bytes = 0
        self.expected_bytes = 0
        """How large the replies to waiting requests may become; this counts as unsent replies."""
        self._received_bytes = 0
        """Bytes received since the last moment at which no line was waiting."""
        self._arrived = b""
        """What arrived when the turn had no time left; it is split into lines in this connection's next turn."""
        self._backlog: deque[bytes | None] = deque()
        self._blocked = False
        self._ended = False
        self._queued = False
        self._paused_reading = False
        self.out: list[Result] = []
        self.out_bytes = 0
        self.waiting = 0
        self.busy = 0
        """How many of its requests are being worked on in steps; its later lines wait for them."""
        self.ahead = 0
        """How many of these had waited for the store; its other requests that had waited run after them."""
        self.resumed: Resumed | None = None
        """Its requests that have waited for the store and run next; None if there are none."""
        self.closing = False
        self.worker = ""
        """The worker it is registered as; empty if it is not registered."""
        self.instance = ""
        """The instance of that worker, a store of its own; empty if the client named none."""
        self.told_timeout_s = 0.0
        """The default timeout that `server.info` reported to it, seconds; 0: not yet."""
        self.user = NOBODY
        """The user who connected."""
        self.member = self.queue.member(NOBODY.uid, 0)
        """Its account of the time that it has used."""
        self.place: Place | None = None
        """Whether it counts as an ordinary or a reserved connection; None: it is refused."""
        self.connected_at = 0.0
        self.served_at = 0.0
        """When its last requests were served, monotonic seconds; 0: none yet."""
        self.transport: asyncio.Transport | None = None

    # -- asyncio.Protocol -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the client has connected."""
        self.transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        self.user = peer_user(sock)
        self.member = self.queue.member(self.user.uid, peer_pid(sock))
        self._server.connected(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is closed; an unfinished line is dropped with it."""
        self.transport = None
        self._backlog.clear()
        self._arrived = b""
        self._splitter = LineSplitter(self.line_bytes)  # now, not when the garbage collector finds this object
        self._server.disconnected(self)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes have arrived."""
        if data.find(b"\n") == len(data) - 1 < self.line_bytes and self._begins_alone():
            self._serve_alone(data[:-1])
            return
        waits = self._backlog or self._arrived
        self._received_bytes = len(data) + (self._received_bytes if waits else self._splitter.pending)
        if self._queued or not self.queue.has_time():
            self._arrived += data
            self.serve_soon()
            self._update_reading()
        else:
            self._backlog += self._splitter.feed(data)
            if self._backlog:
                self._serve_received()
        if self._backlog or self._arrived or self._splitter.pending:
            self._server.held_more(len(data))

    def _begins_alone(self) -> bool:
        """Whether a line can be served as it arrives, with nothing else to consider. If so, a group has begun."""
        server = self._server
        return (
            not (
                self._backlog or self._arrived or self._blocked or self.closing or self.waiting
                or self._splitter.unfinished or self.out_bytes > self._pending_bytes
            )
            and self.queue.has_time()
            and server.rates is None
            and (server.held is None or not server.held(self))
            and self._group.begin_alone(self)
        )  # fmt: skip

    def _serve_alone(self, line: bytes) -> None:
        """Serve a line as `serve` would, without the detour over the lines that wait: there are none."""
        self.served_at = began = monotonic()
        try:
            self._server.handle(self, line)
        finally:
            ended = monotonic()
            self.queue.served(ended - began)
            self._group.end(ended)

    def _serve_received(self) -> None:
        if self._group.begin_alone(self):
            try:
                self.serve()
            finally:
                self._group.end(0.0)
        else:
            self.serve()

    def eof_received(self) -> bool:
        """asyncio: the client sends no more (`printf … | nc -U`); it still gets all its replies."""
        self._ended = True
        self._update_reading()
        return True

    def pause_writing(self) -> None:
        """asyncio: the client does not read its replies."""
        self._blocked = True

    def bound(self, pending_reply_bytes: int) -> None:
        """Serve no more lines while there are more unsent replies than this, bytes."""
        self._pending_bytes = pending_reply_bytes
        if self.transport is not None:
            low = pending_reply_bytes // LOW_WATER_SHARE
            self.transport.set_write_buffer_limits(high=pending_reply_bytes, low=low)

    def resume_writing(self) -> None:
        """asyncio: the client reads again."""
        self._blocked = False
        self.serve_soon()

    # -- serving --------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Serve lines until none is left, the share of the turn is used up, or the client has to read first."""
        self._queued = False
        held = self._server.held
        if held is not None and held(self):
            self._update_reading()
            return
        if self.waiting and self._server.untold:  # they precede what waits here
            self.queue.served(0.0)  # to look takes time, too: else the turn would not end before they have run
            self.serve_soon()
            self._update_reading()
            return
        self.served_at = now = began = monotonic()
        until = began + SHARE_S
        if self._arrived:
            arrived, self._arrived = self._arrived, b""
            self._backlog += self._splitter.feed(arrived)
        left = LINES_A_TURN
        backlog = self._backlog
        rates = self._server.rates
        while backlog and left and not self._blocked and not self.closing:
            if self.busy or self.resumed is not None or self.out_bytes + self.expected_bytes > self._pending_bytes:
                break
            if self.waiting >= MAX_WAITING:
                break
            if rates is not None and not rates.take(self.user.uid):
                self._serve_later(rates)
                break
            self._server.handle(self, backlog.popleft())
            now = monotonic()
            left = left - 1 if now < until else 0
        self.queue.served(now - began)
        if backlog and not left:
            self.serve_soon()
        if backlog or self._paused_reading or self._ended:
            self._update_reading()

    def _serve_later(self, rates: RequestRates) -> None:
        """Its user has had as many requests served as `limits.per_uid.requests_per_s`."""
        self._queued = True

        def waited() -> None:
            rates.end_wait(self.user.uid)
            self._queued = False
            self.serve_soon()

        self._loop.call_later(rates.begin_wait(self.user.uid), waited)

    @property
    def stays(self) -> bool:
        """Whether it may be silent for ever: it is a worker's."""
        return bool(self.worker)

    @property
    def is_behind(self) -> bool:
        """Whether requests that have waited for the store are still to be done: they were sent before its lines."""
        return self.resumed is not None or self.ahead > 0

    @property
    def in_use(self) -> bool:
        """Whether a request is under way, or a reply unread."""
        return bool(self._backlog or self._arrived or self.waiting or self.unsent_bytes)

    @property
    def unsent_bytes(self) -> int:
        """Bytes of replies that are not sent yet."""
        return self.out_bytes + (self.transport.get_write_buffer_size() if self.transport else 0)

    @property
    def unserved_bytes(self) -> int:
        """Bytes received and not served yet: an unfinished line, and lines that wait, with those served since."""
        return self._received_bytes if self._backlog or self._arrived else self._splitter.pending

    @property
    def held_bytes(self) -> int:
        """Bytes kept for the client, in either direction."""
        return self.unsent_bytes + self.unserved_bytes

    def serve_soon(self) -> None:
        """Continue in the next turn of the loop that has time for it."""
        if self._backlog or self._arrived or self._ended:
            if not self._queued:
                self._queued = True
                self.queue.add(self)
        else:
            self._update_reading()

    def _update_reading(self) -> None:
        """Read from the socket only while no line waits; close after the last reply to a half-closed client."""
        if self._ended:
            done = not (self._backlog or self._arrived or self.waiting or self.out_bytes)
            if done and self.transport is not None:
                self.transport.close()
            return
        pause = bool(self._backlog or self._arrived)
        if pause is self._paused_reading or self.transport is None or self.transport.is_closing():
            return
        self._paused_reading = pause
        if pause:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def send(self, reply: Result) -> int:
        """Queue a reply for the end of this turn of the loop.

        Returns:
            its place among the replies queued, for `replace`.
        """
        out = self.out
        if not out:
            self._server.reply_queued(self)
        out.append(reply)
        self.out_bytes += len(reply)
        return len(out) - 1

    def replace(self, place: int, reply: bytes) -> None:
        """Replace a queued reply."""
        self.out_bytes += len(reply) - len(self.out[place])
        self.out[place] = reply

    def take(self) -> Result:
        """Remove and return the queued replies; `release` sends them once they may leave."""
        out, self.out = self.out, []
        return out[0] if len(out) == 1 else in_a_row(out)

    def release(self, data: Result) -> None:
        """Send replies taken before, in one write."""
        size, transport = len(data), self.transport
        self.out_bytes -= size
        self._server.held_more(size)
        if transport is not None and size:
            if isinstance(data, bytes):
                transport.write(data)
            else:
                transport.writelines(data.pieces)
            if self._ended or (self._backlog and not self._blocked):
                self.serve_soon()
        if self.closing and not self.out_bytes:
            self._hang_up()

    def flush(self) -> None:
        """Send the queued replies."""
        out, self.out = self.out, []
        self.release(out[0] if len(out) == 1 else in_a_row(out))

    def close(self) -> None:
        """Serve no more lines, and close once the queued replies have left, with their group as always."""
        self.closing = True
        if not self.out_bytes:
            self._hang_up()

    def abort(self) -> None:
        """Close at once; replies that are not sent yet are dropped."""
        self.closing = True
        if self.transport is not None:
            self.transport.abort()

    def _hang_up(self) -> None:
        """Close the transport; after HANG_UP_S even if the client has not read the rest."""
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.close()
            self._loop.call_later(HANG_UP_S, transport.abort)
