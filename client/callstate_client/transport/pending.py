"""The requests under way on one connection, without any I/O: whose reply it is, what is late, what is repeated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from msgspec import Struct

from callstate_client.errors import CallstateError, ConnectionLostError, TooLargeError
from callstate_client.protocol.messages import (
    decode_incoming,
    encode_request,
    reply_id,
)
from callstate_client.protocol.params import (
    Params,
)

OPS_REMEMBERED: Final = 16
"""The daemon knows a session's last 16 ops. Of more mutations under way, the older ones can't be repeated."""

REPEATABLE: Final = frozenset(
    {
        "session.load", "session.delete", "session.list_active", "session.list", "session.heartbeat",
        "server.ping", "server.info", "server.stats", "server.flush",
    }
)  # fmt: skip
"""What may be done twice without harm; any other verb only with an `op`. A deletion has none where it goes to
a daemon of an earlier version, for which what is gone is no error."""


class Waiting(Protocol):
    """Who gets the reply, whatever else that is."""

    def done(self) -> bool:
        """Whether nobody waits any more."""
        ...


WaiterT = TypeVar("WaiterT", bound=Waiting)


class PendingRequest(Struct, Generic[WaiterT], eq=False):
    """A request under way.

    Args:
        request_id: what the reply will carry.
        line: the request.
        waiter: who gets the reply: a future, or whatever the front uses.
        deadline: when it is late, seconds of the front's clock.
        repeatable: may be sent again when the connection was lost.
        op_of: for a mutation with an `op`, the session that remembers it.
        connection: the number of the connection it was sent on last; 0 for none yet.
    """

    request_id: int
    line: bytes
    waiter: WaiterT
    deadline: float
    repeatable: bool
    op_of: str | None
    connection: int = 0


class PendingRequests(Generic[WaiterT]):
    """All requests under way, in the order in which they were made.

    Args:
        fail: how a waiter is told that there will be no reply.
    """

    def __init__(self, fail: Callable[[WaiterT, Exception], None]) -> None:
        self._fail = fail
        self._last_id = 0
        self._calls: dict[int, PendingRequest[WaiterT]] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def add(
        self, method: str, params: Params | None, waiter: WaiterT, *, deadline: float, op_of: str | None
    ) -> PendingRequest[WaiterT]:
        """A new request."""
        request_id = self._last_id = self._last_id + 1
        line = encode_request(request_id, method, params)
        call = PendingRequest(request_id, line, waiter, deadline, op_of is not None or method in REPEATABLE, op_of)
        self._calls[request_id] = call
        return call

    @property
    def are_waited_for(self) -> bool:
        """Whether anybody still waits for any of them."""
        return any(not call.waiter.done() for call in self._calls.values())

    def was_sent(self, waiter: WaiterT) -> bool:
        """Whether the request that this one waits for has left on some connection. Looks through all of them."""
        return any(call.connection and call.waiter is waiter for call in self._calls.values())

    def drop(self, call: PendingRequest[WaiterT]) -> None:
        """Nobody waits for it any more."""
        self._calls.pop(call.request_id, None)

    def waiter(self, line: bytes) -> WaiterT | CallstateError | None:
        """Whose reply a line is; an error for one that is nobody's, None for one that nobody waits for.

        Raises:
            msgspec.MsgspecError, UnicodeDecodeError: no callstated would send that.
        """
        request_id = reply_id(line)
        if request_id is not None:
            call = self._calls.pop(request_id, None)
            return None if call is None else call.waiter
        incoming = decode_incoming(line)
        if isinstance(incoming.id, int):
            call = self._calls.pop(incoming.id, None)
            return None if call is None else call.waiter
        return None if incoming.error is None else self._nobodys(incoming.error.exception())

    def _nobodys(self, error: CallstateError) -> CallstateError | None:
        if not isinstance(error, TooLargeError) or not self._calls:
            return error
        # the id was in a line that the daemon dropped; of those under way that was the longest
        longest = max(self._calls.values(), key=lambda call: len(call.line))
        self.drop(longest)
        self._fail(longest.waiter, error)
        return None

    def late(self, now: float) -> list[PendingRequest[WaiterT]]:
        """Take out what is late."""
        calls = [call for call in self._calls.values() if call.deadline <= now]
        for call in calls:
            self.drop(call)
        return calls

    @property
    def next_deadline(self) -> float | None:
        """When the next request is late."""
        return min((call.deadline for call in self._calls.values()), default=None)

    def connection_lost(self) -> list[PendingRequest[WaiterT]]:
        """Fail what may not be repeated; gives what is to be sent on the next connection, in order.

        In the order they were made in, because what is for one session takes effect in the order sent.
        """
        under_way: Counter[str] = Counter()
        for call in reversed([*self._calls.values()]):
            if not call.connection:
                continue
            if call.op_of is not None:
                under_way[call.op_of] += 1
            if not call.repeatable or (call.op_of is not None and under_way[call.op_of] > OPS_REMEMBERED):
                self.drop(call)
                self._fail(call.waiter, ConnectionLostError("the connection was lost; outcome unknown"))
        return [*self._calls.values()]

    def fail_all(self, error: Exception) -> None:
        """There will be no replies."""
        calls, self._calls = self._calls, {}
        for call in calls.values():
            self._fail(call.waiter, error)
