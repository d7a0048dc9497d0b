"""Requests that wait for their replies, without any I/O: matching by id, timeouts, and what may be sent again.

A request may be repeated on another connection if it changes nothing, or if the daemon recognizes it: a mutation
with an `op`, as long as that is among the last `OPS_REMEMBERED` of its session.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, Protocol

from msgspec import Struct

from callstate_client.errors import CallstateError, ConnectionLostError, TooLargeError
from callstate_client.protocol.messages import decode_incoming, encode_request, reply_id
from callstate_client.protocol.params import Params

OPS_REMEMBERED: Final = 16
"""The daemon remembers a session's last 16 ops. If more mutations are pending, the older ones can't be repeated."""

REPEATABLE: Final = frozenset(
    {
        "session.load", "session.delete", "session.list_active", "session.list", "session.heartbeat",
        "server.ping", "server.info", "server.stats", "server.flush",
    }
)  # fmt: skip
"""Verbs that may be done twice without harm; any other only with an `op`. A deletion has no `op` where it goes to a
daemon of the previous version, which deletes what is absent without an error."""


class Waiter(Protocol):
    """Gets the reply to a request: a future, or an object that is called at once instead of an iteration later."""

    def done(self) -> bool:
        """Whether the reply is no longer wanted."""
        ...

    def set_result(self, line: bytes, /) -> None:
        """The reply came."""
        ...

    def set_exception(self, error: Exception, /) -> None:
        """There will be none."""
        ...


class PendingRequest(Struct, eq=False):
    """A request without its reply.

    Args:
        request_id: what the reply will carry.
        line: the request.
        waiter: gets the reply.
        deadline: when it times out, seconds of the caller's clock.
        repeatable: may be sent again after the connection was lost.
        op_of: for a mutation with an `op`, the session that remembers it.
        connection: the number of the connection it was sent on last; 0 for none yet.
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
    """All pending requests of a store, in the order in which they were made."""

    def __init__(self) -> None:
        self._last_id = 0
        self._requests: dict[int, PendingRequest] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def add(
        self, method: str, params: Params | None, waiter: Waiter, *, deadline: float, op_of: str | None
    ) -> PendingRequest:
        """A new request."""
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

    def was_sent(self, waiter: Waiter) -> bool:
        """Whether the request with this waiter was sent on some connection. Looks through all of them."""
        return any(request.connection and request.waiter is waiter for request in self._requests.values())

    def drop(self, request: PendingRequest) -> None:
        """Forget a request."""
        self._requests.pop(request.request_id, None)

    def take_waiter(self, line: bytes) -> Waiter | CallstateError | None:
        """Who waits for this reply, whose request is then forgotten.

        None where nobody does any more; the error where the daemon reports one without an id.

        Raises:
            msgspec.MsgspecError, UnicodeDecodeError: no callstated would send that.
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
        """Take out the requests whose deadline has come."""
        requests = [request for request in self._requests.values() if request.deadline <= now]
        for request in requests:
            self.drop(request)
        return requests

    @property
    def next_deadline(self) -> float | None:
        """When the next request times out; None without any."""
        return min((request.deadline for request in self._requests.values()), default=None)

    def connection_lost(self) -> list[PendingRequest]:
        """Fail what may not be repeated; gives what to send on the next connection.

        That is in the order in which the requests were made, as those on one session take effect in the order sent.
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
        """There will be no replies."""
        requests, self._requests = self._requests, {}
        for request in requests.values():
            request.fail(error)
