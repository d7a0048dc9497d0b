"""Requests that wait for their replies, without any I/O: matching by id, timeouts, and what may be sent again.

A request may be repeated on another connection if it changes nothing, or if the daemon recognizes it: a mutation
with an `op`, as long as that is among the last `OPS_REMEMBERED` of its session.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from msgspec import Struct

from callstate_client.errors import CallstateError, ConnectionLostError, TooLargeError
from callstate_client.protocol.messages import decode_incoming, encode_request, reply_id
from callstate_client.protocol.params import Params
from callstate_client.protocol.waiter import Waiter

OPS_REMEMBERED: Final = 16
"""The daemon remembers a session's last 16 ops. If more mutations are pending, the older ones can't be repeated."""

REPEATABLE: Final = frozenset(
    {
        "session.load", "session.delete", "session.release", "session.list_active", "session.list",
        "session.heartbeat",
        "server.ping", "server.info", "server.stats", "server.flush",
    }
)  # fmt: skip
"""Verbs that may be executed twice without harm; others only with an `op`. A release names the epoch that it ends.
A deletion is sent without `op` to a daemon of the previous version, which reports no error if there is nothing to
delete."""


class PendingRequest(Struct, eq=False):
    """A request that waits for its reply.

    Args:
        request_id: what the reply will carry.
        line: the request.
        waiter: gets the reply.
        deadline: when it times out, by the caller's clock, seconds.
        repeatable: may be sent again after the connection was lost.
        op_of: for a mutation with an `op`, the session that remembers it.
        connection: the number of the connection that it was last sent on; 0 for none.
    """

    request_id: int
    line: bytes
    waiter: Waiter
    deadline: float
    repeatable: bool
    op_of: str | None
    connection: int = 0

    def fail(self, error: Exception) -> None:
        """There will be no reply."""
        if not self.waiter.done():
            self.waiter.set_exception(error)


class PendingRequests:
    """All pending requests of a store, oldest first."""

    def __init__(self) -> None:
        self._last_id = 0
        self._requests: dict[int, PendingRequest] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def add(
        self, method: str, params: Params | None, waiter: Waiter, *, deadline: float, op_of: str | None
    ) -> PendingRequest:
        """Add a request."""
        request_id = self._last_id = self._last_id + 1
        line = encode_request(request_id, method, params)
        request = PendingRequest(
            request_id, line, waiter, deadline, op_of is not None or method in REPEATABLE, op_of
        )
        self._requests[request_id] = request
        return request

    @property
    def are_waited_for(self) -> bool:
        """Whether the reply to any of them is still wanted."""
        return any(not request.waiter.done() for request in self._requests.values())

    def was_sent(self, waiter: object) -> bool:
        """Whether the request with this waiter was sent on any connection. Searches all requests."""
        return any(request.connection and request.waiter is waiter for request in self._requests.values())

    def drop(self, request: PendingRequest) -> None:
        """Forget a request."""
        self._requests.pop(request.request_id, None)

    def take_waiter(self, line: bytes) -> Waiter | CallstateError | None:
        """The waiter for this reply, whose request is no longer pending.

        None if there is none any more; the error if the daemon reports one without an id.

        Raises:
            msgspec.MsgspecError, UnicodeDecodeError: callstated would not send that.
        """
        request_id = reply_id(line)
        if request_id is not None:
            request = self._requests.pop(request_id, None)
            return None if request is None else request.waiter
        incoming = decode_incoming(line)
        if isinstance(incoming.id, int):
            request = self._requests.pop(incoming.id, None)
            return None if request is None else request.waiter
        return None if incoming.error is None else self._without_id(incoming.error.exception())

    def _without_id(self, error: CallstateError) -> CallstateError | None:
        if not isinstance(error, TooLargeError) or not self._requests:
            return error
        # the id was in the line that the daemon dropped, which must have been the longest
        longest = max(self._requests.values(), key=lambda request: len(request.line))
        self.drop(longest)
        longest.fail(error)
        return None

    def take_expired(self, now: float) -> list[PendingRequest]:
        """Remove and return the requests whose deadline has passed."""
        requests = [request for request in self._requests.values() if request.deadline <= now]
        for request in requests:
            self.drop(request)
        return requests

    @property
    def next_deadline(self) -> float | None:
        """When the next request times out; None if there is none."""
        return min((request.deadline for request in self._requests.values()), default=None)

    def connection_lost(self) -> list[PendingRequest]:
        """Fail the requests that may not be repeated, and return those to send on the next connection.

        They are in their original order, as mutations of one session take effect in the order sent.
        """
        mutations: Counter[str] = Counter()
        for request in reversed([*self._requests.values()]):
            if not request.connection:
                continue
            if request.op_of is not None:
                mutations[request.op_of] += 1
            if not request.repeatable or (request.op_of is not None and mutations[request.op_of] > OPS_REMEMBERED):
                self.drop(request)
                request.fail(ConnectionLostError("the connection was lost; outcome unknown"))
        return [*self._requests.values()]

    def fail_all(self, error: Exception) -> None:
        """Fail all: there will be no replies."""
        requests, self._requests = self._requests, {}
        for request in requests.values():
            request.fail(error)
