"""A pool of blocking connections to the daemon, each with at most one pending request.

There are as many as threads send requests at the same time. A single connection under a lock would not do: one
thread's slow load (from a store that does not answer) would block the heartbeats of all. Nor would one connection
per thread: each thread that ends would leave one behind. A connection whose request failed is closed, so a reply
can't be taken for another request's, and all requests carry the same id.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from os import getpid
from time import monotonic
from typing import Final

from callstate_client.errors import ConnectionLostError, NoDaemonError, RequestTimeoutError, StoreClosedError
from callstate_client.transport import fork_safety
from callstate_client.transport.backoff import CONNECT, SHORTEST_HANDSHAKE_S, Backoff
from callstate_client.transport.blocking import SHORTEST_S, BlockingConnection, NoReplyError, dial
from callstate_client.transport.dial import Attempt
from callstate_client.transport.discovery import Candidate
from callstate_client.transport.identity import Identity
from callstate_client.transport.process_connections import ProcessConnections

_log = logging.getLogger("callstate")

LOST: Final = "the connection was lost; outcome unknown"
NOT_BACK: Final = "the connection was lost and did not come back in time; outcome unknown"


class Pool:
    """The connections of one store. Safe to use from many threads.

    Args:
        places: where to look for the socket; the first that answers is used from then on.
        timeout_s: how long a call waits for its reply, seconds.
        identity: returns the worker that each connection is registered for before it is used; None: none.
    """

    def __init__(
        self, places: Sequence[Candidate], timeout_s: float, identity: Callable[[], Identity | None] = lambda: None
    ) -> None:
        self._identity = identity
        self._places = places
        self.timeout_s = timeout_s
        self._by_process: dict[int, ProcessConnections] = {}
        self.closed = False
        fork_safety.watch(self)

    @property
    def path(self) -> str:
        """The daemon's socket."""
        return self._places[0].path

    @property
    def places(self) -> Sequence[Candidate]:
        """Where the daemon is looked for."""
        return self._places

    def open(self, wait_s: float) -> None:
        """Connect, retrying for `wait_s` seconds while there is no daemon.

        Raises:
            NoDaemonError: there was none in that time.
            ConflictError, InvalidParamsError, ForbiddenError: the daemon refuses this worker.
            UnsupportedProtocolError: it speaks another version of the protocol.
        """
        ours = self._ours()
        shortest_s = min(SHORTEST_HANDSHAKE_S, self.timeout_s)
        ours.idle.append(self.connect(ours, monotonic() + wait_s, Backoff(CONNECT), shortest_s))

    def wait(self, pause_s: float) -> None:
        """Wait for so many seconds, or until the pool is closed."""
        self._ours().closing.wait(pause_s)

    def forked(self) -> None:
        """In a child: close the parent's connections now, even if the child never sends a request."""
        self._ours()

    def close(self) -> None:
        """Disconnect. Pending requests of other threads fail with StoreClosedError. May be called twice."""
        self.closed = True
        self._ours().close()

    def _ours(self) -> ProcessConnections:
        pid = getpid()
        ours = self._by_process.get(pid)
        if ours is None:  # setdefault: concurrent threads get the same object
            ours = self._by_process.setdefault(pid, ProcessConnections())
            for other in [number for number in self._by_process if number != pid]:
                inherited = self._by_process.pop(other, None)
                if inherited is not None:
                    inherited.abandon()
        return ours

    # -- requests -----------------------------------------------------------------------------------------

    def mutate(self, line: bytes, op_of: str, timeout_s: float | None) -> bytes:
        """Like `exchange`, for a mutation with an `op`: repeated as long as the daemon would recognize it.

        Args:
            line: the request.
            op_of: the session that remembers it.
            timeout_s: seconds; None for the pool's own.
        """
        ours = self._ours()
        number = ours.begin(op_of)
        try:
            return self.exchange(line, timeout_s, lambda: ours.is_remembered(op_of, number))
        finally:
            ours.done(op_of)

    def exchange(
        self, line: bytes, timeout_s: float | None = None, may_repeat: Callable[[], bool] = lambda: True
    ) -> bytes:
        """Send a request line and return the reply's, newline included.

        Args:
            line: the request, its id blocking.REQUEST_ID.
            timeout_s: how long to wait, seconds; None for the pool's own.
            may_repeat: called after the connection was lost: whether the request may be sent again.

        Raises:
            RequestTimeoutError: no reply in time, neither to the request nor to the handshake of a new connection.
            UnsupportedProtocolError: the daemon, since replaced, speaks another version of the protocol.
            ConnectionLostError: the connection was lost, and the request may not be repeated, or not in time.
            NoDaemonError: there is no daemon, and the request was not sent to one before.
            StoreClosedError: the pool is closed, or was closed meanwhile.
        """
        if timeout_s is None:
            timeout_s = self.timeout_s
        until = monotonic() + timeout_s
        # looked up each time: a fork made in C, such as uWSGI's, runs no Python hooks
        ours = self._by_process.get(getpid()) or self._ours()
        retry: _Retry | None = None
        try:
            connection = ours.idle.pop()
        except IndexError:
            retry = _Retry(self, ours, until, may_repeat)
            connection = retry.connect()
        while True:
            try:
                reply = connection.exchange(line, timeout_s, until)
            except OSError as error:
                ours.drop(connection)
                retry = retry or _Retry(self, ours, until, may_repeat)
                connection = retry.again(error)
                timeout_s = until - monotonic()
            except BaseException:  # such as KeyboardInterrupt: the reply may still arrive
                ours.drop(connection)
                raise
            else:
                ours.idle.append(connection)
                if self.closed:  # after close() looked for idle connections
                    ours.drop_idle()
                return reply

    # -- connecting ---------------------------------------------------------------------------------------

    def connect(
        self, ours: ProcessConnections, until: float, backoff: Backoff, shortest_s: float = SHORTEST_S
    ) -> BlockingConnection:
        """A new connection. Attempts are repeated until the given time.

        Args:
            ours: the connections that it is added to.
            until: a time of the monotonic clock, seconds.
            backoff: how long to pause between attempts.
            shortest_s: the least time that a daemon gets for the handshake, seconds.

        Raises:
            NoDaemonError: there was no daemon.
            ConflictError, InvalidParamsError, ForbiddenError, UnsupportedProtocolError: as for `open`.
            StoreClosedError: the pool was closed meanwhile.
        """
        while True:
            if self.closed:
                raise StoreClosedError
            attempt = Attempt(self._places)
            found = dial(attempt, self._identity(), max(until - monotonic(), shortest_s))
            if found is not None:
                connection, place = found
                self._places = [place]
                ours.add(connection)
                return connection
            left = until - monotonic()
            attempt.check(left)
            ours.closing.wait(min(left, backoff.pause_s()))


