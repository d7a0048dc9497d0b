"""SIGTERM, SIGINT and SIGHUP, handled from the very start, so that none ever kills the daemon silently.

The first SIGTERM or SIGINT stops the daemon in an orderly way, the second one exits at once. SIGHUP reloads.

`callstated` installs the handlers before it imports anything that takes time, so this module imports neither
asyncio nor logging. Before that, while the interpreter itself starts, a signal has its default effect: it ends a
process that has not opened anything yet.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Final

from callstate_sidecar.system.exits import Exit

STOP: Final = (signal.SIGTERM, signal.SIGINT)


class StoppedError(BaseException):
    """A stop was requested before the daemon served. Not an Exception, so that no handler of errors swallows it."""


class Signals:
    """Installs the handlers; until `serve` is called, signals are only remembered.

    The handlers are installed with `signal.signal`, because they have to run while the start blocks the loop, and
    the loop's own handlers would deliver a signal of that time a second time.
    """

    def __init__(self) -> None:
        self._requested: signal.Signals | None = None
        self._to_reload = False
        for number in STOP:
            signal.signal(number, self._early)
        signal.signal(signal.SIGHUP, self._early)

    def _early(self, number: int, _: FrameType | None) -> None:
        # no logging here: the signal may have interrupted a log call
        if number == signal.SIGHUP:
            self._to_reload = True
        elif self._requested is None:
            self._requested = signal.Signals(number)
        else:
            os._exit(Exit.FAILED)

    def check(self) -> None:
        """Call this regularly during a long start.

        Raises:
            StoppedError: a stop was requested.
        """
        if self._requested is not None:
            raise StoppedError(self._requested.name)

    def serve(
        self,
        soon: Callable[..., object],
        stop: Callable[[str], None],
        stop_at_once: Callable[[str], None],
        reload: Callable[[], None],
    ) -> None:
        """Handle signals in the loop from now on, and those remembered.

        Args:
            soon: the loop's `call_soon_threadsafe`.
            stop: called with the name of the first SIGTERM or SIGINT.
            stop_at_once: called with the name of the second one before the process exits, in the signal's handler.
            reload: called for each SIGHUP.
        """
        is_told = False

        def request_stop(number: signal.Signals) -> None:
            nonlocal is_told
            if not is_told:
                is_told = True
                stop(number.name)

        def handle(number: int, _: FrameType | None) -> None:
            if number == signal.SIGHUP:
                soon(reload)
            elif self._requested is None:
                self._requested = signal.Signals(number)
                soon(request_stop, self._requested)
            else:  # here and not in the loop: a checkpoint of the stop may keep that busy for seconds
                try:
                    stop_at_once(signal.Signals(number).name)
                finally:  # also if the signal has interrupted a log call
                    os._exit(Exit.FAILED)

        for number in (*STOP, signal.SIGHUP):
            signal.signal(number, handle)
        if self._to_reload:
            reload()
        if self._requested is not None:
            request_stop(self._requested)
