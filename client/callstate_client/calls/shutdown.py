"""Shutting a worker down without losing a call, as for a deployment.

From the first signal on the worker accepts no more calls. Those that it holds get some time to end; the rest are
released, with everything that they have queued, and other workers' `recover()` gets them at once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterable
from types import TracebackType
from typing import Final, NamedTuple

from callstate_client.calls.handle import CallHandle
from callstate_client.calls.held import HeldCalls
from callstate_client.errors import CallstateError, ShuttingDownError

__all__ = ["FINISH_S", "Graceful", "LeaveResult", "leave"]

_log = logging.getLogger("callstate")

FINISH_S: Final = 30.0
"""How long the calls that are held may take to end, seconds. Supervisors kill after 30 (Kubernetes) or 90 (systemd)
by default, so a longer time has to be configured there too."""


class LeaveResult(NamedTuple):
    """How many calls ended, and how many were released for other workers."""

    finished: int
    released: int


async def leave(held: HeldCalls, finish_s: float, hurry: asyncio.Event) -> LeaveResult:
    """Wait for the calls that are held to end, and release the remaining ones.

    Args:
        held: the calls; `take_no_more()` comes first.
        finish_s: how long to wait, seconds.
        hurry: ends the wait when it is set.
    """
    calls = [call for call in held.handles.values() if not call.released and call.lost is None]
    waiting = [asyncio.ensure_future(call.wait_not_held()) for call in calls]
    hurried = asyncio.ensure_future(hurry.wait())
    try:
        async with asyncio.timeout(finish_s):
            while not (hurried.done() or all(task.done() for task in waiting)):
                pending = [task for task in (hurried, *waiting) if not task.done()]
                await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    except TimeoutError:
        pass
    finally:
        for task in (hurried, *waiting):
            task.cancel()
    left = [call for call in calls if not call.released and call.lost is None]
    if left:
        _log.info("%d calls are released: this worker is shutting down", len(left))
    await asyncio.gather(*(_release(call) for call in left))
    return LeaveResult(len(calls) - len(left), len(left))


async def _release(call: CallHandle) -> None:
    try:
        await call.release()
    except CallstateError as error:
        _log.warning("%s was not released cleanly: %s", call.id, error)
    call.lose_released(ShuttingDownError(f"{call.id} was released: this worker is shutting down"))


class Graceful:
    """What `store.graceful()` returns: shuts the worker down at a signal, or when its block is left.

    Args:
        held: the calls.
        finish_s: how long they may take to end, seconds.
        signals: the first one begins the shutdown, a second one ends the wait.
    """

    def __init__(self, held: HeldCalls, finish_s: float, signals: Iterable[int]) -> None:
        self._held = held
        self._finish_s = finish_s
        self._signals = tuple(signals)
        self._began = asyncio.Event()
        self._hurry = asyncio.Event()
        self.result: LeaveResult | None = None
        """How many calls ended and were released; None until the block has been left."""

    @property
    def began(self) -> bool:
        """Whether the worker is shutting down."""
        return self._began.is_set()

    def begin(self) -> None:
        """Accept no more calls, as on the first signal; the second time, end the wait, as on the second one."""
        if self.began:
            self._hurry.set()
        self._began.set()
        self._held.take_no_more()

    async def wait(self) -> None:
        """Wait for a signal, or for `begin()`."""
        await self._began.wait()

    async def __aenter__(self) -> Graceful:
        loop = asyncio.get_running_loop()
        for number in self._signals:
            loop.add_signal_handler(number, self._signalled, number)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self.began:
                self.begin()
            self.result = await leave(self._held, self._finish_s, self._hurry)
        finally:
            loop = asyncio.get_running_loop()
            for number in self._signals:
                loop.remove_signal_handler(number)

    def _signalled(self, number: int) -> None:
        _log.info(
            "%s: %s", signal.Signals(number).name, "releasing all calls" if self.began else "taking no more calls"
        )
        self.begin()
