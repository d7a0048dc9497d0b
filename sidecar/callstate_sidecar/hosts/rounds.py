"""The rounds of a host among others: raise the own lease, look at those of the others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from callstate_client.engine.sessions.stored import StoreError
from callstate_sidecar.background import BackgroundTask
from callstate_sidecar.hosts.lease import HostIdTakenError, HostLease
from callstate_sidecar.hosts.watch import HostWatch
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.stores.hosts import HostRegistry
from callstate_sidecar.system.clock import SystemClock

log = logging.getLogger(__name__)


class HostRounds(BackgroundTask):
    """Makes one round each `lease.interval_s`.

    Args:
        registry: the hosts of the store.
        lease: this host's.
        watch: the others'.
        clock: monotonic time.
        metrics: counts what fails.
        host_id_taken: called once where another daemon turns out to have this host's id.
    """

    def __init__(
        self,
        registry: HostRegistry,
        lease: HostLease,
        watch: HostWatch,
        clock: SystemClock,
        metrics: Metrics,
        host_id_taken: Callable[[HostIdTakenError], None],
    ) -> None:
        super().__init__(metrics)
        self._registry = registry
        self._lease = lease
        self._watch = watch
        self._clock = clock
        self._host_id_taken = host_id_taken
        self.is_dead = watch.is_dead

    async def begin(self, check: Callable[[], None]) -> None:
        """Before the daemon serves: the first round, where the store can be reached.

        Args:
            check: called while this waits; may raise.

        Raises:
            HostIdTakenError: another daemon has this host's id.
        """
        try:
            await self._lease.renew(check)
        except StoreError as error:
            log.warning("whether another daemon has this host's id is not known yet: %s", error)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._lease.interval_s)
            try:
                await self.round()
            except HostIdTakenError as error:
                self._host_id_taken(error)
                return

    async def round(self) -> None:
        """One round; where the store does not answer, what was seen of the other hosts does not count any more.

        Raises:
            HostIdTakenError: another daemon has this host's id.
        """
        try:
            await self._lease.renew()
            self._watch.look(await self._registry.counters(), self._clock.mono())
        except StoreError:
            self._watch.interrupted()
