"""A store in memory that answers late and fails by chance."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from callstate_client.engine.sessions.stored import StoreDownError, StoredSession, StoreError
from callstate_client.engine.sessions.writes import Write
from callstate_sidecar.stores.backend import WriteResult
from support.stores import MemoryBackend

T = TypeVar("T")


@dataclass
class Chance:
    """What backends that are slow by chance have in common.

    Args:
        rnd: decides.
        failing: how likely a failure is, each time that the loop gets turns.
    """

    rnd: random.Random
    failing: float = 0.0


class SlowBackend(MemoryBackend):
    """Takes turns of the loop before and after what it does, and may fail there."""

    turns: tuple[int, ...] = (0, 0, 1, 2, 5, 20)
    """How many turns it may take."""
    errors: tuple[type[StoreError], ...] = (StoreDownError,)
    """How it may fail."""

    def __init__(self, chance: Chance) -> None:
        super().__init__()
        self.chance = chance

    async def slowly(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something between turns of the loop."""
        await self._turns()
        done = await work()
        await self._turns()
        return done

    async def _turns(self) -> None:
        rnd = self.chance.rnd
        for _ in range(rnd.choice(self.turns)):
            await asyncio.sleep(0)
        if rnd.random() < self.chance.failing:
            raise rnd.choice(self.errors)("by chance")

    async def read(self, session_id: str) -> StoredSession | None:
        """As it is in between."""
        return await self.slowly(lambda: MemoryBackend.read(self, session_id))

    async def read_each(self, session_ids: Sequence[str]) -> Sequence[StoredSession | StoreError | None]:
        """As they are in between."""
        return await self.slowly(lambda: MemoryBackend.read_each(self, session_ids))

    async def write(self, batch: Sequence[Write]) -> list[WriteResult]:
        """In one go."""
        return await self.slowly(lambda: MemoryBackend.write(self, batch))
