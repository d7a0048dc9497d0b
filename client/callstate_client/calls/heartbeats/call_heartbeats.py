"""Heartbeats of one call: in the background while it is held, and with a watchdog only while its task reports."""

from __future__ import annotations

import logging
from collections.abc import Callable

from callstate_client.calls.heartbeats.schedule import Heartbeats, LostCallback
from callstate_client.calls.task import Watchdog

__all__ = ["CallHeartbeats"]

_log = logging.getLogger("callstate")


class CallHeartbeats:
    """The heartbeats of one call; none until `start()`.

    Args:
        sender: sends the heartbeats of all calls of the store.
        session_id: of the call.
        on_lost: called when the call accepts no more heartbeats.
    """

    def __init__(self, sender: Heartbeats, session_id: str, on_lost: LostCallback) -> None:
        self._sender = sender
        self._session_id = session_id
        self._on_lost = on_lost
        self._timeout_s: float | None = None
        self._watchdog: Watchdog | None = None
        self._is_silent = False
        """Whether the watchdog has stopped them."""

    def start(self, timeout_s: float) -> None:
        """Send them from now on.

        Args:
            timeout_s: the call's heartbeat timeout, seconds.
        """
        self._timeout_s = timeout_s
        self._sender.add(self._session_id, timeout_s, self._on_lost)

    def stop(self) -> None:
        """Send no more of them."""
        self._sender.discard(self._session_id, self._on_lost)

    def retime(self, timeout_s: float) -> None:
        """Note another heartbeat timeout, seconds. Does nothing if the worker sends them itself, and does not begin
        those again that the watchdog has stopped."""
        if self._is_silent:
            self._timeout_s = timeout_s
        elif self._timeout_s is not None:
            self.start(timeout_s)

    def watch(self, watchdog_s: float, on_return: Callable[[], None]) -> None:
        """Send them only while the call's task reports.

        Args:
            watchdog_s: the longest time between two reports, seconds.
            on_return: called when the task reports again after a longer silence.
        """

        def pause() -> None:
            _log.warning("%s: alive() was not called for %g s, so heartbeats stop", self._session_id, watchdog_s)
            self._is_silent = True
            self.stop()

        def go_on() -> None:
            _log.warning("%s: alive() was called again, so heartbeats resume", self._session_id)
            self._is_silent = False
            if self._timeout_s is not None:
                self.start(self._timeout_s)
            on_return()

        self._watchdog = Watchdog(watchdog_s, pause, go_on)

    def alive(self) -> None:
        """The call's task reports."""
        if self._watchdog is not None:
            self._watchdog.alive()

    def unwatch(self) -> None:
        """Stop the watchdog."""
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None
