"""Reads through the circuit: while the store is down they fail at once, and each tells whether it was answered."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TypeVar

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


class GuardedReads:
    """What is read from a store on behalf of clients (stores.backend.Reads)."""

    def __init__(self, backend: Backend, state: StoreState) -> None:
        self._backend = backend
        self._state = state

    async def read(self, session_id: str) -> StoredSession | None:
        """As the backend's."""
        self._state.check()
        return await self._answer(self._backend.read(session_id))

    async def read_each(self, session_ids: Sequence[str]) -> Sequence[StoredSession | StoreError | None]:
        """As the backend's."""
        self._state.check()
        return await self._answer(self._backend.read_each(session_ids))

    async def active_ids(self, cursor: str = "") -> tuple[list[str], str]:
        """As the backend's."""
        self._state.check()
        return await self._answer(self._backend.active_ids(cursor))

    async def find(self, query: Query, cursor: str, limit: int) -> tuple[list[tuple[str, StoredSession]], str]:
        """As the backend's."""
        self._state.check()
        return await self._answer(self._backend.find(query, cursor, limit))

    async def _answer(self, work: Awaitable[T]) -> T:
        before = self._state.answers
        try:
            answer = await work
        except StorePartDownError:
            raise
        except StoreDownError as error:
            # if others were answered meanwhile, this one asked too much, such as a large document over a slow line
            if not (isinstance(error, StoreTimeoutError) and self._state.answers > before):
                self._state.unanswered(error)
            raise
        self._state.answered()
        return answer
