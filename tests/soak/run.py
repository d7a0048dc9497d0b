"""One soak: load and faults for so many minutes, all oracles on, and a look at everything once it is quiet.

Workers as processes hold calls and take over those of workers that died, plain clients check each reply against a
model, subscribers compare what they received; meanwhile a schedule made from a seed (schedule.py) has its faults
happen. In the end the store must have what the daemon serves, and the daemon must be as small as it was.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from callstate_client import connect
from soak.clients import PlainClient, Subscriber, compare
from soak.crew import Crew
from soak.faults import Faults
from soak.floods import FLOODS, JUNK
from soak.oracles import Violation
from soak.resources import BOUNDS, MIB, Resources
from soak.schedule import Step, schedule
from soak.stage import Stage
from support.redis_contents import check_redis

WARM_UP_S: Final = 10.0
WORKERS: Final = 3
PLAIN: Final = 3
SAMPLE_S: Final = 0.5
QUIET_WITHIN_S: Final = 90.0
LATE_S: Final = 180.0
"""How much longer than planned a fault may take to end: longer is a hang, which is a violation."""

PAUSE_S: Final = 3.0
"""The least time between two faults of a lane: a start may take seconds, and a daemon that is killed at once shows
nothing."""


class Soak:
    """One run.

    Args:
        seed: of schedule, requests and faults.
        minutes: from the start of the load to the last fault.
        say: takes a line of progress.
    """

    def __init__(self, seed: int, minutes: float, say: Callable[[str], None]) -> None:
        self._say = say
        self.steps = schedule(seed, max(1.0, minutes * 60 - WARM_UP_S))
        self.stage = Stage(seed)
        daemon = self.stage.daemon
        self.crew = Crew(daemon.socket, seed, WORKERS, daemon.root / "workers", self.stage.losses)
        self.plain = [
            PlainClient(daemon.socket, f"plain-{number}", seed * PLAIN + number, self.stage.losses)
            for number in range(PLAIN)
        ]
        self.subscribers = [
            Subscriber(daemon.socket, self.crew.calls, 0.0, seed),
            Subscriber(daemon.socket, None, 2.0, seed),
        ]
        self.latest: list[Step] = []
        """Steps that have begun, in order."""
        self._flooding = 0

    async def run(self) -> None:
        """Do everything.

        Raises:
            Violation: of an oracle; whatever else is raised is a fault of the daemon too, or of the soak.
        """
        for step in self.steps:
            self._say(f"  {step}")
        self.stage.daemon.root.joinpath("schedule.json").write_text(
            json.dumps([step.to_json() for step in self.steps], indent=1)
        )
        async with self.stage:
            first = self.stage.sample()
            assert first is not None
            resources = Resources(first)
            leaving = asyncio.Event()
            try:
                async with asyncio.TaskGroup() as tasks:
                    working = [tasks.create_task(client.run(leaving)) for client in self.plain]
                    listening = [tasks.create_task(each.run()) for each in self.subscribers]
                    verifying = tasks.create_task(self.crew.verify())
                    sampling = tasks.create_task(self._sample(resources))
                    watching = tasks.create_task(self._watch_crew())
                    await self.crew.start()
                    await asyncio.sleep(WARM_UP_S)
                    await self._play(resources)
                    leaving.set()
                    await asyncio.gather(*working)
                    await self.crew.finish()
                    for task in (*listening, verifying, sampling, watching):
                        task.cancel()
            finally:
                self.crew.abandon()
            await self._check_all(resources)

    # -- while it runs --------------------------------------------------------------------------------------

    async def _play(self, resources: Resources) -> None:
        resources.samples.clear()  # of the warm-up
        faults, began = Faults(self.stage, self.crew), time.monotonic()
        lanes: dict[str, list[Step]] = {}
        for step in self.steps:
            lanes.setdefault(step.lane, []).append(step)
        async with asyncio.TaskGroup() as tasks:
            for steps in lanes.values():
                tasks.create_task(self._lane(faults, steps, began))

    async def _lane(self, faults: Faults, steps: list[Step], began: float) -> None:
        ended = began - PAUSE_S
        for step in steps:
            await asyncio.sleep(max(began + step.at_s, ended + PAUSE_S) - time.monotonic())
            self.latest.append(step)
            flood = step.fault in FLOODS
            self._flooding += flood
            try:
                async with asyncio.timeout(step.for_s + LATE_S):
                    await faults.play(step)
            except TimeoutError:
                raise Violation(f"{step.fault} had no end") from None
            finally:
                self._flooding -= flood
            ended = time.monotonic()

    async def _sample(self, resources: Resources) -> None:
        while True:
            if (sample := await asyncio.to_thread(self.stage.sample)) is not None:
                resources.add(sample, calm=not self._flooding)
            await asyncio.sleep(SAMPLE_S)

    async def _watch_crew(self) -> None:
        while True:
            if (error := self.crew.failed()) is not None:
                raise error
            await asyncio.sleep(SAMPLE_S)

    # -- once it is quiet -----------------------------------------------------------------------------------

    async def _check_all(self, resources: Resources) -> None:
        self._say("quiet: checking what is left")
        events = compare(self.subscribers)
        async with connect(self.stage.daemon.socket, register=False, timeout_s=QUIET_WITHIN_S) as store:
            await self._until(store.stats, lambda stats: stats["store"] == "up" and stats["journal"] == "ok")
            await self._settle(store)
            await self.crew.check_all()
            for client in self.plain:
                await client.check()
            known = {*self.crew.calls.by_id, *(name for each in self.plain for name in each.models)}
            await check_redis(self.stage.redis, store, known)
            await self._check_restart(store, known)
            await self._until(store.stats, lambda stats: stats["connections"] <= 1 + PLAIN)
        self.stage.check_log()
        resources.check_flat()
        quiet = self.stage.sample()
        assert quiet is not None
        resources.check_rest(quiet)
        self._report(resources, events)

    async def _settle(self, store: Any) -> None:
        """Delete what nobody misses, and let the store have the rest."""
        async with asyncio.timeout(QUIET_WITHIN_S):
            while junk := [name for name in await store.list_active("all") if name.startswith(JUNK)]:
                for session_id in junk:
                    await store.delete(session_id)
            assert (await store.flush(timeout_s=QUIET_WITHIN_S)).unflushed == 0

    async def _check_restart(self, store: Any, known: set[str]) -> None:
        """What the journal has is what was served: kill -9 once more, and compare each document."""
        before = {name: await _document(store, name) for name in known}
        await self.stage.daemon.in_thread("kill")
        await self.stage.start()
        for name, document in before.items():
            if (after := await _document(store, name)) != document:
                raise Violation(f"{name} was {document}, and is {after} after a restart")

    async def _until(self, ask: Callable[[], Coroutine[Any, Any, Any]], so: Callable[[Any], bool]) -> Any:
        async with asyncio.timeout(QUIET_WITHIN_S):
            while not so(answer := await ask()):
                await asyncio.sleep(SAMPLE_S / 5)
        return answer

    def _report(self, resources: Resources, events: int) -> None:
        calls = self.crew.calls
        plain = sum(client.acknowledged for client in self.plain)
        self._say(
            f"{len(self.latest)} faults, {self.crew.killed} workers killed, {calls.recovered} calls taken over; "
            f"{calls.acknowledged} turns of workers and {plain} requests of plain clients acknowledged, "
            f"{events} events compared"
        )
        trends = resources.trends()
        self._say(
            f"a line through all samples, per hour: memory {trends['rss'] / MIB:+.1f} MiB, descriptors "
            f"{trends['fds']:+.1f}, disk {trends['disk'] / MIB:+.1f} MiB; bounds over the run: "
            + ", ".join(f"{name} {bound.trend:,.0f}" for name, bound in BOUNDS.items())
        )
        if not calls.acknowledged or not plain or not events:
            raise Violation("a part of the load has done nothing")


async def _document(store: Any, session_id: str) -> dict[str, Any] | None:
    """A session's document, without what a heartbeat changes."""
    with suppress(Exception):
        document: dict[str, Any] = json.loads((await store.load(session_id)).to_json())
        document.pop("updated_at", None)
        return document
    return None
