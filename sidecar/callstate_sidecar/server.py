"""Lines to verbs, and verbs to replies: one group of changes a turn of the loop, journaled before it is told."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET, Struct

from callstate_client.errors import (
    InternalError,
    InvalidRequestError,
    MethodNotFoundError,
    NotDurableError,
    OverloadedError,
    ParseError,
    ShuttingDownError,
    TooLargeError,
    WireError,
)
from callstate_client.protocol import Request, encode_json
from callstate_sidecar.commands import VERBS, Context, Later, Miss, Verb
from callstate_sidecar.connection import Connection
from callstate_sidecar.entry import Entry
from callstate_sidecar.journal import Journal, SyncGate
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.options import LimitsConfig

log = logging.getLogger(__name__)

_NULL: Final = b"null"
_decode_request = msgspec.json.Decoder(Request).decode


class _IdOnly(Struct):
    id: str | int | float | None = None


_decode_id = msgspec.json.Decoder(_IdOnly).decode


class Call(NamedTuple):
    """One request under way. `request_id` is JSON, or None: a notification."""

    connection: Connection
    request_id: bytes | None
    method: str
    verb: Verb
    params: object


class Server:
    """Serves the connections of one daemon.

    Args:
        ctx: the sessions.
        journal: takes each group before its replies leave; None keeps no log (durability `memory`).
        gate: where replies wait for a sync (durability `power`); None lets them leave at once.
        metrics: counts requests and errors.
        max_connections: more are told `overloaded` and closed.
    """

    def __init__(
        self,
        ctx: Context,
        journal: Journal | None,
        metrics: Metrics,
        max_connections: int,
        gate: SyncGate | None = None,
    ) -> None:
        self._ctx = ctx
        self._journal = journal
        self._gate = gate
        self._metrics = metrics
        self._max_connections = max_connections
        self._loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self._touched: dict[Connection, None] = {}
        self._turn_scheduled = False
        self._since_change: list[tuple[Call, int, bool]] = []
        self.stopping = False
        self.waiting = 0
        self._refusing = False
        self._idle = asyncio.Event()
        self._idle.set()

    # -- connections ----------------------------------------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        """A client came."""
        if self.stopping or len(self.connections) >= self._max_connections:
            self._metrics.count("connections_refused")
            error = (
                ShuttingDownError("the daemon is stopping")
                if self.stopping
                else OverloadedError(f"limits.connections ({self._max_connections}) is reached")
            )
            connection.send(_error_line(_NULL, error))
            connection.close()
            return
        self._metrics.count("connections_total")
        self.connections.add(connection)

    def disconnected(self, connection: Connection) -> None:
        """A client left."""
        self.connections.discard(connection)
        self._touched.pop(connection, None)

    @property
    def limits(self) -> LimitsConfig:
        """The bounds in force; a reload replaces them."""
        return self._ctx.limits

    @property
    def journal_state(self) -> str:
        """`ok`, or `failing` while the journal takes no writes."""
        return "failing" if self._refusing else "ok"

    def touched(self, connection: Connection) -> None:
        """A reply is queued there: it leaves when this turn's group is down."""
        self._touched[connection] = None
        self._schedule_turn()

    # -- a line ---------------------------------------------------------------------------------------------

    def handle(self, connection: Connection, line: bytes | None) -> None:
        """Serve one line; None is one that was too long."""
        if line is None:
            limit = self._ctx.limits.line_bytes
            self._refuse(connection, _NULL, TooLargeError(f"the line passes limits.line_bytes ({limit})"))
            return
        try:
            call = self._call(connection, line)
        except WireError as error:
            if not line.isspace() and line:
                self._refuse(connection, _id_of(line, error), error)
            return
        if call is None:
            return
        self._metrics.requests[call.method] = self._metrics.requests.get(call.method, 0) + 1
        if self.stopping:
            self._answer(call, ShuttingDownError("the daemon is stopping"))
        else:
            self._run(call)

    def _call(self, connection: Connection, line: bytes) -> Call | None:
        """The request a line is; None for a notification that can't be one of ours."""
        try:
            if not line.isascii():
                line.decode()  # what is passed through is not looked at again
            request = _decode_request(line)
        except UnicodeDecodeError as error:
            raise ParseError(f"not UTF-8: {error.reason} at byte {error.start}") from error
        except msgspec.ValidationError as error:
            raise InvalidRequestError(f"not a JSON-RPC 2.0 request: {error}") from error
        except msgspec.DecodeError as error:
            raise ParseError(str(error)) from error
        except RecursionError as error:
            raise ParseError("nested too deep") from error
        if request.jsonrpc != "2.0":
            raise InvalidRequestError('expected "jsonrpc":"2.0"')
        request_id = None if request.id is UNSET else encode_json(request.id)
        verb = VERBS.get(request.method)
        if verb is None:
            unknown = MethodNotFoundError(f"no method {request.method[:64]}")
            self._refuse(connection, request_id, unknown)
            return None
        try:
            params = verb.params(request.params)
        except WireError as error:
            self._refuse(connection, request_id, error)
            return None
        return Call(connection, request_id, request.method, verb, params)

    def _refuse(self, connection: Connection, request_id: bytes | None, error: WireError) -> None:
        self._metrics.count_error(error.kind)
        if request_id is not None:
            connection.send(_error_line(request_id, error))

    # -- a call ---------------------------------------------------------------------------------------------

    def _run(self, call: Call) -> None:
        group = self._ctx.cache.group
        before = len(group)
        result: bytes | Exception
        try:
            outcome = call.verb.run(self._ctx, call.params)
            if isinstance(outcome, Later):
                self._wait(call)
                outcome.start(lambda done: self._waited(call, done))
                return
            result = outcome
        except Miss as miss:
            self._wait(call)
            self._ctx.services.when_known(miss.session_id, lambda: self._known(call))
            return
        except Exception as error:  # noqa: BLE001 - each becomes an error reply; _answer logs our own faults
            result = error
        self._answer(call, result, changed=len(group) > before)

    async def answered(self, timeout_s: float) -> None:
        """Wait until every request under way has its reply, or the time is up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        self.end_turn()
        if self._gate is not None:
            await self._gate.drained()

    def _wait(self, call: Call) -> None:
        self.waiting += 1
        self._idle.clear()
        call.connection.waiting += 1

    def _known(self, call: Call) -> None:
        self._waited_enough(call)
        if call.connection.unsent_bytes <= self.limits.pending_reply_bytes:
            self._run(call)
        else:  # a thousand may have waited for one session of megabytes: their replies are not piled up
            unread = OverloadedError("limits.pending_reply_bytes is reached: nothing was done, read replies first")
            self._answer(call, unread)

    def _waited(self, call: Call, result: bytes | Exception) -> None:
        self._waited_enough(call)
        self._answer(call, result)

    def _waited_enough(self, call: Call) -> None:
        self.waiting -= 1
        if not self.waiting:
            self._idle.set()
        call.connection.waiting -= 1
        call.connection.serve_soon()

    def _answer(self, call: Call, result: bytes | Exception, *, changed: bool = False) -> None:
        """Queue the reply. While a group is open the call is remembered, for the group may yet fail."""
        request_id = call.request_id
        place = -1
        if isinstance(result, Exception):
            error = self._error_of(call, result)
            if request_id is not None:
                place = call.connection.send(_error_line(request_id, error))
        elif request_id is not None:
            place = call.connection.send(b'{"jsonrpc":"2.0","id":%b,"result":%b}\n' % (request_id, result))
        if self._ctx.cache.group:
            self._since_change.append((call, place, changed))
            self._schedule_turn()

    def _error_of(self, call: Call, failure: Exception) -> WireError:
        """What the client is told of a failure: the daemon's own faults are for its log."""
        if isinstance(failure, WireError):
            error = failure
        else:
            error = InternalError("see the daemon's log")
            log.error("%s failed", call.method, exc_info=failure)
        self._metrics.count_error(error.kind)
        return error

    # -- the turn -------------------------------------------------------------------------------------------

    def _schedule_turn(self) -> None:
        if not self._turn_scheduled:
            self._turn_scheduled = True
            self._loop.call_soon(self.end_turn)

    def end_turn(self) -> None:
        """Put this turn's group down, then let its replies leave."""
        self._turn_scheduled = False
        self.commit()
        touched, self._touched = self._touched, {}
        if self._gate is not None:
            self._gate.hold(touched)
            return
        for connection in touched:
            connection.flush()

    def commit(self) -> None:
        """Put the open group down, or undo it where the journal does not take it."""
        while group := self._ctx.cache.group:  # again, where what is answered anew makes a change this time
            try:
                if self._journal is not None:
                    self._journal.append(group)
            except Exception as error:  # noqa: BLE001 - ours too: a group left open would hold up everybody
                self._undo(error)
            else:
                self._refusing = False
                self._ctx.cache.commit()
                self._since_change.clear()

    def _undo(self, error: Exception) -> None:
        """The group is not down: take it back, say so, and answer again what had read it."""
        self._metrics.count("groups_not_durable")
        if not self._refusing:  # once, not for every write of a bad hour
            self._refusing = True
            fault = None if isinstance(error, OSError) else error  # a fault of ours: with its traceback
            log.error(
                "the journal does not take writes: %s; they are refused as not_durable", error, exc_info=fault
            )
        calls, self._since_change = self._since_change, []
        for undone in self._ctx.cache.rollback():
            if isinstance(undone, Entry):
                if undone.ended:
                    self._ctx.liveness.keep(undone.id, self._ctx.clock.live())
                else:
                    self._ctx.watch(undone)
            else:
                self._ctx.liveness.forget(undone)
        why = getattr(error, "strerror", None) or "see the daemon's log"
        refusal = NotDurableError(f"the journal could not be written, nothing was changed: {why}")
        for call, place, changed in calls:
            if place >= 0:
                call.connection.replace(place, _error_line(call.request_id or _NULL, refusal) if changed else b"")
            if not changed:
                self._run(call)


def _error_line(request_id: bytes, error: WireError) -> bytes:
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}\n' % (request_id, encode_json(error.to_wire()))


def _id_of(line: bytes, error: WireError) -> bytes:
    """The id to answer a bad line with: null unless the line is an object that has a usable one."""
    if isinstance(error, ParseError):
        return _NULL
    try:
        return encode_json(_decode_id(line).id)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _NULL
