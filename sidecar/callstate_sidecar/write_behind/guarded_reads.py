"""Reads through the circuit: while the store is down they fail at once, and each tells whether it was answered.

So many are under way at a time, however many clients ask; the others wait, in order. Listings have places of their
own, as one may look for something through the whole store, and claims and loads must not wait for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar, TypeVarTuple

from callstate_client.engine.sessions.stored import (
    Query,
    StoreDownError,
    StoredSession,
    StoreError,
    StorePartDownError,
    StoreTimeoutError,
)
from callstate_sidecar.stores.backend import Backend
from callstate_sidecar.write_behind.store_state import StoreState

T = TypeVar("T")
ArgsT = TypeVarTuple("ArgsT")

READS_AT_ONCE: Final = 8
"""Reads of sessions under way: twice as many as a Redis backend has connections for."""

SEARCHES_AT_ONCE: Final = 2
"""Searches for ids under way."""


class GuardedReads:
    """What is read from a store on behalf of clients (stores.backend.Reads)."""

    def __init__(self, backend: Backend, state: StoreState) -> None:
        self._backend = backend
        self._state = state
        self._reading = asyncio.Semaphore(READS_AT_ONCE)
        self._searching = asyncio.Semaphore(SEARCHES_AT_ONCE)

    async def read(self, session_id: str) -> StoredSession | None:
        """As the backend's."""
        return await self._answer(self._reading, self._backend.read, session_id)

    async def read_each(self, session_ids: Sequence[str]) -> Sequence[StoredSession | StoreError | None]:
        """As the backend's."""
        return await self._answer(self._reading, self._backend.read_each, session_ids)

    async def active_ids(self, cursor: str = "") -> tuple[list[str], str]:
        """As the backend's."""
        return await self._answer(self._searching, self._backend.active_ids, cursor)

    async def find(self, query: Query, cursor: str, limit: int) -> tuple[list[str], str]:
        """As the backend's."""
        return await self._answer(self._searching, self._backend.find, query, cursor, limit)

    async def _answer(self, places: asyncio.Semaphore, read: Callable[[*ArgsT], Awaitable[T]], *args: *ArgsT) -> T:
        state = self._state
        state.check()
        async with places:
            state.check()  # it may have gone down while this waited
            before = state.answers
            try:
                answer = await read(*args)
            except StorePartDownError:
                raise
            except StoreDownError as error:
                # if others were answered meanwhile, this one asked too much: a large document over a slow line
                if not (isinstance(error, StoreTimeoutError) and state.answers > before):
                    state.unanswered(error)
                raise
            state.answered()
            return answer
