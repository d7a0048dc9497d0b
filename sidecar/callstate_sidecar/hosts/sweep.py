"""The sweep of the active set, which one host does for all, page by page.

Ids without documents are removed, so that the Go package and others that read the set see no ghosts. Hosts that are
not watched yet are found by the meta of their sessions, and sessions of dead hosts that their host's set lacks are
adopted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from callstate_client.engine.sessions.stored import ENDED
from callstate_sidecar.hosts.adoption import Adopter
from callstate_sidecar.hosts.watch import HostWatch
from callstate_sidecar.stores.backend import Backend
from callstate_sidecar.stores.hosts import HostRegistry

PAUSE_S: Final = 0.02
"""Between pages, so that the server has time for others."""


class ActiveSweep:
    """Sweeps the active set when it is due and no other host does.

    Args:
        backend: removes ghosts as it lists active sessions.
        registry: the hosts of the store.
        watch: knows which hosts are dead.
        adopter: takes sessions of dead hosts over.
        instance: this daemon.
        every_s: seconds from sweep to sweep.
        mono: monotonic time.
    """

    def __init__(
        self,
        backend: Backend,
        registry: HostRegistry,
        watch: HostWatch,
        adopter: Adopter,
        instance: str,
        every_s: float,
        mono: Callable[[], float],
    ) -> None:
        self._backend = backend
        self._registry = registry
        self._watch = watch
        self._adopter = adopter
        self._instance = instance
        self._every_s = every_s
        self._mono = mono
        self._due = mono() + every_s

    async def sweep_if_due(self) -> None:
        """Sweep, if it is time and this host is the one to do it.

        Raises:
            StoreError: the store failed on the way.
        """
        if self._mono() < self._due:
            return
        self._due = self._mono() + self._every_s
        if await self._registry.begin_duty("sweep", self._instance, self._every_s * 1.5):
            await self.sweep()

    async def sweep(self) -> None:
        """Sweep the whole set.

        Raises:
            StoreError: the store failed on the way.
        """
        cursor = ""
        while True:
            session_ids, cursor = await self._backend.active_ids(cursor)
            found = zip(session_ids, await self._registry.possessions(session_ids), strict=True)
            held = {i: p for i, p in found if p is not None and p.host and p.state != ENDED}
            unknown = {p.host for p in held.values() if not self._watch.knows(p.host)}
            if unknown:
                await self._registry.add_hosts(sorted(unknown))
            dead = {i: p for i, p in held.items() if self._watch.is_dead(p.host)}
            if dead:
                await self._adopter.adopt(dead)
            if not cursor:
                return
            await asyncio.sleep(PAUSE_S)
