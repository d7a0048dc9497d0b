"""Which sessions are this host's, by their meta in the store: hot ones that it has lost, and others that it has.

A host learns that a session was taken from it by its next write, or here: the host that took it leaves a hint. A
host that was away for longer than its lease looks at all of its sessions, for hints may be missing.

The other way round, a session may be this host's in the store and not be hot: the state directory was lost, or the
reply to a takeover, or there was no room in memory for what was taken. Nobody reaps such a session. Those of the
host's set are read and kept hot again (doubts.py); ids in it that are not this host's any more are removed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from callstate_client.engine.rules.context import Context
from callstate_client.engine.sessions.stored import ENDED
from callstate_sidecar.hosts.doubts import Doubts
from callstate_sidecar.reconcile import Reconciler
from callstate_sidecar.stores.hosts import HostRegistry, Possession

SESSIONS_A_REQUEST: Final = 200
"""About half a millisecond of the loop."""


class Possessions:
    """Compares what is hot with the store's meta.

    Args:
        registry: the hosts of the store.
        ctx: the sessions.
        reconciler: gives up sessions of other hosts.
        doubts: reads sessions of this host that are not hot.
        commit: commits the open group.
        host_id: this host.
    """

    def __init__(
        self,
        registry: HostRegistry,
        ctx: Context,
        reconciler: Reconciler,
        doubts: Doubts,
        commit: Callable[[], None],
        host_id: str,
    ) -> None:
        self._registry = registry
        self._ctx = ctx
        self._reconciler = reconciler
        self._doubts = doubts
        self._commit = commit
        self._host_id = host_id

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
        await self._doubts.settle(live)
        return len(live)

    def _is_own(self, possession: Possession | None) -> bool:
        return possession is not None and possession.host == self._host_id and possession.state != ENDED
