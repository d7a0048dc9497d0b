"""What SIGTERM, SIGINT and SIGHUP do, from before the socket listens: none of them ever ends us without a word."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Final

from callstate_sidecar.system.exits import Exit

log = logging.getLogger(__name__)

STOP: Final = (signal.SIGTERM, signal.SIGINT)


class StoppedError(BaseException):
    """Asked to stop before the daemon served; no fault of anything that was under way."""


class Signals:
    """Hears signals from when it is made; until `serve` it only remembers them.

    The handlers are Python's: these run while the start holds the loop, too, and the loop's own would hear a signal
    of that time once more, from a byte that waits for it.

    The first SIGTERM or SIGINT stops, the second leaves at once.
    """

    def __init__(self) -> None:
        self._asked: signal.Signals | None = None
        self._to_reload = False
        for number in STOP:
            signal.signal(number, self._early)
        signal.signal(signal.SIGHUP, self._early)

    def _early(self, number: int, _: FrameType | None) -> None:
        # nothing is logged: this may have interrupted a line of the log
        if number == signal.SIGHUP:
            self._to_reload = True
        elif self._asked is None:
            self._asked = signal.Signals(number)
        else:
            os._exit(Exit.FAILED)

    def check(self) -> None:
        """To be called now and then by what takes long at the start.

        Raises:
            StoppedError: we were asked to stop.
        """
        if self._asked is not None:
            raise StoppedError(self._asked.name)

    def serve(self, stop: Callable[[], None], reload: Callable[[], None]) -> None:
        """Act upon signals from now on, in the loop, and on those that were heard before.

        Args:
            stop: called for the first SIGTERM or SIGINT.
            reload: called for each SIGHUP.
        """
        loop = asyncio.get_running_loop()
        stopping = False

        def asked(number: signal.Signals) -> None:
            nonlocal stopping
            if stopping:
                log.warning("%s again: leaving at once; the journal has what is unwritten", number.name)
                os._exit(Exit.FAILED)
            stopping = True
            log.info("%s: stopping", number.name)
            stop()

        def hear(number: int, _: FrameType | None) -> None:
            if number == signal.SIGHUP:
                loop.call_soon_threadsafe(reload)
            else:
                loop.call_soon_threadsafe(asked, signal.Signals(number))

        for number in (*STOP, signal.SIGHUP):
            signal.signal(number, hear)
        if self._to_reload:
            reload()
        if self._asked is not None:
            asked(self._asked)
