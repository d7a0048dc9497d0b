"""Blocking connections to the daemon: one request under way on each, as many as threads that ask at once.

Not one connection under a lock: then one thread's slow load (a store behind that does not answer) would hold up
the heartbeats of all. Not one a thread: each thread that ended would leave one behind. A connection whose
request failed is left, so no reply can be taken for another request's, and all requests carry the same id.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from os import getpid
from threading import Event, RLock
from time import monotonic
from typing import Final

from callstate_client.errors import (
    ConnectionLostError,
    NoDaemonError,
    RequestTimeoutError,
    StoreClosedError,
)
from callstate_client.transport import fork_safety
from callstate_client.transport.backoff import CONNECT, SHORTEST_HANDSHAKE_S, Backoff
from callstate_client.transport.blocking import (
    SHORTEST_S,
    BlockingConnection,
    NoReplyError,
    dial,
)
from callstate_client.transport.dial import Attempt
from callstate_client.transport.discovery import Candidate
from callstate_client.transport.identity import Identity
from callstate_client.transport.pending import OPS_REMEMBERED

_log = logging.getLogger("callstate")

LOST: Final = "the connection was lost; outcome unknown"
NOT_BACK: Final = "the connection was lost and did not come back in time; outcome unknown"


class Ours:
    """What one process has of a pool; a forked child gets one of its own."""

    def __init__(self) -> None:
        self.idle: list[BlockingConnection] = []
        """The newest last: as few as will do are used, and they stay warm. Its pop and append are atomic."""
        self.closing = Event()
        self._all: set[BlockingConnection] = set()
        self._mutations: dict[str, list[int]] = {}
        # a signal's handler may ask too, in the middle of this
        self._lock = RLock()

    def add(self, connection: BlockingConnection) -> None:
        """One more; interrupted at once if the pool was closed meanwhile."""
        with self._lock:
            self._all.add(connection)
            if self.closing.is_set():
                connection.interrupt()

    def drop(self, connection: BlockingConnection) -> None:
        """Leave one that is in nobody's hands but the caller's."""
        with self._lock:
            self._all.discard(connection)
            connection.close()

    def drop_idle(self) -> None:
        """Leave those that nobody uses."""
        while self.idle:
            try:
                connection = self.idle.pop()
            except IndexError:  # another thread was quicker
                return
            self.drop(connection)

    def close(self) -> None:
        """Wake who waits, and leave all others; those that are woken leave their own."""
        with self._lock:
            self.closing.set()
            for connection in [*self._all]:
                connection.interrupt()
        self.drop_idle()

    def abandon(self) -> None:
        """In a child: leave the parent's connections to it."""
        for connection in self._all:  # no lock: whoever held it is not here
            connection.close()

    def begin(self, session_id: str) -> int:
        """A mutation of this session begins; gives its number."""
        with self._lock:
            counts = self._mutations.setdefault(session_id, [0, 0])
            counts[0] += 1
            counts[1] += 1
            return counts[1]

    def done(self, session_id: str) -> None:
        """It is over."""
        with self._lock:
            counts = self._mutations[session_id]
            counts[0] -= 1
            if not counts[0]:
                del self._mutations[session_id]

    def is_remembered(self, session_id: str, number: int) -> bool:
        """Whether the daemon must still know a mutation's `op`, if it was done."""
        return self._mutations[session_id][1] - number < OPS_REMEMBERED


