"""How the blocking front sends a request and waits for its reply; the verbs are built on it.

Safe to use from many threads. A forked child is another worker, with connections of its own: what belongs to one
process only is a `PerProcess`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic
from typing import Final, Generic, TypeVar

from callstate_client import protocol, requests
from callstate_client.errors import (
    ConnectionLostError,
    NoDaemonError,
    RequestTimeoutError,
    ShuttingDownError,
    StoreClosedError,
)
from callstate_client.requests import PreparedRequest
from callstate_client.telemetry import Telemetry
from callstate_client.transport.backoff import RESTART, Backoff
from callstate_client.transport.blocking import REQUEST_ID
from callstate_client.transport.identity import Identity
from callstate_client.transport.pending import REPEATABLE
from callstate_client.transport.pool import Pool
from callstate_client.uncopied import Uncopied

HEARTBEAT_REPLY: Final = b'{"jsonrpc":"2.0","id":%d,"result":{}}\n' % REQUEST_ID
"""The reply to nearly every heartbeat; compared instead of parsed."""

HEARTBEAT_LINES: Final = 4096
"""Sessions whose encoded heartbeat is cached: more than a worker holds; with the longest ids it takes 1.5 MiB."""

ResultT = TypeVar("ResultT")
ValueT = TypeVar("ValueT")


class PerProcess(Generic[ValueT]):
    """A value that a forked child does not share with its parent.

    The pid is read at each access: a fork in C, such as uWSGI's, runs no hook of ours.

    Args:
        value: of this process.
        in_child: makes a child's, at its first access there.
    """

    def __init__(self, value: ValueT, in_child: Callable[[], ValueT]) -> None:
        self._values = {os.getpid(): value}
        self._in_child = in_child

    def get(self) -> ValueT:
        """The value of the calling process; all of its threads get the same one."""
        pid = os.getpid()
        if pid not in self._values:
            self._values.setdefault(pid, self._in_child())
        return self._values[pid]


class Requester(Uncopied):
    """Sends requests, each over a connection that it has to itself meanwhile, and waits for the reply.

    Args:
        pool: the connections.
        identity: the worker that sessions are claimed for, whether or not the connections are registered for it.
    """

    instead = "share this one within the process, and make one with connect() in another"

    def __init__(self, pool: Pool, identity: PerProcess[Identity]) -> None:
        self._pool = pool
        self._identity = identity
        self._redaction: requests.Redaction | None = None
        self._telemetry: Telemetry | None = None
        self._ops = requests.Ops()
        self._heartbeat_lines: dict[str, bytes] = {}

    def _observe(self, telemetry: Telemetry | None) -> None:
        """Report to this observer from now on."""
        self._telemetry = telemetry
        if telemetry is not None:
            self.request = telemetry.observed(self.request)  # type: ignore[method-assign]

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._pool.closed

    @property
    def worker_id(self) -> str:
        """The worker that sessions are claimed under. If `connect()` was given none, it is a random one, and the
        connections are not registered: what is created here has no owner, and an owner is known by its heartbeats
        alone. A forked child is another worker."""
        return self._identity.get().worker_id

    def new_op(self) -> str:
        """A unique name for one mutation."""
        return self._ops.new()

    def request(
        self,
        method: str,
        params: protocol.Params | None = None,
        *,
        op_of: str | None = None,
        timeout_s: float | None = None,
    ) -> bytes:
        """Send a request of the protocol. Returns the reply's line, for one of protocol's decoders.

        Args:
            method: the verb.
            params: of the verb's class.
            op_of: for a mutation with an `op`, the session that remembers it: it may be sent twice.
            timeout_s: seconds; None for the store's own.
        """
        if self.closed:
            raise StoreClosedError
        line = protocol.encode_request(REQUEST_ID, method, params)
        if op_of is not None:
            return self._pool.mutate(line, op_of, timeout_s)
        return self._pool.exchange(line, timeout_s, lambda: method in REPEATABLE)

    def update_heartbeat(self, session_id: str, *, timeout_s: float | None = None) -> None:
        """Send a heartbeat for this call, which changes nothing else.

        Raises:
            SessionNotFoundError, SessionEndedError: the call is over.
            FencedError: another worker holds it.
        """
        line = self._heartbeat_lines.get(session_id) or self._new_heartbeat_line(session_id)
        reply = self._pool.exchange(line, timeout_s)
        if reply != HEARTBEAT_REPLY:
            try:
                protocol.decode_empty(reply)
            except ShuttingDownError:  # from here it is sent again, if the daemon is stopping
                self._execute(requests.heartbeat(session_id), timeout_s)

    def _new_heartbeat_line(self, session_id: str) -> bytes:
        if self.closed:
            raise StoreClosedError
        request = requests.heartbeat(session_id)
        if len(self._heartbeat_lines) >= HEARTBEAT_LINES:  # most are of calls that ended long ago
            self._heartbeat_lines.clear()
        line = protocol.encode_request(REQUEST_ID, request.method, request.params)
        self._heartbeat_lines[session_id] = line
        return line

    def _execute(
        self, request: PreparedRequest[ResultT], timeout_s: float | None, epoch: int | None = None
    ) -> ResultT:
        """Send a request and decode its reply. If the daemon refuses it as it is stopping, the next one gets it.

        Args:
            request: what to send.
            timeout_s: seconds; None for the store's own.
            epoch: the fencing token of a mutation; None for none.
        """
        requests.fenced(request, epoch)
        until = monotonic() + (self._pool.timeout_s if timeout_s is None else timeout_s)
        reply = self.request(request.method, request.params, op_of=request.op_of, timeout_s=timeout_s)
        try:
            return request.result(reply)
        except ShuttingDownError as refused:
            self._wait_answering(until, refused)
        left_s = until - monotonic()
        reply = self.request(request.method, request.params, op_of=request.op_of, timeout_s=left_s)
        return request.result(reply)

    def _wait_answering(self, until: float, refused: ShuttingDownError) -> None:
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
                protocol.decode_empty(self.request("server.ping", timeout_s=until - monotonic()))
            except ShuttingDownError:
                pause_s = backoff.pause_s()
                if monotonic() + pause_s >= until:
                    raise refused from None
            except (NoDaemonError, ConnectionLostError, RequestTimeoutError) as error:
                raise refused from error
            else:
                return
            self._pool.wait(pause_s)
