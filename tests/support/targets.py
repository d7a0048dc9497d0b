"""What ownership is tested on: MemoryStores whose clock stands still, and a daemon with workers to kill."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path

from callstate_client import CallStore, Clock, MemoryStore, SidecarStore, connect
from callstate_client.protocol.events import Cursor, Event
from support.daemon import Daemon
from support.owners import START, Events, Target, a_call
from support.remote import Remote, RemoteStore, remote
from support.worker_forker import LOOPS

SPANS = {"heartbeat_timeout_s": 1.0, "grace_s": 0.8, "retention_s": 60.0, "reconnect_grace_s": 1.0, "tick_s": 0.02}
"""The daemon's time spans: tests wait for them, so they are no longer than a busy machine needs."""

FLUSH_S = 60.0
"""Longer than any test, so that no test depends on when the daemon flushes."""

WITHIN_S = 20.0
"""How long an event may take on a busy machine."""

HOURGLASS = "hourglass-"
"""Id prefix of sessions that measure the daemon's time; tests do not get their events."""


class Daemons:
    """One daemon per test. The next one starts while a test runs, because a start takes as long as a test."""

    def __init__(self) -> None:
        self._next: Daemon | None = None

    def _launch(self) -> Daemon:
        settings = {f"reaper.{key}": value for key, value in SPANS.items()} | {"store.flush_interval_s": FLUSH_S}
        daemon = Daemon(*(part for key, value in settings.items() for part in ("--set", f"{key}={value}")))
        daemon.launch()
        return daemon

    def take(self) -> Daemon:
        """A running daemon without sessions; the caller closes it."""
        daemon, self._next = self._next or self._launch(), None
        daemon.wait_ready()
        self._next = self._launch()
        return daemon

    def close(self) -> None:
        """Close the daemon that was started in advance."""
        if self._next is not None:
            self._next.close()


@dataclass
class TargetResources:
    """What a target is made from.

    Args:
        daemons: for one per target.
        forker: path of the worker forker's socket.
    """

    daemons: Daemons
    forker: Path


@asynccontextmanager
async def memory(_: Callable[[], TargetResources]) -> AsyncIterator[Target]:
    """MemoryStores with common sessions, and a clock that stands still."""
    first = MemoryStore(Clock(START), worker_id=None)
    made: list[MemoryStore] = [first]

    async def make_worker(worker_id: str | None) -> MemoryStore:
        made.append(first.worker(worker_id))
        return made[-1]

    async def kill(store: CallStore) -> None:
        assert isinstance(store, MemoryStore)
        store.kill_worker()

    async def watch(*types: str, since: Cursor | None = None) -> Events:
        return first.events(*types, since=since)

    async def pass_time(seconds: float) -> None:
        first.clock.advance(seconds)

    yield Target(make_worker, kill, watch, pass_time, first.clock.now, 30.0, 30.0, 300.0, 5.0)
    for store in made:
        await store.close()


class WithoutHourglasses:
    """Events without those of hourglass sessions."""

    def __init__(self, events: Events) -> None:
        self._events = events

    async def __anext__(self) -> Event:
        """The next event."""
        while True:
            event = await anext(self._events)
            if not (event.session_id or "").startswith(HOURGLASS):
                return event


class DaemonTarget:
    """A daemon and the processes around it.

    Args:
        daemon: running.
        forker: path of the worker forker's socket.
        store: unregistered, for events.
        stack: closes what is opened here.
    """

    def __init__(self, daemon: Daemon, forker: Path, store: SidecarStore, stack: AsyncExitStack) -> None:
        self._daemon = daemon
        self._forker = forker
        self._store = store
        self._stack = stack
        self._loops = cycle(LOOPS)  # in turn, so that each test has clients on both
        self._workers: dict[str, Remote] = {}
        self._hourglasses = 0

    async def _process(self, worker_id: str | None) -> Remote:
        process = None if worker_id is None else self._workers.get(worker_id)
        if process is None or not process.alive:
            process = await self._stack.enter_async_context(remote(self._forker, next(self._loops)))
        if worker_id is not None:
            self._workers[worker_id] = process
        return process

    async def make_worker(self, worker_id: str | None) -> RemoteStore:
        """See Target."""
        process = await self._process(worker_id)
        return await process.open(self._daemon.socket, worker_id)

    async def kill(self, store: CallStore) -> None:
        """See Target. By the event `worker.left` the first of its calls are suspects."""
        assert isinstance(store, RemoteStore)
        async with asyncio.timeout(WITHIN_S), self._store.events("worker.left") as left:
            await store.process.kill()
            while (await anext(left)).worker_id != store.worker_id:
                pass

    async def watch(self, *types: str, since: Cursor | None = None) -> Events:
        """See Target."""
        events = self._store.events(*types, since=since)
        await self._stack.enter_async_context(events)
        return WithoutHourglasses(events)

    async def pass_time(self, seconds: float) -> None:
        """See Target. It waits until a session with this timeout is suspected: then everything else that was due
        has been done."""
        self._hourglasses += 1
        hourglass = f"{HOURGLASS}{self._hourglasses}"
        async with asyncio.timeout(seconds + WITHIN_S), self._store.events("suspect") as events:
            await self._store.save(a_call(hourglass), heartbeat_timeout_s=seconds)
            while (await anext(events)).session_id != hourglass:
                pass
        await self._store.delete(hourglass)


@asynccontextmanager
async def daemon(resources: Callable[[], TargetResources]) -> AsyncIterator[Target]:
    """A daemon with short time spans, and a process for each worker."""
    around = resources()
    running = around.daemons.take()
    with contextlib.closing(running):
        async with connect(running.socket, register=False) as store, AsyncExitStack() as stack:
            outside = DaemonTarget(running, around.forker, store, stack)
            yield Target(
                outside.make_worker, outside.kill, outside.watch, outside.pass_time, lambda: datetime.now(UTC),
                SPANS["heartbeat_timeout_s"], SPANS["grace_s"], SPANS["retention_s"], SPANS["reconnect_grace_s"],
            )  # fmt: skip


TARGETS: dict[str, Callable[[Callable[[], TargetResources]], AbstractAsyncContextManager[Target]]] = {
    "memory": memory,
    "daemon": daemon,
}
"""Targets by name. Resources are made on demand: MemoryStore needs none."""
