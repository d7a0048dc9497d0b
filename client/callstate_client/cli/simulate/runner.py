"""Runs the calls of a traffic side by side, watches the daemon, checks each call when it is over."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from callstate_client.api import CallStore
from callstate_client.cli.simulate.ledger import Comparison, Ledger
from callstate_client.cli.simulate.player import Player, Stage
from callstate_client.cli.simulate.scenario import CallScript, Traffic
from callstate_client.cli.simulate.tally import Tally
from callstate_client.errors import CallstateError, SessionNotFoundError
from callstate_client.store import Record

LOOK_INTERVAL_S: Final = 0.25
"""How often the daemon is looked at: restarts that follow each other faster count as one."""


LEAVE_S: Final = 1.0
"""How long calls that are broken off may take to deliver what they had queued."""


class DaemonGoneError(CallstateError):
    """The daemon answered nothing for longer than the simulation's patience."""


class Simulation:
    """One run of scripted calls against a store.

    A restart of the daemon in mid-run is survived, as workers survive it, and counted.

    Args:
        store: an open store with the client's whole API.
        traffic: which calls.
        speed: call time is divided by this; over 0, 1 is real time.
        patience_s: how long the daemon may be away before the run is given up, seconds.
        on_change: called after each answer with the running counts.

    Raises:
        ValueError: the speed is not over 0.
    """

    def __init__(
        self,
        store: CallStore,
        traffic: Traffic,
        *,
        speed: float = 1.0,
        patience_s: float = 30.0,
        on_change: Callable[[Tally], None] = lambda _: None,
    ) -> None:
        if not speed > 0:
            raise ValueError("speed: over 0")
        # ids must differ between runs: the daemon keeps yesterday's calls, and `hold` creates
        self.run_id = secrets.token_hex(4)
        self.traffic = traffic
        self.ledgers: list[Ledger] = []
        self.checked = Comparison()
        self.duration_s = 0.0
        labels = {"app": "simulate", "run": self.run_id}
        self._stage = Stage(store, labels, speed, patience_s, on_change)
        self._seen_start: str | None = None
        self._calls: set[asyncio.Task[None]] = set()

    @property
    def tally(self) -> Tally:
        """The running counts."""
        return self._stage.tally

    @property
    def ok(self) -> bool:
        """Whether every call went as scripted and all that was acknowledged was there at its end."""
        played = self.tally.ended + self.tally.died == self.traffic.calls
        return played and not self.tally.errors and not self.checked.faults

    async def run(self) -> None:
        """Play all calls; returns when the last one is over and was compared with its ledger.

        Raises:
            CallstateError: the daemon can't be used at all.
            DaemonGoneError: no answer for `patience_s`.
        """
        began = time.monotonic()
        await self._look()
        tasks = {asyncio.create_task(self._drive()), asyncio.create_task(self._watch())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await _leave(tasks)
            await _leave(self._calls)
            self.duration_s = time.monotonic() - began
        await self._look()

    async def compare(self) -> Comparison:
        """Read every call of this run back once more and compare it with its ledger."""
        total = Comparison()
        for ledger in self.ledgers:
            total.add(ledger.compare(await self.read(ledger.session_id)))
        return total

    async def read(self, session_id: str) -> Record | None:
        """A call with its whole history; None when the store knows none of that id."""

        async def attempt() -> Record | None:
            try:
                return await self._stage.store.get(session_id)
            except SessionNotFoundError:
                return None

        return await self._stage.patiently("read", attempt)

    def report(self) -> dict[str, Any]:
        """What happened, as JSON members."""
        seconds = max(self.duration_s, 1e-9)
        tally = self.tally
        return {
            "ok": self.ok,
            "run": self.run_id,
            "seed": self.traffic.seed,
            "speed": self._stage.speed,
            "duration_s": round(self.duration_s, 3),
            "per_second": {
                "calls": round((tally.ended + tally.died) / seconds, 1),
                "turns": round(tally.turns_acknowledged / seconds, 1),
                "requests": round(tally.requests / seconds, 1),
            },
            "checked": asdict(self.checked),
            "counts": tally.to_dict(),
            "latency_ms": self._stage.latencies.to_dict(),
        }

    # -- the daemon ------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        answered_at = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            try:
                await self._look()
                answered_at = time.monotonic()
            except CallstateError as error:
                away_s = time.monotonic() - answered_at
                if not error.retryable or away_s > self._stage.patience_s:
                    raise DaemonGoneError(f"no answer from the daemon for {away_s:.1f} s: {error}") from error

    async def _look(self) -> None:
        # a MemoryStore does not say, as it can't be restarted
        started_at = (await self._stage.store.info()).get("started_at")
        if self._seen_start not in (None, started_at):
            self.tally.restarts += 1
        self._seen_start = started_at

    # -- the calls -------------------------------------------------------------------------------------------

    async def _drive(self) -> None:
        began = time.monotonic()
        for script in self.traffic.scripts():
            await asyncio.sleep(max(0.0, began + script.arrives_s - time.monotonic()))
            self._calls.add(asyncio.create_task(self._call(script)))
        await asyncio.gather(*self._calls)

    async def _call(self, script: CallScript) -> None:
        tally = self.tally
        ledger = Ledger(f"sim-{self.run_id}-{script.number}")
        self.ledgers.append(ledger)
        tally.started += 1
        tally.live += 1
        try:
            await Player(self._stage, script, ledger).play()
            comparison = ledger.compare(await self.read(ledger.session_id))
        except CallstateError as error:
            tally.failed += 1
            tally.problem(type(error).__name__, f"{ledger.session_id}: {error}")
        else:
            self._conclude(script, ledger, comparison)
        finally:
            tally.live -= 1
            self._stage.on_change(tally)

    def _conclude(self, script: CallScript, ledger: Ledger, comparison: Comparison) -> None:
        self.checked.add(comparison)
        if comparison.faults:
            self.tally.problem("not as acknowledged", f"{ledger.session_id}: {comparison}")
        if script.reason is None:
            self.tally.died += 1
        else:
            self.tally.ended += 1
            self.tally.reasons[script.reason] += 1


async def _leave(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel what is not done. A call that is cancelled still delivers; cancelled again it lets that be."""
    for _ in range(2):
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=LEAVE_S)
    await asyncio.gather(*tasks, return_exceptions=True)
