"""Adoption: the sessions of a dead host are taken over, and are orphans here until somebody claims them.

Every host that sees it dead may adopt; each session goes to the one whose compare-and-set comes first. So that they
don't all try at once, one of them has it as its duty for a while. Which sessions there are is read from the dead
host's set, and meta decides; those that the set lacks are found by the sweep of the active set (sweep.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from callstate_client.engine.reasons import HOST_LOST
from callstate_client.engine.rules import handoff
from callstate_client.engine.rules.context import Context
from callstate_client.engine.sessions.stored import ENDED, StoredSession, StoreError
from callstate_client.engine.table.readings import Reading
from callstate_client.errors import UnreadableError
from callstate_sidecar.journal import PartsLog
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.reconcile import Reconciler
from callstate_sidecar.slices import in_turns
from callstate_sidecar.stores.hosts import HostRegistry, Possession, Take, TakeOutcome

log = EventLog(__name__)

TAKES_AT_ONCE: Final = 20
"""Documents parsed and journaled without giving way to the loop: a millisecond or two."""

DUTY_S: Final = 10.0
"""How long nobody else adopts a host's sessions after a page of them."""


class Adopter:
    """Takes over the sessions of dead hosts.

    Args:
        registry: the hosts of the store.
        ctx: the sessions.
        reconciler: gives up sessions of other hosts.
        commit: commits the open group.
        host_id: this host.
        instance: this daemon.
        in_doubt: gets the sessions that the store may have given to this host without their being hot.
        metrics: counts the sessions adopted.
        parts: journals long histories in parts; None: there is no log.
    """

    def __init__(
        self,
        registry: HostRegistry,
        ctx: Context,
        reconciler: Reconciler,
        commit: Callable[[], None],
        host_id: str,
        instance: str,
        in_doubt: set[str],
        metrics: Metrics,
        parts: PartsLog | None = None,
    ) -> None:
        self._registry = registry
        self._ctx = ctx
        self._reconciler = reconciler
        self._commit = commit
        self._host_id = host_id
        self._instance = instance
        self._in_doubt = in_doubt
        self._metrics = metrics
        self._parts = parts

    async def adopt_all(self, host: str) -> int:
        """Take over all sessions of a dead host, as far as there is room.

        Returns:
            how many this host has taken.

        Raises:
            StoreError: the store failed on the way.
        """
        adopted, cursor, left = 0, "", False
        while await self._registry.begin_duty(f"adopt:{host}", self._instance, DUTY_S):
            session_ids, cursor = await self._registry.sessions_of(host, cursor)
            found = await self._registry.possessions(session_ids)
            theirs = {i: p for i, p in zip(session_ids, found, strict=True) if p is not None and p.host == host}
            strays = [i for i in session_ids if i not in theirs or theirs[i].state == ENDED]
            await self._registry.remove_from_set(host, strays)
            taken = await self.adopt(theirs)
            left = left or taken < len(theirs)
            adopted += taken
            if not cursor:
                if not left:
                    await self._registry.forget_host(host)
                break
        if adopted:
            log.warning(
                "host_dead", "host %s is dead: %d of its sessions were taken over", host, adopted, host=host
            )
        return adopted

    async def adopt(self, sessions: dict[str, Possession]) -> int:
        """Take over these sessions of dead hosts.

        Returns:
            how many this host has taken.

        Raises:
            StoreError: the store failed on the way.
        """
        takes = [Take(i, p.host, p.epoch, "", force=True) for i, p in sessions.items() if p.state != ENDED]
        adopted = 0
        for start in range(0, len(takes), TAKES_AT_ONCE):
            if not self._has_room():
                log.warning(
                    "adoption_no_room",
                    "no room for a dead host's sessions: limits.sessions or limits.hot_bytes is reached, or this "
                    "host is draining",
                )
                break
            adopted += await self._adopt_some(takes[start : start + TAKES_AT_ONCE])
        return adopted

    def _has_room(self) -> bool:
        ctx, limits = self._ctx, self._ctx.limits
        if ctx.draining or ctx.room.is_full(limits):
            return False
        return len(ctx.table.sessions) + TAKES_AT_ONCE <= limits.sessions

    async def _adopt_some(self, takes: Sequence[Take]) -> int:
        readings = self._ctx.table.readings
        begun = [readings.begin(take.session_id) for take in takes]
        adopted = 0
        try:
            given = [*zip(takes, await self._registry.take(takes), begun, strict=True)]
            self._in_doubt.update(each.session_id for each, taken, _ in given if taken.stored is not None)
            for take, taken, reading in given:
                if taken.outcome is TakeOutcome.TAKEN and taken.stored is not None:
                    adopted += 1
                    await self._adopt_one(take, taken.stored, reading)
        except StoreError:
            for take in takes:
                readings.outdate(take.session_id)  # what was read before does not settle the doubt
                self._in_doubt.add(take.session_id)
            raise
        finally:
            for reading in begun:
                readings.let_go(reading)
            self._metrics.count("sessions_adopted", adopted)
            self._commit()
        return adopted

    async def _adopt_one(self, take: Take, stored: StoredSession, reading: Reading) -> None:
        """Make a session hot, unless it is, or is deleted in the store. If it was hot and is not any more, it is to
        be read again: it may be deleted by now. If it is hot as it was before it was lost to the dead host, which
        nobody has noticed yet, that is set aside, and a deletion of that is given up."""
        ctx, session_id = self._ctx, take.session_id
        try:
            session = await in_turns(handoff.take_over(session_id, stored, self._host_id, HOST_LOST))
        except UnreadableError as error:
            log.error(
                "adoption_unreadable", "session %s of dead host %s can't be read: %s", session_id, take.host, error,
                session_id=session_id, host=take.host,
            )  # fmt: skip
            session = None
        if session is not None and self._parts is not None:
            await self._parts.write(session)
        hot = ctx.table.sessions.get(session_id)
        is_lost = hot is not None and session is not None and hot.facts.epoch < session.facts.epoch
        if hot is not None and is_lost and not hot.unverified:
            self._reconciler.lose(hot, take.host, take.epoch)
        elif reading.outdated:
            ctx.table.readings.outdate(session_id)  # as others were begun before the store gave it
            return
        self._in_doubt.discard(session_id)
        deletion = ctx.table.tombstones.pending.get(session_id)
        if session is not None and deletion is not None and deletion.epoch < session.facts.epoch:
            self._reconciler.give_up_deletion(session_id, stored, take.host)
        if session is not None and session_id not in ctx.table.sessions:
            handoff.adopt(ctx, session, stored.meta.owner if stored.meta is not None else "")
