"""The rounds of a host among others: renew its own lease, look at those of the others, and act on what is seen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from callstate_client.engine.sessions.stored import StoreError
from callstate_sidecar.background import BackgroundTask, cancel_and_wait, supervise
from callstate_sidecar.hosts.absence import AbsenceGate
from callstate_sidecar.hosts.adoption import Adopter
from callstate_sidecar.hosts.doubts import Doubts
from callstate_sidecar.hosts.lease import HostIdTakenError, HostLease
from callstate_sidecar.hosts.possession import Possessions
from callstate_sidecar.hosts.sweep import ActiveSweep
from callstate_sidecar.hosts.watch import HostWatch
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.stores.hosts import HostRegistry, LeaseReply
from callstate_sidecar.system.clock import SystemClock

log = EventLog(__name__)

REMEMBER_LEASES: Final = 10
"""For how many leases all hosts are told that a host was found dead: time for several sweeps to find sessions that
its set lacks."""

CONTACT_EVERY_S: Final = 0.5
"""How often to try a store that was down at the start, seconds: nothing is written before the lease is held."""

COMPARE_S: Final = 30.0
"""How long a start may take to compare its sessions with the store; what is left is done while it serves."""


class HostRounds(BackgroundTask):
    """Makes one round each `lease.interval_s`.

    Args:
        registry: the hosts of the store.
        lease: this host's.
        watch: the others'.
        possessions: compares sessions with the store.
        doubts: has the sessions that this host may have been given.
        adopter: takes over the sessions of dead hosts.
        sweep: of the active set.
        clock: monotonic time.
        metrics: counts what fails.
        lease_s: `store.host_lease_s`.
        host_id_taken: called once where another daemon turns out to have this host's id.
        gate: holds requests back after an absence.
    """

    def __init__(
        self,
        *,
        registry: HostRegistry,
        lease: HostLease,
        watch: HostWatch,
        possessions: Possessions,
        doubts: Doubts,
        adopter: Adopter,
        sweep: ActiveSweep,
        clock: SystemClock,
        metrics: Metrics,
        lease_s: float,
        host_id_taken: Callable[[HostIdTakenError], None],
        gate: AbsenceGate,
    ) -> None:
        super().__init__(metrics)
        self._registry = registry
        self._lease = lease
        self._watch = watch
        self._possessions = possessions
        self._doubts = doubts
        self._adopter = adopter
        self._sweep = sweep
        self._clock = clock
        self._lease_s = lease_s
        self._host_id_taken = host_id_taken
        self._gate = gate
        self._work: asyncio.Task[None] | None = None
        self._dead: list[str] = []
        self.is_dead = watch.is_dead
        self._has_contact = True
        self._compare = self._recover = True
        """Whether all hot sessions are still to be compared with the store, and its others still to be read."""

    async def begin(self, check: Callable[[], None]) -> None:
        """Before the daemon serves: the first round, where the store can be reached.

        Args:
            check: called while this waits; may raise.

        Raises:
            HostIdTakenError: another daemon has this host's id.
        """
        try:
            was_away = self._was_away(await self._lease.renew(check))
            self._compare = self._compare and was_away
            async with asyncio.timeout(COMPARE_S):
                await self._catch_up()
        except StoreError as error:
            self._has_contact = self._lease.is_ours
            log.warning(
                "host_id_unchecked", "can't check yet whether another daemon uses this host's id: %s", error
            )
        except TimeoutError:
            log.warning(
                "compare_slow",
                "sessions have not been compared with the store in %g s; serving meanwhile",
                COMPARE_S,
            )

    def _was_away(self, reply: LeaseReply) -> bool:
        """Whether the lease may have run out since it was raised before."""
        return reply.age_ms is None or reply.age_ms > self._lease_s * 1000

    async def _catch_up(self) -> None:
        """Give up the sessions that others have taken, and read those of this host that are not hot."""
        if self._compare:
            await self._possessions.look_at_all()
            self._compare = False
        if self._recover:
            found = await self._possessions.look_at_own_set()
            if found:
                log.info("sessions_reread", "%d sessions of this host were read from the store", found)
            self._recover = False

    async def stop(self) -> None:
        """End; see BackgroundTask."""
        if self._work is not None:
            await cancel_and_wait(self._work)
        await super().stop()

    async def _run(self) -> None:
        while True:
            interval_s = self._lease.interval_s
            await asyncio.sleep(interval_s if self._has_contact else min(CONTACT_EVERY_S, interval_s))
            self._gate.present()
            try:
                await self.round()
            except HostIdTakenError as error:
                self._host_id_taken(error)
                return

    async def round(self) -> None:
        """Raise the lease and look at the others'; where the store does not answer, what was seen of the other
        hosts does not count any more.

        Raises:
            HostIdTakenError: another daemon has this host's id.
        """
        try:
            if not self._has_contact:
                holder = await self._registry.lease_holder()
                self._has_contact = True
                if not holder:
                    return  # see lease.py
            self._compare = self._was_away(await self._lease.renew()) or self._compare
            self._dead = self._watch.look(await self._registry.look_around(self._watch.ahead), self._clock.mono())
        except StoreError:
            self._watch.interrupted()
            return
        if self._work is None or self._work.done():  # what takes long must not hold up the lease
            self._work = supervise("hosts", self._act, self._metrics)

    async def _act(self) -> None:
        """Act on what was seen; what fails is done in the next round."""
        try:
            await self._possessions.look_at_hints()
            await self._catch_up()
            await self._doubts.settle()
            for host in self._dead:
                await self._registry.note_dead(host, REMEMBER_LEASES * self._lease_s)
                await self._adopter.adopt_all(host)
            await self._sweep.sweep_if_due()
        except StoreError as error:
            log.debug("host_round_cut_short", "a round among the hosts was cut short: %s", error)
