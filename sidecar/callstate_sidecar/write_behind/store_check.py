"""The check behind `server.check`: what of memory the store lacks or has otherwise, and whether the store is sound.

It compares as the sweep does, and repairs by the sweep's means: what is to be mended is written again by
write-behind, through its fencing and reconciliation. So a repair can't do what a normal write could not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Final

from callstate_client.engine.sessions.stored import (
    StoredSession,
    StoreError,
    StorePartDownError,
    StoreRefusingError,
)
from callstate_client.engine.table.session_table import SessionTable
from callstate_client.protocol.results import CheckResult, Finding
from callstate_sidecar.stores.backend import Backend, Deviation, Flaw, StoredVersion
from callstate_sidecar.system.clock import SystemClock
from callstate_sidecar.write_behind.flush import FlushBarrier
from callstate_sidecar.write_behind.store_state import StoreState
from callstate_sidecar.write_behind.sweep import StoreSweep

SESSIONS_A_STEP: Final = 100
"""Sessions compared in one step, as many as in the sweep: about a millisecond of the loop."""

MAX_FINDINGS: Final = 200
"""Findings in one result, about 50 kB; the others are counted."""

REPAIR_S: Final = 10.0
"""How long to wait for the store to take what is written again, seconds."""

BEHIND_S: Final = 10.0
"""A store that is up and has not accepted a change for this long, seconds, is too slow, or something is wrong."""

_WAIT: Final = "look at the store; changes wait here, in memory and journal, until it recovers"
_AGAIN: Final = "run with --repair: it is written again"
_THEIRS: Final = "run with --repair, or wait for the next sweep: theirs is taken, or set aside if both have changed"
TEXTS: Final[dict[str, tuple[str, str]]] = {
    "missing": ("the store has nothing of it", f"{_AGAIN}. Find out what removes keys: eviction, or by hand"),
    "deleted": ("other software has deleted it", "it is deleted here as well by the next sweep, or --repair"),
    "changed": ("other software has changed it", _THEIRS),
    "older": ("the store has an older version", _AGAIN),
    "newer": ("the store has a newer version", "run with --repair: they are merged"),
    "other_host": (
        "the store has it from another host",
        "run with --repair, or wait for the next sweep: what this host has of it is set aside",
    ),
    "no_ttl": ("it never expires in the store", _AGAIN),
    "wrong_type": ("its key holds another type", "find out who wrote it, and rename or delete the key"),
    "unlisted": ("it is live, and not in the active set", _AGAIN),
    "ghost": ("it has ended, and is in the active set", _AGAIN),
}
_OF_FLAW: Final = {Flaw.LISTED: "ghost"}


class StoreCheck:
    """Compares memory with the store.

    Args:
        store: whether the store is up.
        sweep: knows what the store is expected to have, and settles what it has otherwise.
        check_loss: checks whether the store has lost everything, and repairs that.
        barrier: waits for what is written again.
        host_id: this host.
        commit: commits the open group.
    """

    def __init__(
        self,
        table: SessionTable,
        backend: Backend,
        clock: SystemClock,
        store: StoreState,
        sweep: StoreSweep,
        check_loss: Callable[[], Awaitable[None]],
        barrier: FlushBarrier,
        host_id: str,
        commit: Callable[[], None],
    ) -> None:
        self._table = table
        self._backend = backend
        self._clock = clock
        self._store = store
        self._sweep = sweep
        self._check_loss = check_loss
        self._barrier = barrier
        self._host_id = host_id
        self._commit = commit
        self._one_at_a_time = asyncio.Lock()

    async def run(self, repair: bool) -> CheckResult:
        """Check the store, and all sessions.

        Args:
            repair: also repair what can be repaired safely.

        Returns:
            what was found, also that the store does not answer.
        """
        async with self._one_at_a_time:
            result = CheckResult(0, [])
            try:
                await self._backend.ping()
                await self._check_for_loss(result)
                async for finding in self._backend.inspect(self._clock.wall_us, repair=repair):
                    if finding.session_id not in self._table.sessions:
                        _add(result, finding)
                await self._check_sessions(result, repair=repair)
                await self._check_refused(result)
            except StoreError as error:
                if not isinstance(error, StorePartDownError):
                    kind = "refusing" if isinstance(error, StoreRefusingError) else "down"
                    _add(result, Finding(kind, str(error), _WAIT))
            self._check_waiting(result)
            return result

    async def _check_for_loss(self, result: CheckResult) -> None:
        losses = self._backend.data_losses
        await self._check_loss()
        if self._backend.data_losses != losses:
            left = await self._barrier.wait(None, REPAIR_S)
            remedy = "everything in memory is written again. Find out why: see the log"
            finding = Finding("lost", "the store has lost data", remedy, repaired=not left["unflushed"])
            _add(result, finding)

    # -- sessions -------------------------------------------------------------------------------------------

    async def _check_sessions(self, result: CheckResult, *, repair: bool) -> None:
        mended, is_repaired = list[Finding](), False
        for some in self._table.ids(SESSIONS_A_STEP):
            expected = self._sweep.expected(some)
            for session_id, (kind, deviation) in (await self._compare(expected, result)).items():
                if not self._sweep.is_clean(session_id, expected):
                    continue  # its next write finds out
                finding = Finding(kind, *TEXTS[kind], session_id=session_id)
                is_listed = _add(result, finding)
                if repair and kind != Flaw.WRONG_TYPE.value:
                    self._sweep.settle(session_id, deviation, expected)
                    is_repaired = True
                    mended += [finding] * is_listed
            result.checked += len(expected)
            self._commit()
        if is_repaired:
            await self._barrier.wait(None, REPAIR_S)
            for finding in mended:
                session = self._table.sessions.get(finding.session_id)
                finding.repaired = session is None or self._table.is_stored(session)

    async def _compare(
        self, expected: dict[str, StoredVersion], result: CheckResult
    ) -> dict[str, tuple[str, Deviation]]:
        """What is not as expected of these sessions, in a word, and as the sweep has to settle it."""
        sessions = [*expected.values()]
        deviating = dict(await self._backend.check(sessions))
        found: dict[str, tuple[str, Deviation]] = {}
        for session_id, flaw in await self._backend.examine(sessions):
            if flaw is Flaw.WRONG_TYPE or session_id not in deviating:
                found[session_id] = (_OF_FLAW.get(flaw, flaw.value), Deviation.OTHER)
        for session_id, deviation in deviating.items():
            if session_id not in found:
                kind = deviation.value
                if deviation is Deviation.OTHER:
                    is_told = len(result.findings) + len(found) < MAX_FINDINGS
                    stored = await self._backend.read(session_id) if is_told else None
                    kind = _kind(stored, expected[session_id], self._host_id)
                found[session_id] = (kind, deviation)
        return found

    # -- what waits -----------------------------------------------------------------------------------------

    async def _check_refused(self, result: CheckResult) -> None:
        """Sessions in quarantine, and whose keys hold another type."""
        refused = {
            each: self._table.quarantined.get(each) for each in islice(self._table.quarantined, MAX_FINDINGS)
        }
        flaws = dict(await self._backend.examine([StoredVersion(each, 0, "", False) for each in refused]))
        for session_id, refusal in refused.items():
            if flaws.get(session_id) is Flaw.WRONG_TYPE:
                _add(result, Finding("wrong_type", *TEXTS["wrong_type"], session_id=session_id))
            elif refusal is not None:
                detail = f"the store refuses it: {refusal.why}"
                _add(result, Finding("refused", detail, f"see callstate quarantine show {session_id}", session_id))
        result.left_out += max(0, len(self._table.quarantined) - len(refused))

    def _check_waiting(self, result: CheckResult) -> None:
        """What the store has not taken."""
        if self._backend.away:
            _add(result, Finding("partly_down", self._backend.away, _WAIT))
        table, store, oldest = self._table, self._store, self._table.dirty.oldest
        if store.status == "refusing" and not any(each.kind == "refusing" for each in result.findings):
            _add(result, Finding("refusing", store.error, _WAIT))
        age_s = 0.0 if oldest is None else self._clock.mono() - oldest
        if store.status == "up" and age_s > BEHIND_S:
            detail = f"{table.dirty.sessions} sessions wait for the store, the oldest for {age_s:.0f} s"
            _add(result, Finding("behind", detail, "the store is too slow, or a session too large: see the log"))
        for session_id in islice(table.set_aside, MAX_FINDINGS):
            detail = "another host has taken it over; changes acknowledged here are set aside"
            _add(result, Finding("set_aside", detail, f"see callstate quarantine show {session_id}", session_id))
        result.left_out += max(0, len(table.set_aside) - MAX_FINDINGS)


def _add(result: CheckResult, finding: Finding) -> bool:
    """List a finding, or count it where there is no room. Returns whether it is listed."""
    if len(result.findings) >= MAX_FINDINGS:
        result.left_out += 1
        return False
    result.findings.append(finding)
    return True


def _kind(stored: StoredSession | None, expected: StoredVersion, host_id: str) -> str:
    """In which way the store has another version."""
    if stored is None or (stored.document is None and (stored.meta is None or not stored.meta.deleted)):
        return "missing"
    if stored.meta is None:
        return "changed"
    if stored.meta.host != host_id:
        return "other_host"
    return "newer" if stored.meta.version > expected.version else "older"
