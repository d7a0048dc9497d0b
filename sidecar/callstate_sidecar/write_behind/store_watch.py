"""The watch over the store: pings it when nothing else uses it, and has changes of its state told in time."""

from __future__ import annotations

import asyncio
from typing import Final

from callstate_client.engine.sessions.stored import StoreDownError, StoreError
from callstate_sidecar.background import BackgroundTask
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.stores.backend import Backend
from callstate_sidecar.system.clock import SystemClock
from callstate_sidecar.write_behind.store_state import BACKOFF_MAX_S, StoreState

TICK_S: Final = 0.25

PING_S: Final = 2.0
"""A store that nothing has used for this long, seconds, is pinged."""

PING_DOWN_S: Final = 2 * BACKOFF_MAX_S
"""The same while it is not up: write-behind tries more often, unless it is stuck itself."""


class StoreWatch(BackgroundTask):
    """Pings an idle store.

    Args:
        timeout_s: the store counts as down when a ping took longer, seconds.
    """

    def __init__(
        self, backend: Backend, state: StoreState, clock: SystemClock, metrics: Metrics, timeout_s: float
    ) -> None:
        super().__init__(metrics)
        self._backend = backend
        self._state = state
        self._clock = clock
        self._timeout_s = timeout_s

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            await self.tick()

    async def tick(self) -> None:
        """Ping the store if it was idle, and have a change that has lasted told."""
        state = self._state
        interval_s = PING_S if state.status == "up" else PING_DOWN_S
        if self._clock.mono() - state.used_at >= interval_s:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._backend.ping()
            except TimeoutError:
                state.unanswered(StoreDownError(f"no answer to a ping within {self._timeout_s:g} s"))
            except StoreDownError as error:
                state.unanswered(error)
            except StoreError as error:
                state.failed(error)
            else:
                state.answered()
        state.settle()
