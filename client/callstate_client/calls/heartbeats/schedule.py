"""When the heartbeats of held calls are due, without I/O; and the interface of what sends them.

A call's heartbeat is due once in a third of its timeout, so that two may be lost or late before a live call is
suspected. One that is due soon is sent early, together with those that are due now, so calls that began at
different times come to share messages.

A schedule does not keep a call alive: callbacks that are methods are referenced weakly, so that a handle can be
garbage-collected. A call that accepts no more heartbeats (it ended, or another worker has it) is dropped, and its
callback called once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, Final, Protocol
from weakref import WeakMethod

from callstate_client.errors import CallstateError

__all__ = ["Heartbeats", "LostCallback", "Schedule", "ScheduledCall", "default_timeout_s"]

HEARTBEATS_PER_TIMEOUT: Final = 3
"""Heartbeats sent within one heartbeat timeout."""

EARLY: Final = 1 / 8
"""The part of its interval by which a heartbeat may leave early."""

DEFAULT_TIMEOUT_S: Final = 30.0
"""`reaper.heartbeat_timeout_s` of a daemon that does not tell it: the default."""


def default_timeout_s(info: Mapping[str, Any]) -> float:
    """The heartbeat timeout of sessions that a daemon names none of, as an older one does, seconds.

    Args:
        info: the daemon's `server.info`.
    """
    return float(info.get("heartbeat_timeout_s", DEFAULT_TIMEOUT_S))


LostCallback = Callable[[CallstateError], None]
"""Called with the reason when a call accepts no more heartbeats."""


class Heartbeats(Protocol):
    """Sends heartbeats in the background for the calls that a store holds."""

    def add(self, session_id: str, timeout_s: float, lost: LostCallback) -> None:
        """Send heartbeats for this call from now on.

        Args:
            session_id: of the call.
            timeout_s: the call's heartbeat timeout, seconds.
            lost: called once, when the call accepts no more heartbeats; it is discarded then.
        """
        ...

    def discard(self, session_id: str, lost: LostCallback | None) -> None:
        """Send no more for this call, unless it was added again with another callback by a new hold.

        Args:
            session_id: of the call.
            lost: the callback it was added with; None: one whose object was garbage-collected.
        """
        ...

    @property
    def stalled(self) -> bool:
        """Whether none are sent because the event loop is blocked. May be read from any thread."""
        ...

    async def close(self) -> None:
        """Send no more."""
        ...


class ScheduledCall:
    """When a call's next heartbeat is due.

    Args:
        timeout_s: the call's heartbeat timeout, seconds.
        now: the schedule's time, seconds.
        lost: called when the call accepts no more heartbeats.
    """

    __slots__ = ("_lost", "due", "interval_s")

    def __init__(self, timeout_s: float, now: float, lost: LostCallback) -> None:
        self.interval_s = timeout_s / HEARTBEATS_PER_TIMEOUT
        self.due = now + self.interval_s
        self._lost: Callable[[], Any] = WeakMethod(lost) if isinstance(lost, MethodType) else lambda: lost

    def was_added_with(self, lost: LostCallback | None) -> bool:
        """Whether this is its callback; None: one whose object was garbage-collected."""
        return bool(self._lost() == lost)

    def retime(self, timeout_s: float, now: float) -> None:
        """Note another heartbeat timeout, seconds."""
        self.interval_s = timeout_s / HEARTBEATS_PER_TIMEOUT
        self.due = min(self.due, now + self.interval_s)

    def retry(self, pause_s: float, now: float) -> None:
        """The heartbeat was not sent: retry after a pause, seconds, but well before the call is suspected."""
        self.due = now + min(pause_s, self.interval_s)

    @property
    def is_wanted(self) -> bool:
        """Whether the object that the callback belongs to is still there."""
        return self._lost() is not None

    def lose(self, error: CallstateError) -> None:
        """Report that the call accepts no more heartbeats."""
        lost = self._lost()
        if lost is not None:
            lost(error)


class Schedule:
    """The calls that heartbeats are sent for. Not thread-safe. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._calls: dict[str, ScheduledCall] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, session_id: str, timeout_s: float, now: float, lost: LostCallback) -> float:
        """See `Heartbeats.add`. Returns when the call's first heartbeat is due."""
        call = self._calls[session_id] = ScheduledCall(timeout_s, now, lost)
        return call.due

    def discard(self, session_id: str, lost: LostCallback | None) -> None:
        """See `Heartbeats.discard`."""
        call = self._calls.get(session_id)
        if call is not None and call.was_added_with(lost):
            del self._calls[session_id]

    def drop(self, session_id: str, call: ScheduledCall) -> bool:
        """Discard a lost call; False if that was done already, and perhaps another one added under its id."""
        if self._calls.get(session_id) is not call:
            return False
        del self._calls[session_id]
        return True

    def clear(self) -> None:
        """Discard all calls."""
        self._calls.clear()

    @property
    def next_due(self) -> float | None:
        """When the next heartbeat is due; None if there is no call."""
        return min((call.due for call in self._calls.values()), default=None)

    def take_due(self, now: float) -> dict[str, ScheduledCall]:
        """The calls whose heartbeat is due now or soon. Their next ones are due an interval later.

        Those that nobody has any more are discarded.
        """
        due = {
            session_id: call
            for session_id, call in self._calls.items()
            if call.due - call.interval_s * EARLY <= now
        }
        for session_id in [session_id for session_id, call in due.items() if not call.is_wanted]:
            del due[session_id], self._calls[session_id]
        for call in due.values():
            call.due = now + call.interval_s
        return due
