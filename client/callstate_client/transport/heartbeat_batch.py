"""Heartbeats of many sessions in one message, without I/O: gathering them, and what the reply means for each.

The reply to a message lists the sessions that got no heartbeat: `missing`, `ended`, `fenced`, `unreadable`. It does
not say when and why a session ended, or who has it. As this is rare, a separate heartbeat is then sent for each of
those sessions, whose reply is the error. `timeouts` are the heartbeat timeouts that have changed since the session
was claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final, NamedTuple, Protocol

from callstate_client.errors import CallstateError, SessionNotFoundError
from callstate_client.protocol.messages import decode_heartbeat
from callstate_client.protocol.params import HeartbeatParams
from callstate_client.protocol.waiter import Waiter

BATCH_SIZE: Final = 2000
"""Heartbeats in one message: with the longest ids half of the longest request line."""

_ALL_TAKEN: Final = (b'"result":{"missing":[],"ended":[],"fenced":[]}}', b'"result":{}}')
"""How the reply to nearly every message ends, with several heartbeats or one; it then needs no parsing."""


class HeartbeatOutcome(NamedTuple):
    """What the reply to a message says.

    Args:
        missing: sessions that do not exist.
        unclear: sessions that got no heartbeat, for a reason that only a separate message can tell.
        timeouts: by session, the heartbeat timeout that was set since it was claimed, seconds.
    """

    missing: list[str]
    unclear: list[str]
    timeouts: dict[str, float]


_NOTHING: Final = HeartbeatOutcome([], [], {})


def read_outcome(line: bytes) -> HeartbeatOutcome:
    """The outcome of a message from its reply.

    Raises:
        WireError: the reply is an error, for all of its sessions.
    """
    if line.endswith(_ALL_TAKEN):
        return _NOTHING
    result = decode_heartbeat(line)
    return HeartbeatOutcome(
        result.missing, [*result.ended, *result.fenced, *result.unreadable], result.timeouts or {}
    )


def batches(session_ids: Iterable[str]) -> Iterator[list[str]]:
    """These ids in lists of at most BATCH_SIZE."""
    ids = iter(session_ids)
    while batch := [*islice(ids, BATCH_SIZE)]:
        yield batch


class Acknowledged(Protocol):
    """Waits for the heartbeat of one session: a future."""

    def done(self) -> bool:
        """Whether the outcome is no longer wanted."""
        ...

    def set_result(self, result: None, /) -> None:
        """The session got it."""
        ...

    def set_exception(self, error: Exception, /) -> None:
        """It did not, or that is unknown."""
        ...


Waiting = dict[str, list[Acknowledged]]
"""By session, those that wait for its heartbeat."""


class HeartbeatBatcher:
    """Gathers heartbeats until `flush`, which sends them.

    Args:
        send: sends a heartbeat message and passes its reply's line to the waiter.
    """

    def __init__(self, send: Callable[[HeartbeatParams, Waiter], None]) -> None:
        self._send = send
        self._waiting: Waiting = {}

    def add(self, session_id: str, waiter: Acknowledged) -> None:
        """Add a heartbeat; several for one session are sent as one."""
        self._waiting.setdefault(session_id, []).append(waiter)

    def flush(self) -> None:
        """Send the gathered heartbeats."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, {}
        if len(waiting) <= BATCH_SIZE:
            self._send_batch(waiting)
            return
        for ids in batches(waiting):
            self._send_batch({session_id: waiting[session_id] for session_id in ids})

    def fail(self, error: Exception) -> None:
        """Fail the gathered heartbeats that were not sent."""
        waiting, self._waiting = self._waiting, {}
        _fail_all(waiting, error)

    def _send_batch(self, waiting: Waiting) -> None:
        ids = [*waiting]
        params = HeartbeatParams(session_id=ids[0]) if len(ids) == 1 else HeartbeatParams(session_ids=ids)
        self._send(params, _Batch(self._send_batch, waiting))


class _Batch:
    """The heartbeats of one message; the waiters of each get its outcome as soon as the reply arrives."""

    __slots__ = ("_send_batch", "_waiting")

    def __init__(self, send_batch: Callable[[Waiting], None], waiting: Waiting) -> None:
        self._send_batch = send_batch
        self._waiting = waiting

    def done(self) -> bool:
        """Never: the waiters are checked when the reply arrives."""
        return False

    def set_exception(self, error: Exception) -> None:
        """None of them got a reply."""
        _fail_all(self._waiting, error)

    def set_result(self, line: bytes) -> None:
        """Pass the outcome on to the waiters."""
        try:
            outcome = read_outcome(line)
        except CallstateError as failure:
            self.set_exception(failure)
            return
        waiting = self._waiting
        if outcome is not _NOTHING:
            for session_id in outcome.missing:
                _fail(waiting.pop(session_id, []), SessionNotFoundError(f"no session {session_id}"))
            for session_id in outcome.unclear:
                self._send_batch({session_id: waiting.pop(session_id, [])})
        for waiters in waiting.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)


def _fail_all(waiting: Waiting, error: Exception) -> None:
    for waiters in waiting.values():
        _fail(waiters, error)


def _fail(waiters: list[Acknowledged], error: Exception) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_exception(error)
