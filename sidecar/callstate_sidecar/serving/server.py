"""The daemon's connections, and each request's way from a line to a reply.

A request runs at once, in the turn of the loop in which its line is read. Its reply is queued on the connection
and leaves with the group (group_commit.py). A request for a session that the daemon does not have (NotCached) runs
again after the store was read; one that takes time itself (Deferred: a flush, a listing of the store) is answered
when its result arrives, and one that has much to do (InSteps: a listing, thousands of turns) is worked on for a
share of each turn. Waiting requests are counted per connection, which is not read from beyond a bound.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Final

from callstate_client.engine.engine import Engine
from callstate_client.engine.interfaces import Deferred, InSteps, NotCached, NotOurs, Steps
from callstate_client.engine.limits import user_share
from callstate_client.engine.long_result import LongResult, Result
from callstate_client.engine.request import (
    NULL_ID,
    BadRequest,
    DecodedRequest,
    error_line,
    id_at_start,
    long_line,
    read_long_request,
    read_request,
    result_line,
)
from callstate_client.engine.sessions.parts import NotJournaled
from callstate_client.engine.table.readings import Reading
from callstate_client.engine.user import User
from callstate_client.engine.verbs.save_delta import MIN_BYTES, Extending
from callstate_client.errors import (
    InternalError,
    NotDurableError,
    OverloadedError,
    ParseError,
    ShuttingDownError,
    TooLargeError,
    WireError,
)
from callstate_sidecar.config.schema import LimitsConfig
from callstate_sidecar.journal import Journal, SyncGate
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.serving.admission import RESERVE_VERBS, Place
from callstate_sidecar.serving.connection import ClientConnection
from callstate_sidecar.serving.connections import Connections
from callstate_sidecar.serving.dense_lines import LONG_BYTES, DenseLine, may_be_dense
from callstate_sidecar.serving.fair_queue import SHARE_S, FairQueue, Member
from callstate_sidecar.serving.group_commit import GroupCommit
from callstate_sidecar.serving.rates import RequestRates
from callstate_sidecar.serving.unread import UnreadReplies

log = EventLog(__name__)

_RESERVED: Final = Place.RESERVED
"""Looked up once: a member of an enum takes several times as long as a global name."""


class _Work:
    """A request that is worked on in steps. For each turn of the loop it waits in the queue like its connection.

    Args:
        connection: the connection that sent it.
        request: the request.
        steps: the work.
        advance: does one turn's share of the work.
        reading: what was read from the store for it; if that session did not become hot, all steps see it.
        has_waited: it had waited for the store, so other requests that did run only after it.
    """

    __slots__ = ("_advance", "connection", "has_waited", "reading", "request", "steps", "undone")

    def __init__(
        self,
        connection: ClientConnection,
        request: DecodedRequest,
        steps: Steps,
        advance: Callable[[_Work], None],
        reading: Reading | None,
        *,
        has_waited: bool,
    ) -> None:
        self.connection = connection
        self.request = request
        self.steps = steps
        self._advance = advance
        self.reading = reading
        self.has_waited = has_waited
        self.undone: list[NotDurableError] = []
        """The reason, once something that a step may have seen was rolled back."""

    @property
    def member(self) -> Member:
        """The connection whose time it takes."""
        return self.connection.member

    def serve(self) -> None:
        """Do one turn's share of the work, and charge the connection for the time."""
        began = monotonic()
        self._advance(self)
        self.connection.queue.served(monotonic() - began)


