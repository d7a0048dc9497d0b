"""Which sessions are this host's, by their meta in the store: hot ones that it has lost, and others that it has.

A host learns that a session was taken from it by its next write, or here: the host that took it leaves a hint. A
host that was away for longer than its lease looks at all of its sessions, for hints may be missing.

The other way round, a session may be this host's in the store and not be hot: the state directory was lost, or the
reply to a takeover, or there was no room in memory for what was taken. Nobody reaps such a session. Those of the
host's set are read and kept hot again; ids in it that are not this host's any more are removed. Each is in doubt
until the store has said that it is not a live one of this host, or it is hot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from callstate_client.engine.interfaces import NotCached
from callstate_client.engine.rules.context import Context
from callstate_client.engine.sessions.stored import ENDED, StoreDownError
from callstate_client.errors import StoreUnavailableError, UnreadableError
from callstate_sidecar.read_through import ReadThrough
from callstate_sidecar.reconcile import Reconciler
from callstate_sidecar.stores.hosts import HostRegistry, Possession

SESSIONS_A_REQUEST: Final = 200
"""About half a millisecond of the loop."""

READS_AT_ONCE: Final = 16


class Possessions:
    """Compares what is hot with the store's meta.

    Args:
        registry: the hosts of the store.
        ctx: the sessions.
        reconciler: gives up sessions of other hosts.
        read_through: reads sessions of this host that are not hot.
        commit: commits the open group.
        host_id: this host.
        in_doubt: gets sessions that the store may have as this host's and that may not be hot; others add some.
    """

    def __init__(
        self,
        registry: HostRegistry,
        ctx: Context,
        reconciler: Reconciler,
        read_through: ReadThrough,
        commit: Callable[[], None],
        host_id: str,
        in_doubt: set[str],
    ) -> None:
        self._registry = registry
        self._ctx = ctx
        self._reconciler = reconciler
        self._read_through = read_through
        self._commit = commit
        self._host_id = host_id
        self._in_doubt = in_doubt

    async def look_at_hints(self) -> None:
        """Give up what other hosts say they have taken.

        Raises:
            StoreError: the store can't say.
        """
        while session_ids := await self._registry.taken_away():
            await self._give_up(session_ids)
            await self._registry.note_lost(session_ids)

    async def look_at_all(self) -> None:
        """Give up every hot session that is another host's by now.

        Raises:
            StoreError: the store can't say.
        """
        for session_ids in self._ctx.table.ids(SESSIONS_A_REQUEST):
            await self._give_up(session_ids)

    async def _give_up(self, session_ids: Sequence[str]) -> None:
        sessions = self._ctx.table.sessions
        hot = [session_id for session_id in session_ids if session_id in sessions]
        for session_id, found in zip(hot, await self._registry.possessions(hot), strict=True):
            session = sessions.get(session_id)
            if session is None or found is None or found.host in ("", self._host_id) or session.unverified:
                continue  # of an unverified one the next write finds out more
            if found.epoch > session.facts.epoch:
                self._reconciler.lose(session, found.host, found.epoch)
        self._commit()

    async def look_at_own_set(self) -> int:
        """Read sessions of this host that are not hot.

        Returns:
            how many have been read.

        Raises:
            StoreError: the store can't say.
        """
        cursor, read = "", 0
        while True:
            session_ids, cursor = await self._registry.sessions_of(self._host_id, cursor)
            read += await self._look_at_page([i for i in session_ids if not self._is_known(i)])
            if not cursor:
                return read

    def _is_known(self, session_id: str) -> bool:
        table = self._ctx.table
        return session_id in table.sessions or session_id in table.tombstones.pending

    async def _look_at_page(self, session_ids: list[str]) -> int:
        found = dict(zip(session_ids, await self._registry.possessions(session_ids), strict=True))
        live = [session_id for session_id, possession in found.items() if self._is_own(possession)]
        strays = [i for i, possession in found.items() if not self._is_own(possession) and not self._is_known(i)]
        await self._registry.remove_from_set(self._host_id, strays)
        self._in_doubt.update(live)
        await self._recover_all(live)
        return len(live)

    def _is_own(self, possession: Possession | None) -> bool:
        return possession is not None and possession.host == self._host_id and possession.state != ENDED

    async def look_at_doubtful(self) -> None:
        """Keep hot what is in doubt and turns out to be this host's.

        Raises:
            StoreError: the store can't say.
        """
        await self._recover_all([*self._in_doubt])

    async def _recover_all(self, session_ids: list[str]) -> None:
        for start in range(0, len(session_ids), READS_AT_ONCE):
            await asyncio.gather(*map(self._recover, session_ids[start : start + READS_AT_ONCE]))

    async def _recover(self, session_id: str) -> None:
        """Read a session, unless it is hot; whoever asks for it meanwhile waits. Without room it stays in doubt."""
        if session_id not in self._ctx.table.sessions:
            if self._ctx.room.is_full(self._ctx.limits):
                return
            known: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self._read_through.when_known(session_id, partial(self._read, session_id, known))
            if not await known:
                return
        self._in_doubt.discard(session_id)

    def _read(self, session_id: str, known: asyncio.Future[bool]) -> None:
        """The store has been asked for a session: it is settled whose it is, or it is not."""
        if known.done():  # nobody waits any more
            return
        try:
            session = self._ctx.lookup(session_id)
        except StoreUnavailableError as error:
            known.set_exception(StoreDownError(str(error)))
        except UnreadableError:
            known.set_result(True)
        except NotCached:  # it has changed since
            known.set_result(False)
        else:
            is_hot = session_id in self._ctx.table.sessions
            if session is not None and is_hot:
                session.restored = True
                self._commit()
            known.set_result(is_hot or session is None or session.ended or session.host is not None)