class Pool:
    """The connections of one store.

    Args:
        places: where to look for the socket; the first that answers is kept to from then on.
        timeout_s: how long a call waits for its reply, seconds.
        identity: gives whom each connection is registered for before it is used; None: nobody.
    """

    def __init__(
        self, places: Sequence[Candidate], timeout_s: float, identity: Callable[[], Identity | None] = lambda: None
    ) -> None:
        self._identity = identity
        self._places = places
        self._timeout_s = timeout_s
        self._by_process: dict[int, Ours] = {}
        self.closed = False
        fork_safety.watch(self)

    @property
    def path(self) -> str:
        """The socket of the daemon."""
        return self._places[0].path

    @property
    def places(self) -> Sequence[Candidate]:
        """Where the daemon is looked for."""
        return self._places

    def open(self, wait_s: float) -> None:
        """Connect, trying for so long while the daemon is not there yet.

        Raises:
            NoDaemonError: it never was.
            ConflictError, InvalidParamsError, ForbiddenError: the daemon does not take this worker.
            UnsupportedProtocolError: it speaks another version of the protocol.
        """
        ours = self._ours()
        shortest_s = min(SHORTEST_HANDSHAKE_S, self._timeout_s)
        ours.idle.append(self.connect(ours, monotonic() + wait_s, Backoff(CONNECT), shortest_s))

    def forked(self) -> None:
        """In a child: leave the parent's connections to it now, also where the child never asks for anything."""
        self._ours()

    def close(self) -> None:
        """Leave. What is under way in other threads fails with StoreClosedError. May be called twice."""
        self.closed = True
        self._ours().close()

    def _ours(self) -> Ours:
        pid = getpid()
        ours = self._by_process.get(pid)
        if ours is None:  # of several threads that come here at once, all get the same
            ours = self._by_process.setdefault(pid, Ours())
            for other in [number for number in self._by_process if number != pid]:
                inherited = self._by_process.pop(other, None)
                if inherited is not None:
                    inherited.abandon()
        return ours

    # -- asking -------------------------------------------------------------------------------------------

    def mutate(self, line: bytes, op_of: str, timeout_s: float | None) -> bytes:
        """Like `exchange`, for a mutation with an `op`: sent again while the daemon can know that it was.

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
        """Send a request line and give the reply's, newline included.

        Args:
            line: the request, its id blocking.REQUEST_ID.
            timeout_s: how long to wait, seconds; None for the pool's own.
            may_repeat: asked when the connection was lost: whether the request may be sent again.

        Raises:
            RequestTimeoutError: no reply in time, or no answer to the greeting of a new connection.
            UnsupportedProtocolError: the daemon that is there now speaks another version of the protocol.
            ConnectionLostError: the connection went, and the request may not be repeated, or not in time.
            NoDaemonError: there is no daemon, and was none to take the request.
            StoreClosedError: the pool was closed, before or meanwhile.
        """
        if timeout_s is None:
            timeout_s = self._timeout_s
        until = monotonic() + timeout_s
        # asked each time: a fork in C, as uWSGI's, runs no hook of ours
        ours = self._by_process.get(getpid()) or self._ours()
        trial: _Trial | None = None
        try:
            connection = ours.idle.pop()
        except IndexError:
            trial = _Trial(self, ours, until, may_repeat)
            connection = trial.connect()
        while True:
            try:
                reply = connection.exchange(line, timeout_s, until)
            except OSError as error:
                ours.drop(connection)
                trial = trial or _Trial(self, ours, until, may_repeat)
                connection = trial.again(error)
                timeout_s = until - monotonic()
            except BaseException:  # such as a KeyboardInterrupt, after which the reply is still to come
                ours.drop(connection)
                raise
            else:
                ours.idle.append(connection)
                if self.closed:  # too late for close() to find it
                    ours.drop_idle()
                return reply

    # -- connecting ---------------------------------------------------------------------------------------

    def connect(
        self, ours: Ours, until: float, backoff: Backoff, shortest_s: float = SHORTEST_S
    ) -> BlockingConnection:
        """A new connection, tried for until then.

        Args:
            ours: gets it.
            until: an instant of the monotonic clock.
            backoff: how long to pause between attempts.
            shortest_s: what a daemon that is there gets to answer a greeting at least, seconds.

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


class _Trial:
    """A request that is not answered at once: connects, and decides whether it is sent again."""

    def __init__(self, pool: Pool, ours: Ours, until: float, may_repeat: Callable[[], bool]) -> None:
        self._pool = pool
        self._ours = ours
        self._until = until
        self._may_repeat = may_repeat
        self._backoff = Backoff(CONNECT)
        self._sent = False

    def connect(self) -> BlockingConnection:
        """A new connection to send it on."""
        try:
            connection = self._pool.connect(self._ours, self._until, self._backoff)
        except NoDaemonError as error:
            if not self._sent and error.silent:
                raise RequestTimeoutError("not sent: the daemon did not answer in time") from error
            if not self._sent:
                raise
            raise ConnectionLostError(NOT_BACK) from error
        if self._sent and not self._may_repeat():  # other threads' mutations came in between
            self._ours.idle.append(connection)
            raise ConnectionLostError(LOST)
        return connection

    def again(self, lost: OSError) -> BlockingConnection:
        """The same, after this."""
        if self._pool.closed:
            raise StoreClosedError
        if isinstance(lost, TimeoutError):
            raise RequestTimeoutError("the daemon did not answer in time; outcome unknown")
        if isinstance(lost, NoReplyError):
            _log.error("what listens at %s is no callstated (%s); leaving it", self._pool.path, lost)
        # without its newline the daemon can't have taken the line for a request
        self._sent = self._sent or not isinstance(lost, BrokenPipeError)
        if self._sent and not self._may_repeat():
            raise ConnectionLostError(LOST) from lost
        self._ours.drop_idle()  # to the same daemon, so as good as lost
        self._ours.closing.wait(max(0.0, min(self._backoff.pause_s(), self._until - monotonic())))
        if self._sent and monotonic() >= self._until:
            if isinstance(lost, NoReplyError):
                raise ConnectionLostError(f"what listens at {self._pool.path} is no callstated ({lost})") from lost
            raise ConnectionLostError(NOT_BACK) from lost
        return self.connect()
