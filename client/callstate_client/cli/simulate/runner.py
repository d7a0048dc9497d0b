"""Runs the calls of a simulation, notices restarts of the daemon, and checks each call when it is over."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from callstate_client.api import CallStore
from callstate_client.cli.simulate.ledger import Comparison, Ledger
from callstate_client.cli.simulate.player import Player, RunContext
from callstate_client.cli.simulate.scenario import CallScript, Traffic
from callstate_client.cli.simulate.tally import Tally
from callstate_client.errors import CallstateError, SessionNotFoundError
from callstate_client.store import Record

POLL_INTERVAL_S: Final = 0.25
"""How often the daemon is polled, seconds; several restarts within this time count as one."""

CANCEL_S: Final = 1.0
"""How long cancelled calls may take to deliver what they have queued, seconds."""


class DaemonUnreachableError(CallstateError):
    """The daemon has not answered for longer than a simulation tolerates."""


class Simulation:
    """One run of scripted calls against a store.

    Restarts of the daemon during the run are survived, as workers survive them, and counted.

    Args:
        store: an open store with the client's whole API.
        traffic: which calls.
        speed: call time is divided by this; over 0, 1 is real time.
        max_outage_s: how long the daemon may be unreachable before the run fails, seconds.
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
        max_outage_s: float = 30.0,
        on_change: Callable[[Tally], None] = lambda _: None,
    ) -> None:
        if not speed > 0:
            raise ValueError("speed: over 0")
        # ids differ between runs: the daemon may still have yesterday's calls, and `hold` creates new ones
        self.run_id = secrets.token_hex(4)
        self.traffic = traffic
        self.ledgers: list[Ledger] = []
        self.checked = Comparison()
        self.duration_s = 0.0
        labels = {"app": "simulate", "run": self.run_id}
        self._context = RunContext(store, labels, speed, max_outage_s, on_change)
        self._seen_start: str | None = None
        self._calls: set[asyncio.Task[None]] = set()

    @property
    def tally(self) -> Tally:
        """The running counts."""
        return self._context.tally

    @property
    def ok(self) -> bool:
        """Whether every call went as scripted and had everything that was acknowledged at its end."""
        played = self.tally.ended + self.tally.died == self.traffic.calls
        return played and not self.tally.errors and not self.checked.faults

    async def run(self) -> None:
        """Play all calls; returns when the last one is over and compared with its ledger.

        Raises:
            CallstateError: the daemon can't be used at all.
            DaemonUnreachableError: it did not answer for `max_outage_s`.
        """
        began = time.monotonic()
        await self._poll_daemon()
        tasks = {asyncio.create_task(self._drive()), asyncio.create_task(self._watch())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await _cancel(tasks)
            await _cancel(self._calls)
            self.duration_s = time.monotonic() - began
        await self._poll_daemon()

    async def compare(self) -> Comparison:
        """Read every call of this run again and compare it with its ledger."""
        total = Comparison()
        for ledger in self.ledgers:
            total.add(ledger.compare(await self.read(ledger.session_id)))
        return total

    async def read(self, session_id: str) -> Record | None:
        """A call with its whole history; None if the store does not have it."""

        async def attempt() -> Record | None:
            try:
                return await self._context.store.get(session_id)
            except SessionNotFoundError:
                return None

        return await self._context.retrying("read", attempt)

    def report(self) -> dict[str, Any]:
        """The report, as JSON members."""
        seconds = max(self.duration_s, 1e-9)
        tally = self.tally
        return {
            "ok": self.ok,
            "run": self.run_id,
            "seed": self.traffic.seed,
            "speed": self._context.speed,
            "duration_s": round(self.duration_s, 3),
            "per_second": {
                "calls": round((tally.ended + tally.died) / seconds, 1),
                "turns": round(tally.turns_acknowledged / seconds, 1),
                "requests": round(tally.requests / seconds, 1),
            },
            "checked": asdict(self.checked),
            "counts": tally.to_dict(),
            "latency_ms": self._context.latencies.to_dict(),
        }

    # -- the daemon ------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        answered_at = time.monotonic()
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            try:
                await self._poll_daemon()
                answered_at = time.monotonic()
            except CallstateError as error:
                outage_s = time.monotonic() - answered_at
                if not error.retryable or outage_s > self._context.max_outage_s:
                    raise DaemonUnreachableError(
                        f"no answer from the daemon for {outage_s:.1f} s: {error}"
                    ) from error

    async def _poll_daemon(self) -> None:
        # a MemoryStore has none, as it can't be restarted
        started_at = (await self._context.store.info()).get("started_at")
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
            await Player(self._context, script, ledger).play()
            comparison = ledger.compare(await self.read(ledger.session_id))
        except CallstateError as error:
            tally.failed += 1
            tally.problem(type(error).__name__, f"{ledger.session_id}: {error}")
        else:
            self._conclude(script, ledger, comparison)
        finally:
            tally.live -= 1
            self._context.on_change(tally)

    def _conclude(self, script: CallScript, ledger: Ledger, comparison: Comparison) -> None:
        self.checked.add(comparison)
        if comparison.faults:
            self.tally.problem("not as acknowledged", f"{ledger.session_id}: {comparison}")
        if script.reason is None:
            self.tally.died += 1
        else:
            self.tally.ended += 1
            self.tally.reasons[script.reason] += 1


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel what is not done. A cancelled call still delivers what it has queued; cancelled again, it does not."""
    for _ in range(2):
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_S)
    await asyncio.gather(*tasks, return_exceptions=True)