class Server:
    """Serves the connections of one daemon.

    Args:
        engine: the sessions and their rules.
        journal: receives each group; None: there is no log (durability `memory`).
        metrics: counts requests and errors.
        limits: in force until `limit` is called.
        gate: holds replies until a sync (durability `power`).
        fit: how many connections the limit on open files has room for.
    """

    _groups = GroupCommit

    def __init__(
        self,
        engine: Engine,
        journal: Journal | None,
        metrics: Metrics,
        limits: LimitsConfig,
        gate: SyncGate | None = None,
        fit: int = sys.maxsize,
    ) -> None:
        self._engine = engine
        self._table = engine.table
        self._tx = engine.tx
        self._metrics = metrics
        self.group = self._groups(engine.ctx, journal, gate, metrics, self._run_again)
        self.reply_queued = self.group.reply_queued
        self.clients = Connections(engine.events, metrics, fit)
        self.connections = self.clients.open
        self.queue = FairQueue(asyncio.get_running_loop(), self._took_long, self.group.end)
        self._method = ""
        """The method of the latest request, for what is logged about it."""
        self._has_waited = False
        """Whether the request that is being run has waited for the store."""
        self._unread = UnreadReplies(self.connections, self._cut_off)
        self.held_more = self._unread.held_more
        self.rates: RequestRates | None = None
        self.limit(limits)
        self.held: Callable[[ClientConnection], bool] | None = None
        """Whether a connection has to wait before it is served, because the daemon was away; None: never."""
        self.waiting = 0
        self._idle = asyncio.Event()
        self._idle.set()

    # -- connections ----------------------------------------------------------------------------------------

    def connected(self, connection: ClientConnection) -> None:
        """A client has connected. If there is no room for it, it gets an error and is closed."""
        if self.clients.enter(connection):
            connection.bound(self._unread.share_bytes)

    def disconnected(self, connection: ClientConnection) -> None:
        """A client has disconnected."""
        self.clients.leave(connection)
        self.group.forget(connection)
        self._engine.disconnected(connection)

    def _cut_off(self, connections: int) -> None:
        self._metrics.count("connections_cut_off", connections)

    def _took_long(self, took_s: float) -> None:
        self._metrics.long_turns.note(self._method, took_s)

    def limit(self, limits: LimitsConfig) -> None:
        """Apply these limits: at the start, and with each reload of the configuration."""
        self.limits = self._engine.ctx.limits = limits
        self.group.pending_reply_bytes = limits.pending_reply_bytes
        self._unread.limit(limits.pending_reply_bytes, limits.reply_bytes_total)
        self._engine.events.ring.limit = limits.events
        self._engine.ctx.user_sessions = self._user_sessions
        self.clients.limit(limits)
        per_s = limits.per_uid.requests_per_s
        if per_s != (0 if self.rates is None else self.rates.per_s):
            self.rates = RequestRates(per_s, monotonic) if per_s else None

    def _user_sessions(self, user: User) -> int:
        limits, operator = self.limits, self.clients.access.is_operator(user)
        return user_share(limits.per_uid.sessions, limits.sessions, is_operator=operator)

    # -- a line ---------------------------------------------------------------------------------------------

    def handle(self, connection: ClientConnection, line: bytes | None, *, is_counted: bool = False) -> None:
        """Serve one line; None stands for one that was too long.

        Args:
            connection: the connection that it came on.
            line: the line.
            is_counted: it was checked for too many values already.
        """
        if line is None:
            too_large = TooLargeError(f"the line exceeds limits.line_bytes ({connection.line_bytes})")
            self._refuse(connection, NULL_ID, too_large)
            return
        if len(line) >= LONG_BYTES and not is_counted and may_be_dense(line):
            self._begin_waiting(connection)
            DenseLine(connection, line, self)
            return
        try:
            request = read_request(line) if len(line) < MIN_BYTES else read_long_request(line, self._table)
        except BadRequest as refused:
            self._refuse(connection, refused.request_id, refused.error)
            return
        if request is None:
            return
        self._method = request.verb.method
        self._metrics.requests[self._method] += 1
        if self.clients.stopping:
            self._answer(connection, request, ShuttingDownError("the daemon is stopping"))
        elif connection.place is _RESERVED and request.verb.method not in RESERVE_VERBS:
            full = f"limits.connections ({self.clients.most}) is reached: no workers, and no changes"
            self._answer(connection, request, OverloadedError(full))
            connection.close()
        else:
            self._run(connection, request)

    def _refuse(self, connection: ClientConnection, request_id: bytes | None, error: WireError) -> None:
        self._metrics.count_error(error.kind)
        if request_id is not None:
            connection.send(error_line(request_id, error))

    def counted(self, connection: ClientConnection, line: bytes, refusal: WireError | None) -> None:
        """Go on with a line that was checked for too many values. `refusal`: the error, if it has too many."""
        self._end_waiting(connection)
        if refusal is None:
            self.handle(connection, line, is_counted=True)
        else:
            request_id = NULL_ID if isinstance(refusal, ParseError) else id_at_start(line)
            self._refuse(connection, request_id, refusal)

    # -- a request ---------------------------------------------------------------------------------------------

    def _run(self, connection: ClientConnection, request: DecodedRequest) -> None:
        group = self._tx.records
        before = len(group)
        try:
            outcome = self._engine.run(connection, request.verb, request.params)
            if not isinstance(outcome, bytes):
                self._take_time(connection, request, outcome, len(group) > before)
                return
        except (NotCached, NotJournaled, NotOurs) as need:
            self._begin_waiting(connection)
            self._run_once_read(connection, request, need)
            return
        except Exception as error:  # noqa: BLE001 - each becomes an error reply; bugs are logged
            # answered here: a variable that outlives this clause would form a cycle with the error's traceback
            self._answer(connection, request, error, len(group) > before)
        else:
            request_id = request.request_id
            place = -1 if request_id is None else connection.send(result_line(request_id, outcome))
            if group:
                self.group.request_answered(connection, request, place, len(group) > before)
            elif place < 0:  # the events of a notification leave although no reply does
                self.group.schedule()

    def _run_again(self, connection: ClientConnection, request: DecodedRequest) -> None:
        """Run a request again whose reply was part of a group that was rolled back."""
        if isinstance(request.params, Extending):  # the history that it repeats may have changed
            request = read_request(request.params.line) or request
        self._run(connection, request)

    def _answer(
        self,
        connection: ClientConnection,
        request: DecodedRequest,
        result: Result | Exception,
        changed: bool = False,
    ) -> None:
        """Queue the reply."""
        request_id = request.request_id
        place = -1
        if isinstance(result, Exception):
            error = self._error_of(request, result)
            if request_id is not None:
                place = connection.send(error_line(request_id, error))
        elif request_id is not None:
            reply = result_line(request_id, result) if isinstance(result, bytes) else long_line(request_id, result)
            place = connection.send(reply)
        if self._tx.records:
            self.group.request_answered(connection, request, place, changed)
        elif place < 0:  # see above
            self.group.schedule()

    def _error_of(self, request: DecodedRequest, failure: Exception) -> WireError:
        """The error for the client; the details of a bug go to the log instead."""
        if isinstance(failure, WireError):
            error = failure
        else:
            error = InternalError("see the daemon's log")
            log.error(
                "request_failed", "%s failed", request.verb.method, exc_info=failure, method=request.verb.method
            )
        self._metrics.count_error(error.kind)
        return error

    # -- requests that wait -----------------------------------------------------------------------------------

    def _begin_waiting(self, connection: ClientConnection) -> None:
        self.waiting += 1
        self._idle.clear()
        connection.waiting += 1

    def _end_waiting(self, connection: ClientConnection) -> None:
        self.waiting -= 1
        if not self.waiting:
            self._idle.set()
        connection.waiting -= 1
        connection.serve_soon()

    def _run_once_read(
        self, connection: ClientConnection, request: DecodedRequest, need: NotCached | NotJournaled | NotOurs
    ) -> None:
        host = self._engine.ctx.host
        if isinstance(need, NotCached):
            host.when_known(connection, need.session_id, lambda: self._run_waiting(connection, request))
        elif isinstance(need, NotJournaled):
            host.when_written(connection, need.session, lambda: self._run_waiting(connection, request))
        else:
            host.when_taken(connection, need, lambda: self._run_waiting(connection, request))

    @property
    def untold(self) -> bool:
        """Whether requests that have waited for the store may be about to run."""
        return self._table.readings.untold > 0

    def _run_waiting(self, connection: ClientConnection, request: DecodedRequest) -> None:
        """Run a request after the store was read for its session."""
        self._method = request.verb.method
        self._end_waiting(connection)
        if connection.unsent_bytes <= self._unread.share_bytes:
            self._has_waited = True
            try:
                self._run(connection, request)
            finally:
                self._has_waited = False
        else:  # a thousand may have waited for one session of megabytes: don't queue that many replies
            unread = OverloadedError("limits.pending_reply_bytes is reached: nothing was done, read replies first")
            self._answer(connection, request, unread)

    def _take_time(
        self,
        connection: ClientConnection,
        request: DecodedRequest,
        outcome: LongResult | Deferred | InSteps,
        changed: bool,
    ) -> None:
        """Answer once the result is there."""
        if isinstance(outcome, LongResult):
            self._answer(connection, request, outcome, changed)
            return
        self._begin_waiting(connection)
        if isinstance(outcome, InSteps):
            connection.busy += 1
            connection.ahead += self._has_waited
            reading = self._engine.ctx.reading
            if reading is not None:
                self._table.readings.keep(reading)
            work = _Work(
                connection, request, outcome.work, self._advance, reading, has_waited=self._has_waited
            )  # fmt: skip
            self._go_on_later(work)
        else:
            self._await(connection, request, outcome, changed, [])

    def _await(
        self, connection: ClientConnection, request: DecodedRequest, deferred: Deferred, changed: bool,
        undone: list[NotDurableError],
    ) -> None:  # fmt: skip
        """Answer when the result arrives. If what it depends on is rolled back before, `undone` gets the reason."""
        connection.expected_bytes += deferred.reply_bytes
        connection.waiting += deferred.waiting - 1
        if self._tx.records:
            self._tx.after_rollback.append(undone.append)

        def finished(done: Result | Exception) -> None:
            connection.expected_bytes -= deferred.reply_bytes
            connection.waiting -= deferred.waiting - 1
            if undone and changed:  # running it again would change something again, which may be undone again
                done = undone[0]
            self._answer_deferred(connection, request, done, bool(undone) and not changed)

        deferred.start(finished)

    def _go_on_later(self, work: _Work) -> None:
        """Go on in a later turn: reading a long line has already taken its share of this one."""
        if self._tx.records:
            self._tx.after_rollback.append(work.undone.append)
        self.queue.add(work)

    def _advance(self, work: _Work) -> None:
        """Do one turn's share of a request's work; the rest is done in later turns of the loop."""
        connection, request, group = work.connection, work.request, self._tx.records
        if not work.has_waited and (connection.is_behind or self.untold):
            self.queue.add(work)
            return
        self._method = request.verb.method
        now = monotonic()
        self._metrics.long_turns.begin(now)
        before, until = len(group), now + SHARE_S
        result: Result | Deferred | Exception
        ctx = self._engine.ctx
        ctx.show(work.reading)
        try:
            next(work.steps)
            while monotonic() < until:
                next(work.steps)
        except StopIteration as end:
            result = end.value
        except (NotCached, NotJournaled, NotOurs) as need:
            self._end_work(work)
            self._run_once_read(connection, request, need)
            if work.has_waited and connection.resumed is not None and isinstance(need, NotCached):
                connection.resumed.wait_again(need.session_id)
            return
        except Exception as error:  # noqa: BLE001 - as in `_run`
            result = error
        else:
            self._go_on_later(work)
            return
        finally:
            ctx.hide()
        self._end_work(work)
        changed = len(group) > before
        if isinstance(result, Deferred):
            self._await(connection, request, result, changed, work.undone)
        else:
            again = bool(work.undone) and not changed
            self._answer_deferred(connection, request, result, again, changed)
        del result  # an error would form a cycle with its traceback, which has this frame

    def _end_work(self, work: _Work) -> None:
        """Forget the work, and serve the connection's next requests."""
        if work.reading is not None:
            self._table.readings.let_go(work.reading)
        work.connection.busy -= 1
        work.connection.ahead -= work.has_waited
        work.connection.serve_soon()

    def _answer_deferred(
        self,
        connection: ClientConnection,
        request: DecodedRequest,
        result: Result | Exception,
        again: bool,
        changed: bool = False,
    ) -> None:
        if again:
            self._run_waiting(connection, request)
            return
        self._end_waiting(connection)
        self._answer(connection, request, result, changed)

    async def answered(self, timeout_s: float) -> None:
        """Wait until every request in flight is answered, or the time is up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        await self.group.drained()
