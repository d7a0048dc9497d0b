"""Sessions in doubt: the store may have them as live ones of this host, and they may not be hot.

Nobody reaps such a session. So each is in doubt until it is hot or deleted here, or the store has said that it is
none of this host's, has ended, or is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from callstate_client.engine.interfaces import NotCached
from callstate_client.engine.rules.context import Context
from callstate_client.engine.sessions.stored import StoreDownError
from callstate_client.errors import StoreUnavailableError, UnreadableError
from callstate_sidecar.read_through import ReadThrough

READS_AT_ONCE: Final = 16


class Doubts:
    """Reads what is in doubt, and keeps it hot if it is this host's.

    Args:
        ctx: the sessions.
        read_through: reads those that are not hot.
        commit: commits the open group.
    """

    def __init__(self, ctx: Context, read_through: ReadThrough, commit: Callable[[], None]) -> None:
        self._ctx = ctx
        self._read_through = read_through
        self._commit = commit
        self.session_ids: set[str] = set()
        """Those in doubt; others add some."""
        self.found = 0
        """How many turned out to be this host's."""

    async def settle(self, session_ids: Sequence[str] | None = None) -> None:
        """Read these, or all that are in doubt.

        Raises:
            StoreError: the store can't say.
        """
        ids = [*self.session_ids] if session_ids is None else session_ids
        self.session_ids.update(ids)
        for start in range(0, len(ids), READS_AT_ONCE):
            await asyncio.gather(*map(self._settle, ids[start : start + READS_AT_ONCE]))

    async def _settle(self, session_id: str) -> None:
        """Read a session, unless it is hot or was deleted; whoever asks for it meanwhile waits. Without room it
        stays in doubt."""
        table = self._ctx.table
        if session_id not in table.sessions and session_id not in table.tombstones.pending:
            if self._ctx.room.is_full(self._ctx.limits):
                return
            known: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._read_through.when_known(session_id, partial(self._read, session_id, known, self._ctx.now_us()))
            await known
        else:
            self.session_ids.discard(session_id)

    def _read(self, session_id: str, known: asyncio.Future[None], asked_us: int) -> None:
        """The store has been asked for a session: it is settled whose it is, or it is not. It is restored unless it
        has been heard of since, by a request that waited for the same read."""
        if known.done():  # nobody waits any more
            return
        try:
            session = self._ctx.lookup(session_id)
        except StoreUnavailableError as error:
            known.set_exception(StoreDownError(str(error)))
            return
        except UnreadableError:
            is_settled = True
        except NotCached:  # it has changed since
            is_settled = False
        else:
            is_hot = session_id in self._ctx.table.sessions
            if session is not None and is_hot:
                session.restored = session.beat_us < asked_us
                self.found += 1
                self._commit()
            is_settled = is_hot or session is None or session.ended or session.host is not None
        if is_settled:  # now, as the store may be found to have given it by the time that `known` is noticed
            self.session_ids.discard(session_id)
        known.set_result(None)
