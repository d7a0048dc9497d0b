"""Heartbeats of held calls, by a thread with a connection of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import islice
from threading import Condition, Thread
from time import monotonic
from typing import Final

from callstate_client import protocol
from callstate_client.calls.heartbeat_schedule import (
    EARLY,
    Beat,
    LostCallback,
)
from callstate_client.errors import (
    CallstateError,
    FencedError,
    SessionEndedError,
    SessionNotFoundError,
    StoreClosedError,
    StoreUnavailableError,
    UnreadableError,
)
from callstate_client.transport import fork_safety
from callstate_client.transport.backoff import HEARTBEAT, Backoff
from callstate_client.transport.blocking import REQUEST_ID, BlockingConnection, dial
from callstate_client.transport.dial import Attempt
from callstate_client.transport.discovery import Candidate, no_daemon
from callstate_client.transport.identity import Identity

__all__ = ["LEAVE_S", "REPLY_S", "BeatThread"]

_log = logging.getLogger("callstate")

REPLY_S: Final = 5.0
"""How long a message of heartbeats may take to be answered, seconds: then another connection is tried."""

BEATS_A_MESSAGE: Final = 2000
"""Heartbeats that leave as one message: with the longest ids half a request line's limit."""

LEAVE_S: Final = 1.0
"""How long leaving waits for the thread, seconds; it is interrupted, so it takes no time."""


class BeatThread:
    """Beats for the calls added to it, until they are discarded or lost.

    Args:
        places: where to look for the daemon's socket.
        identity: gives whom the connection is registered for; None: nobody.
        clock: tells when a heartbeat is due, seconds that never go back.
    """

    def __init__(
        self,
        places: Callable[[], Sequence[Candidate]],
        identity: Callable[[], Identity | None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._places = places
        self._identity = identity
        self._clock = clock
        self._changed = Condition()
        self._beats: dict[str, Beat] = {}
        self._connection: BlockingConnection | None = None
        self._thread: Thread | None = None
        self._closing = False
        self._told = ""
        fork_safety.watch(self)

    def add(self, session_id: str, timeout_s: float, lost: LostCallback) -> None:
        """Beat for this call from now on.

        Args:
            session_id: of the call.
            timeout_s: the call's heartbeat timeout, seconds.
            lost: called once when the call takes no more beats; it is discarded then.
        """
        with self._changed:
            self._beats[session_id] = Beat(timeout_s, self._clock(), lost)
            self._changed.notify()
            if self._thread is None:
                self._thread = Thread(target=self._run, name="callstate-beats", daemon=True)
                self._thread.start()

    def discard(self, session_id: str, lost: LostCallback | None) -> None:
        """Beat no more for this call, as far as it was added with this callback; None: with one that is gone."""
        with self._changed:
            beat = self._beats.get(session_id)
            if beat is not None and beat.is_of(lost):
                del self._beats[session_id]

    def leave(self) -> Thread | None:
        """Beat no more for any; gives the thread, which ends at once."""
        with self._changed:
            self._closing = True
            self._beats.clear()
            self._changed.notify()
            if self._connection is not None:
                self._connection.interrupt()
            thread, self._thread = self._thread, None
        return thread

    def forked(self) -> None:
        """In a child: there is no thread here, and the connection is the parent's."""
        self._changed = Condition()  # whoever held it is not here
        self._beats = {}
        self._connection = self._thread = None

    def _look_for_stall(self) -> bool:
        """Whether nothing may be sent now; who finds that it may be again notifies `_changed`."""
        return False

    def _tell(self, beat: Beat, error: CallstateError) -> None:
        """The call takes no more beats. In the thread."""
        beat.tell(error)

    # -- in the thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        backoff = Backoff(HEARTBEAT)
        while True:
            due = self._wait_for_due()
            if due is None:
                break
            try:
                items = iter(due.items())
                while some := dict(islice(items, BEATS_A_MESSAGE)):
                    self._send(some)
                backoff.reset()
                self._told = ""
            except Exception as error:  # noqa: BLE001 - whatever it is, the calls go on
                if not isinstance(error, StoreUnavailableError):  # else it is said of some, and the way is well
                    self._leave()
                self._again(due, backoff.pause_s(), error)
        self._leave()

    def _wait_for_due(self) -> dict[str, Beat] | None:
        """The calls that are due, once there are any and nothing stalls; None at the end."""
        with self._changed:
            while not self._closing:
                now = self._clock()
                stalled = self._look_for_stall()
                soonest = min((beat.due for beat in self._beats.values()), default=None)
                if stalled or soonest is None:
                    self._changed.wait()
                elif soonest > now:
                    self._changed.wait(soonest - now)
                else:
                    return self._take_due(now)
            return None

    def _take_due(self, now: float) -> dict[str, Beat]:
        due = {sid: beat for sid, beat in self._beats.items() if beat.due - beat.interval_s * EARLY <= now}
        for beat in due.values():
            beat.due = now + beat.interval_s
        return due

    def _again(self, due: dict[str, Beat], pause_s: float, error: Exception) -> None:
        """Not sent: once more soon, well before the calls are suspected."""
        if self._closing:
            return
        ours = None if isinstance(error, OSError | CallstateError) else error  # a fault of ours: with its traceback
        if str(error) != self._told:  # not each time: it is tried several times a second
            self._told = str(error)
            _log.warning("no heartbeat of %d calls: %s", len(due), error, exc_info=ours)
        with self._changed:
            for beat in due.values():
                beat.due = self._clock() + min(pause_s, beat.interval_s)

    def _send(self, beats: dict[str, Beat]) -> None:
        connection = self._connection or self._connect()
        params = protocol.HeartbeatParams(session_ids=[*beats])
        line = protocol.encode_request(REQUEST_ID, "session.heartbeat", params)
        result = protocol.decode_heartbeat(connection.exchange(line, REPLY_S, monotonic() + REPLY_S))
        for session_id in (*result.missing, *result.ended, *result.fenced, *result.unreadable):
            self._ask_why(connection, session_id, beats[session_id])
        with self._changed:
            for session_id, timeout_s in (result.timeouts or {}).items():
                beats[session_id].retime(timeout_s, self._clock())

    def _ask_why(self, connection: BlockingConnection, session_id: str, beat: Beat) -> None:
        """The lists don't say when and why it ended, or whose it is: seldom enough to ask once more."""
        params = protocol.HeartbeatParams(session_id=session_id)
        line = protocol.encode_request(REQUEST_ID, "session.heartbeat", params)
        try:
            protocol.decode_empty(connection.exchange(line, REPLY_S, monotonic() + REPLY_S))
        except (SessionNotFoundError, SessionEndedError, FencedError, UnreadableError) as error:
            self._lose(session_id, beat, error)

    def _lose(self, session_id: str, beat: Beat, error: CallstateError) -> None:
        with self._changed:
            if self._beats.get(session_id) is not beat:
                return  # let go of meanwhile, and held anew perhaps
            del self._beats[session_id]
        self._tell(beat, error)

    def _connect(self) -> BlockingConnection:
        """A connection to the first place that answers.

        Raises:
            CallstateError: there is none, or the daemon does not take this worker.
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

    def _leave(self) -> None:
        with self._changed:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