class _Retry:
    """Makes the new connection that a request needs, and decides whether the request may be sent (again) on it."""

    def __init__(self, pool: Pool, ours: ProcessConnections, until: float, may_repeat: Callable[[], bool]) -> None:
        self._pool = pool
        self._ours = ours
        self._until = until
        self._may_repeat = may_repeat
        self._backoff = Backoff(CONNECT)
        self._sent = False

    def connect(self) -> BlockingConnection:
        """A new connection for the request."""
        try:
            connection = self._pool.connect(self._ours, self._until, self._backoff)
        except NoDaemonError as error:
            if not self._sent and error.silent:
                raise RequestTimeoutError("not sent: the daemon did not answer in time") from error
            if not self._sent:
                raise
            raise ConnectionLostError(NOT_BACK) from error
        if self._sent and not self._may_repeat():  # too many mutations of other threads came in between
            self._ours.idle.append(connection)
            raise ConnectionLostError(LOST)
        return connection

    def again(self, lost: OSError) -> BlockingConnection:
        """A new connection after one was lost, or brought no reply, with this error."""
        if self._pool.closed:
            raise StoreClosedError
        if isinstance(lost, TimeoutError):
            raise RequestTimeoutError("the daemon did not answer in time; outcome unknown")
        if isinstance(lost, NoReplyError):
            _log.error("the program listening at %s is not callstated (%s); disconnecting", self._pool.path, lost)
        # a broken pipe: the line was sent without its newline at most, so the daemon has not seen a request
        self._sent = self._sent or not isinstance(lost, BrokenPipeError)
        if self._sent and not self._may_repeat():
            raise ConnectionLostError(LOST) from lost
        self._ours.drop_idle()  # those to the same daemon are lost too
        self._ours.closing.wait(max(0.0, min(self._backoff.pause_s(), self._until - monotonic())))
        if self._sent and monotonic() >= self._until:
            if isinstance(lost, NoReplyError):
                text = f"the program listening at {self._pool.path} is not callstated ({lost})"
                raise ConnectionLostError(text) from lost
            raise ConnectionLostError(NOT_BACK) from lost
        return self.connect()
