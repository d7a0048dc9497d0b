"""Erasing a deleted session: the store takes the deletion and is cleared of it, then the journal is written anew.

If something fails the session stays deleted, and the erasure may be repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol

from callstate_client.engine.sessions.stored import StoreError
from callstate_client.engine.table.session_table import SessionTable
from callstate_client.errors import ConflictError, StoreUnavailableError
from callstate_client.protocol.results import EraseResult
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.stores.backend import Backend

log = EventLog(__name__)

TIMEOUT_S: Final = 60.0
"""How long an erasure waits for the store unless the request says otherwise, seconds."""

BLOCKS: Final = "disk blocks of files that were removed or rewritten, until they are used again"
BACKUPS: Final = "backups, exports and other copies"


class Flush(Protocol):
    """See `WriteBehind.flush`."""

    def __call__(self, session_ids: list[str] | None, timeout_s: float | None, /) -> Awaitable[dict[str, int]]: ...


class Erasure:
    """Erases sessions, one at a time.

    Args:
        table: the sessions in memory.
        flush: waits until the store has a deletion.
        backend: the store.
        clear_journal: has no file of the journal contain what is not in memory; raises OSError.
        journal_dir: the journal's directory.
        commit: commits the open group.
    """

    def __init__(
        self,
        table: SessionTable,
        flush: Flush,
        backend: Backend,
        clear_journal: Callable[[], Awaitable[None]],
        journal_dir: Path,
        commit: Callable[[], None],
    ) -> None:
        self._table = table
        self._flush = flush
        self._backend = backend
        self._clear_journal = clear_journal
        self._journal_dir = journal_dir
        self._commit = commit
        self._erasing = asyncio.Lock()

    async def run(self, session_id: str, timeout_s: float | None) -> EraseResult:
        """Erase a session that was deleted; returns the places where its bytes may still be.

        Args:
            session_id: which.
            timeout_s: how long to wait for the store, seconds.

        Raises:
            ConflictError: there is one of this id again, here or in the store.
            StoreUnavailableError: store or journal could not be cleared of it.
        """
        self._commit()
        wait_s = TIMEOUT_S if timeout_s is None else timeout_s
        async with self._erasing:
            self._check_deleted(session_id)
            try:
                remains = await self._clear_store(session_id, wait_s)
                await self._clear_journal()
            except (StoreError, OSError) as error:
                log.warning("erasure_failed", "session %s is deleted, and not erased: %s", session_id, error)
                raise StoreUnavailableError(f"deleted, but not erased yet: {error}; repeat this") from error
            self._check_deleted(session_id)
        log.info("erased", "session %s was erased", session_id, session_id=session_id)
        remains += [f"{path}, left by a repair" for path in sorted(self._journal_dir.glob("damaged-*"))]
        return EraseResult([*remains, BLOCKS, BACKUPS])

    async def _clear_store(self, session_id: str, wait_s: float) -> list[str]:
        if (await self._flush([session_id], wait_s))["unflushed"]:
            raise StoreUnavailableError("deleted, but the store has not taken the deletion yet; repeat this")
        stored = await self._backend.read(session_id)
        if stored is not None and stored.document is not None:  # the deletion came too late, or it was written back
            raise ConflictError(
                "the store has a session of this id: another host took it over, or it was written back"
            )
        return await self._backend.erase(session_id, wait_s)

    def _check_deleted(self, session_id: str) -> None:
        if session_id in self._table.sessions:
            raise ConflictError("the session was created again meanwhile")
