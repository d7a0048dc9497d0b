"""The daemon's connections, and each request's way from a line to a reply."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from callstate_client.engine.engine import Engine
from callstate_client.engine.interfaces import Deferred, NotCached
from callstate_client.engine.request import (
    NULL_ID,
    Asked,
    Refused,
    error_line,
    read_long_request,
    read_request,
    result_line,
)
from callstate_client.engine.verbs.save_delta import MIN_BYTES, Extending
from callstate_client.errors import (
    InternalError,
    OverloadedError,
    ShuttingDownError,
    TooLargeError,
    WireError,
)
from callstate_sidecar.config.schema import LimitsConfig
from callstate_sidecar.journal import Journal, SyncGate
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.serving.connection import Connection
from callstate_sidecar.serving.group_commit import Turn

log = logging.getLogger(__name__)


class Server:
    """Serves the connections of one daemon.

    Args:
        engine: the sessions and their rules.
        journal: takes each turn's group; None keeps no log (durability `memory`).
        metrics: counts requests and errors.
        limits: in force until `limit` is called.
        gate: where replies wait for a sync (durability `power`).
    """

    def __init__(
        self,
        engine: Engine,
        journal: Journal | None,
        metrics: Metrics,
        limits: LimitsConfig,
        gate: SyncGate | None = None,
    ) -> None:
        self._engine = engine
        self._ctx = ctx = engine.ctx
        self._metrics = metrics
        self.turn = Turn(ctx, journal, gate, metrics, self._run_again)
        self.limit(limits)
        self.connections: set[Connection] = set()
        self.stopping = False
        self.waiting = 0
        self._idle = asyncio.Event()
        self._idle.set()

    # -- connections ----------------------------------------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        """A client came."""
        if self.stopping or len(self.connections) >= self.limits.connections:
            self._metrics.count("connections_refused")
            error = (
                ShuttingDownError("the daemon is stopping")
                if self.stopping
                else OverloadedError(f"limits.connections ({self.limits.connections}) is reached")
            )
            connection.send(error_line(NULL_ID, error))
            connection.close()
            return
        self._metrics.count("connections_total")
        self.connections.add(connection)

    def disconnected(self, connection: Connection) -> None:
        """A client left."""
        self.connections.discard(connection)
        self.turn.forget(connection)
        self._engine.disconnected(connection)

    def limit(self, limits: LimitsConfig) -> None:
        """Put these limits in force: at the start, and with each reload of the configuration."""
        self.limits = self._ctx.limits = limits
        self.turn.pending_reply_bytes = limits.pending_reply_bytes
        self._ctx.events.limit = limits.events

    # -- a line ---------------------------------------------------------------------------------------------

    def handle(self, connection: Connection, line: bytes | None) -> None:
        """Serve one line; None is one that was too long."""
        if line is None:
            too_large = TooLargeError(f"the line passes limits.line_bytes ({connection.line_bytes})")
            self._refuse(connection, NULL_ID, too_large)
            return
        try:
            asked = read_request(line) if len(line) < MIN_BYTES else read_long_request(line, self._ctx.cache)
        except Refused as refused:
            self._refuse(connection, refused.request_id, refused.error)
            return
        if asked is None:
            return
        self._metrics.requests[asked.verb.method] += 1
        if self.stopping:
            self._answer(connection, asked, ShuttingDownError("the daemon is stopping"))
        else:
            self._run(connection, asked)

    def _refuse(self, connection: Connection, request_id: bytes | None, error: WireError) -> None:
        self._metrics.count_error(error.kind)
        if request_id is not None:
            connection.send(error_line(request_id, error))

    # -- a call ---------------------------------------------------------------------------------------------

    def _run(self, connection: Connection, asked: Asked) -> None:
        ctx = self._ctx
        group = ctx.cache.group
        before = len(group)
        result: bytes | Exception
        try:
            outcome = self._engine.run(connection, asked.verb, asked.params)
            if isinstance(outcome, Deferred):
                self._wait(connection)
                outcome.start(lambda done: self._waited(connection, asked, done))
                return
            result = outcome
        except NotCached as miss:
            self._wait(connection)
            ctx.host.when_known(miss.session_id, lambda: self._known(connection, asked))
            return
        except Exception as error:  # noqa: BLE001 - each becomes an error reply; our own faults are logged
            result = error
        self._answer(connection, asked, result, len(group) > before)

    def _run_again(self, connection: Connection, asked: Asked) -> None:
        """Answer anew what had seen a group that was undone."""
        if isinstance(asked.params, Extending):  # what it repeated may be kept no more
            asked = read_request(asked.params.line) or asked
        self._run(connection, asked)

    def _answer(
        self, connection: Connection, asked: Asked, result: bytes | Exception, changed: bool = False
    ) -> None:
        """Queue the reply."""
        request_id = asked.request_id
        place = -1
        if isinstance(result, Exception):
            error = self._error_of(asked, result)
            if request_id is not None:
                place = connection.send(error_line(request_id, error))
        elif request_id is not None:
            place = connection.send(result_line(request_id, result))
        if self._ctx.cache.group:
            self.turn.answered(connection, asked, place, changed)

    def _error_of(self, asked: Asked, failure: Exception) -> WireError:
        """What the client is told of a failure: the daemon's own faults are for its log."""
        if isinstance(failure, WireError):
            error = failure
        else:
            error = InternalError("see the daemon's log")
            log.error("%s failed", asked.verb.method, exc_info=failure)
        self._metrics.count_error(error.kind)
        return error

    # -- calls that wait --------------------------------------------------------------------------------------

    def _wait(self, connection: Connection) -> None:
        self.waiting += 1
        self._idle.clear()
        connection.waiting += 1

    def _known(self, connection: Connection, asked: Asked) -> None:
        self._waited_enough(connection)
        if connection.unsent_bytes <= self.limits.pending_reply_bytes:
            self._run(connection, asked)
        else:  # a thousand may have waited for one session of megabytes: their replies are not piled up
            unread = OverloadedError("limits.pending_reply_bytes is reached: nothing was done, read replies first")
            self._answer(connection, asked, unread)

    def _waited(self, connection: Connection, asked: Asked, result: bytes | Exception) -> None:
        self._waited_enough(connection)
        self._answer(connection, asked, result)

    def _waited_enough(self, connection: Connection) -> None:
        self.waiting -= 1
        if not self.waiting:
            self._idle.set()
        connection.waiting -= 1
        connection.serve_soon()

    async def answered(self, timeout_s: float) -> None:
        """Wait until every request under way has its reply, or the time is up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        await self.turn.drained()
