"""Heartbeats from a thread with a connection of its own.

The thread sleeps until a heartbeat is due, sends all that are due in as few messages as possible, and waits for the
replies. When that fails it reconnects after a pause; the calls stay scheduled. `leave` knows each connection before
it is connected, so leaving never waits for the daemon.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from math import inf
from threading import Condition, Thread
from time import monotonic
from typing import Final

from callstate_client.calls.heartbeats.schedule import LostCallback, Schedule, ScheduledCall
from callstate_client.errors import (
    CallstateError,
    FencedError,
    SessionEndedError,
    SessionNotFoundError,
    StoreClosedError,
    StoreUnavailableError,
    UnreadableError,
)
from callstate_client.protocol.messages import decode_empty, encode_request
from callstate_client.protocol.params import HeartbeatParams
from callstate_client.transport import fork_safety
from callstate_client.transport.backoff import HEARTBEAT, Backoff
from callstate_client.transport.blocking import REQUEST_ID, BlockingConnection, dial
from callstate_client.transport.dial import Attempt
from callstate_client.transport.discovery import Candidate, no_daemon
from callstate_client.transport.heartbeat_batch import batches, read_outcome
from callstate_client.transport.identity import Identity

__all__ = ["LEAVE_S", "REPLY_S", "HeartbeatThread"]

_log = logging.getLogger("callstate")

REPLY_S: Final = 5.0
"""How long a message of heartbeats may take to be answered, seconds, before another connection is tried."""

LEAVE_S: Final = 1.0
"""How long to wait for the thread after `leave`, seconds; it is interrupted, so it takes no time."""


class HeartbeatThread:
    """Sends heartbeats for the calls that are added, until they are discarded or lost.

    Args:
        places: returns where to look for the daemon's socket.
        identity: returns the worker that the connection is registered for; None: none.
        clock: the time, monotonic seconds.
        may_send: called in the thread: whether heartbeats may be sent now. When they may again, call `wake`.
        lose: called in the thread with a call that accepts no more heartbeats, and why; by default it calls the
            call's own callback.
    """

    def __init__(
        self,
        places: Callable[[], Sequence[Candidate]],
        identity: Callable[[], Identity | None],
        clock: Callable[[], float] = monotonic,
        may_send: Callable[[], bool] = lambda: True,
        lose: Callable[[ScheduledCall, CallstateError], None] = ScheduledCall.lose,
    ) -> None:
        self._places = places
        self._identity = identity
        self._clock = clock
        self._may_send = may_send
        self._lose = lose
        self._changed = Condition()
        """Guards all below."""
        self._schedule = Schedule()
        self._sleeps_until = inf
        """When the thread looks at the schedule again by itself, by `clock`; of a thread that is awake, in the past
        or `inf`."""
        self._connection: BlockingConnection | None = None
        self._thread: Thread | None = None
        self._closing = False
        self._reported = ""
        fork_safety.watch(self)

    def __len__(self) -> int:
        return len(self._schedule)

    def add(self, session_id: str, timeout_s: float, lost: LostCallback) -> None:
        """See `Heartbeats.add`."""
        with self._changed:
            due = self._schedule.add(session_id, timeout_s, self._clock(), lost)
            if due < self._sleeps_until:  # waking it costs more than all else that begins a call
                self._changed.notify()
            if self._thread is None:
                self._thread = Thread(target=self._run, name="callstate-heartbeats", daemon=True)
                self._thread.start()

    def discard(self, session_id: str, lost: LostCallback | None) -> None:
        """See `Heartbeats.discard`."""
        with self._changed:
            self._schedule.discard(session_id, lost)

    def wake(self) -> None:
        """Check again whether heartbeats may be sent."""
        with self._changed:
            self._changed.notify()

    def leave(self) -> Thread | None:
        """Send no more. Returns the thread, which ends at once."""
        with self._changed:
            self._closing = True
            self._schedule.clear()
            self._changed.notify()
            if self._connection is not None:
                self._connection.interrupt()
            thread, self._thread = self._thread, None
        return thread

    def forked(self) -> None:
        """In a child: there is no thread here, and the connection is the parent's."""
        self._changed = Condition()  # the old one may be locked by a thread that the child does not have
        self._schedule = Schedule()
        self._sleeps_until = inf
        self._connection = self._thread = None

    # -- in the thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        backoff = Backoff(HEARTBEAT)
        while (due := self._wait_for_due()) is not None:
            try:
                for ids in batches(due):
                    self._send({session_id: due[session_id] for session_id in ids})
                backoff.reset()
                self._reported = ""
            except Exception as error:  # noqa: BLE001 - whatever it is, the calls go on
                if not isinstance(error, StoreUnavailableError):  # that is about a session, not the connection
                    self._disconnect()
                self._retry(due, backoff.pause_s(), error)
        self._disconnect()

    def _wait_for_due(self) -> dict[str, ScheduledCall] | None:
        """The calls that are due, once there are any and heartbeats may be sent; None at the end."""
        with self._changed:
            while not self._closing:
                now = self._clock()
                may_send = self._may_send()
                next_due = self._schedule.next_due
                if next_due is None or not may_send:
                    self._sleeps_until = inf
                    self._changed.wait()
                elif next_due > now:
                    self._sleeps_until = next_due
                    self._changed.wait(next_due - now)
                else:
                    return self._schedule.take_due(now)
            return None

    def _retry(self, due: dict[str, ScheduledCall], pause_s: float, error: Exception) -> None:
        if self._closing:
            return
        fault = None if isinstance(error, OSError | CallstateError) else error  # a bug: with its traceback
        if str(error) != self._reported:  # not each time: there are several attempts a second
            self._reported = str(error)
            _log.warning("could not send heartbeats for %d calls: %s", len(due), error, exc_info=fault)
        with self._changed:
            for call in due.values():
                call.retry(pause_s, self._clock())

    def _send(self, calls: dict[str, ScheduledCall]) -> None:
        connection = self._connection or self._connect()
        outcome = read_outcome(self._exchange(connection, HeartbeatParams(session_ids=[*calls])))
        for session_id in (*outcome.missing, *outcome.unclear):
            self._ask_why(connection, session_id, calls[session_id])
        with self._changed:
            for session_id, timeout_s in outcome.timeouts.items():
                calls[session_id].retime(timeout_s, self._clock())

    def _ask_why(self, connection: BlockingConnection, session_id: str, call: ScheduledCall) -> None:
        try:
            decode_empty(self._exchange(connection, HeartbeatParams(session_id=session_id)))
        except (SessionNotFoundError, SessionEndedError, FencedError, UnreadableError) as error:
            with self._changed:
                dropped = self._schedule.drop(session_id, call)
            if dropped:
                self._lose(call, error)

    def _exchange(self, connection: BlockingConnection, params: HeartbeatParams) -> bytes:
        line = encode_request(REQUEST_ID, "session.heartbeat", params)
        return connection.exchange(line, REPLY_S, monotonic() + REPLY_S)

    def _connect(self) -> BlockingConnection:
        """A connection to the first place that answers.

        Raises:
            CallstateError: there is none, or the daemon refuses this worker.
        """
        attempt = Attempt(self._places())
        found = dial(attempt, self._identity(), REPLY_S, self._opened)
        if found is None:
            raise attempt.refused or no_daemon(attempt.tried)
        return found[0]

    def _opened(self, connection: BlockingConnection) -> None:
        """Let `leave` interrupt a connection while it is being made."""
        with self._changed:
            if self._closing:
                raise StoreClosedError
            self._connection = connection

    def _disconnect(self) -> None:
        with self._changed:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
