"""Two hosts take sessions from each other, while their daemons are killed, their disks full and replies lost.

Courses by chance: workers of both add turns and claim, each host adopts what the other has, which it may take for
dead, and neither may have noticed what it has lost. Whatever the course, once all is calm: each acknowledged turn
is in the store, and once, or in a copy that a host has set aside; and a session is hot at the host that the store
names, and at no other.
"""

from __future__ import annotations

import asyncio
import errno
import json
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, cast

import pytest
from msgspec import structs

from callstate_client.engine.sessions.records import Record, decode_record, encode_record
from callstate_client.engine.sessions.stored import StoredMeta, StoredSession, StoreError
from callstate_client.engine.table.replay import replay
from callstate_client.engine.table.session_table import SessionTable
from callstate_sidecar.hosts.adoption import Adopter
from callstate_sidecar.hosts.doubts import Doubts
from callstate_sidecar.hosts.possession import Possessions
from callstate_sidecar.hosts.takeover import Takeovers
from callstate_sidecar.journal import Journal
from callstate_sidecar.stores.backend import Deviation, StoredVersion
from callstate_sidecar.stores.hosts import HostRegistry, Possession, Take, Taken, TakeOutcome, next_term
from support.budget import examples
from support.core import Core
from support.slow_backend import Chance, SlowBackend
from support.stores import MemoryBackend

HOSTS: Final = ("host-1", "host-2")
IDS: Final = "abc"
STEPS: Final = 80
CALM_STEPS: Final = 15
"""The last ones, of which none fails."""
TICK_S: Final = 0.0001
ROUND_S: Final = 6.0
"""More than a store that failed is given before it is tried again."""


class Store(Chance):
    """What the hosts share."""

    def __init__(self, rnd: random.Random) -> None:
        super().__init__(rnd)
        self.rows: dict[str, StoredSession] = {}
        self.hints: dict[str, set[str]] = {host: set() for host in HOSTS}


class Link(SlowBackend):
    """A daemon's way to the store, backend and registry of hosts in one."""

    def __init__(self, store: Store, host: str) -> None:
        super().__init__(store)
        self.store, self.rows, self.host = store, store.rows, host

    async def check(self, sessions: Sequence[StoredVersion]) -> list[tuple[str, Deviation]]:
        """In one go."""

        async def checked() -> list[tuple[str, Deviation]]:
            metas = {each.session_id: self.rows[each.session_id].meta or StoredMeta() for each in sessions}
            others = [(name, Deviation.OTHER) for name, meta in metas.items() if meta.host != self.host]
            return others or await MemoryBackend.check(self, sessions)

        return await self.slowly(checked)

    async def take(self, takes: Sequence[Take]) -> list[Taken]:
        """Give sessions of the other host to this one."""

        async def taken() -> list[Taken]:
            return [self._taken(take) for take in takes]

        return await self.slowly(taken)

    def _taken(self, take: Take) -> Taken:
        row = self.rows[take.session_id]
        assert row.meta is not None
        if (row.meta.host, row.meta.epoch) != (take.host, take.epoch):
            return Taken(TakeOutcome.CHANGED)
        given = structs.replace(row.meta, host=self.host, epoch=next_term(take.epoch))
        orphan = "" if take.owner else "host_lost"
        meta = structs.replace(given, owner=take.owner, orphan=orphan)
        self.rows[take.session_id] = StoredSession(row.document, meta, row.beat_ms)
        if self.store.rnd.random() < 0.7:  # a hint may be lost
            self.store.hints[take.host].add(take.session_id)
        return Taken(TakeOutcome.TAKEN, StoredSession(row.document, given, row.beat_ms))

    async def possessions(self, session_ids: Sequence[str]) -> list[Possession | None]:
        """Whose they are in between."""

        async def found() -> list[Possession | None]:
            metas = [self.rows[session_id].meta or StoredMeta() for session_id in session_ids]
            return [Possession(meta.host, meta.epoch, "live") for meta in metas]

        return await self.slowly(found)

    async def sessions_of(self, host: str, cursor: str) -> tuple[list[str], str]:
        """All of them."""
        return [i for i, row in self.rows.items() if row.meta is not None and row.meta.host == host], ""

    async def remove_from_set(self, host: str, session_ids: Sequence[str]) -> None:
        """There are no sets."""

    async def taken_away(self) -> list[str]:
        """As far as there are hints."""
        return [*self.store.hints[self.host]]

    async def note_lost(self, session_ids: Iterable[str]) -> None:
        """No hints any more."""
        self.store.hints[self.host].difference_update(session_ids)


class Disk:
    """A journal that may be full."""

    def __init__(self, rnd: random.Random, log: list[bytes]) -> None:
        self._rnd = rnd
        self.log = log
        self.full = 0.0

    def append(self, records: Iterable[Record]) -> None:
        """Keep all of these, or none."""
        if self._rnd.random() < self.full:
            raise OSError(errno.ENOSPC, "full")
        self.log += map(encode_record, records)


class Daemon:
    """A host's daemon from its start to its death."""

    def __init__(self, store: Store, host: str, log: list[bytes], now: float) -> None:
        self.host = host
        self.disk = Disk(store.rnd, log)
        table = SessionTable()
        for record in log:
            replay(table, decode_record(record))
        self.link = link = Link(store, host)
        self.core = core = Core(backend=link, journal=cast(Journal, self.disk), table=table, host_id=host)
        core.clock.advance(now)
        core.engine.restore(lambda _: None)
        registry = cast(HostRegistry, link)
        self.doubts = doubts = Doubts(core.ctx, core.read_through, core.commit)
        core.reconciler.in_doubt = doubts.session_ids
        self.possessions = Possessions(registry, core.ctx, core.reconciler, doubts, core.commit, host)
        self.adopter = Adopter(
            registry, core.ctx, core.reconciler, core.commit, host, "instance", doubts.session_ids, core.metrics
        )  # fmt: skip
        core.host._takeovers = Takeovers(
            registry, core.read_through, core.writer.store.check, host, doubts.session_ids, core.metrics
        )  # fmt: skip
        core.host.is_shared = True
        self._writing = asyncio.Lock()
        self._is_new = True
        self.tasks: set[asyncio.Future[Any]] = set()

    def spawn(self, work: Callable[[], Awaitable[Any]]) -> None:
        """Do this meanwhile; the store may fail."""

        async def quietly() -> None:
            with suppress(StoreError):
                await work()

        task = asyncio.ensure_future(quietly())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def write(self) -> None:
        """A round of write-behind."""
        async with self._writing:
            await self.core.writer.write_round()

    async def look_around(self) -> None:
        """A round among the hosts, but for adoptions."""
        await self.possessions.look_at_hints()
        if self._is_new:
            await self.possessions.look_at_own_set()
            self._is_new = False
        await self.doubts.settle()

    async def die(self) -> None:
        """It is killed: nothing goes on."""
        tasks = [*self.tasks, *self.core.read_through._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def calm_down(self) -> None:
        """Let all that is under way come to its end, and the store have everything."""
        while self.tasks:
            await asyncio.wait(self.tasks)
        while self.core.read_through._tasks:  # one may begin another
            await self.core.read_through.close()
        await self.write()
        with suppress(StoreError):  # in the first round it may still be taken for down
            await self.look_around()
        await self.core.writer._sweep.sweep()
        await self.write()


class Course:
    """One course."""

    def __init__(self, seed: int) -> None:
        self.rnd = random.Random(seed)
        self.store = Store(self.rnd)
        self.now = 0.0
        self.daemons = [Daemon(self.store, host, [], 0.0) for host in HOSTS]
        self.acknowledged: dict[str, list[str]] = {session_id: [] for session_id in IDS}
        for session_id in IDS:
            document = b'{"id":"%s","status":"active"}' % session_id.encode()
            meta = StoredMeta(host=self.rnd.choice(HOSTS), version=5, epoch=1)
            self.store.rows[session_id] = StoredSession(document, meta)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        for daemon in self.daemons:
            daemon.core.clock.advance(seconds)

    def request(self, daemon: Daemon, verb: str, **params: Any) -> None:
        """Send one, and note an acknowledged turn."""

        def done(reply: asyncio.Future[bytes]) -> None:
            if not reply.cancelled() and reply.exception() is None and verb == "add_turn":
                self.acknowledged[params["session_id"]].append(params["turn"]["content"])

        daemon.core.begin(f"session.{verb}", json.dumps(params).encode()).add_done_callback(done)

    async def step(self, number: int, *, calm: bool) -> None:
        """Something happens at one of the hosts."""
        rnd, session_id, at = self.rnd, self.rnd.choice(IDS), self.rnd.randrange(2)
        daemon = self.daemons[at]
        core, meta = daemon.core, self.store.rows[session_id].meta
        daemon.disk.full = 0.0 if calm else rnd.choice([0, 0, 0, 0, 0.3])
        what = rnd.choice(
            ["turn"] * 5 + ["load", "claim", "adopt", "adopt", "write", "write", "look around", "look around"]
            + ["sweep", "compare", "let time pass", "", "", "" if calm else "die"]
        )  # fmt: skip
        if what == "turn":
            self.request(daemon, "add_turn", session_id=session_id, turn={"content": f"<{number}>"})
        elif what == "load":
            self.request(daemon, "load", session_id=session_id)
        elif what == "claim":
            self.request(daemon, "claim", session_id=session_id, worker_id=f"w-{daemon.host}", steal=True)
        elif what == "adopt" and meta is not None and meta.host != daemon.host:
            daemon.spawn(partial(daemon.adopter.adopt, {session_id: Possession(meta.host, meta.epoch, "live")}))
        elif what == "write":
            daemon.spawn(daemon.write)
        elif what == "look around":
            daemon.spawn(daemon.look_around)
        elif what == "sweep":
            daemon.spawn(core.writer._sweep.sweep)
        elif what == "compare":
            daemon.spawn(daemon.possessions.look_at_all)
        elif what == "let time pass":
            self.advance(rnd.choice([0.1, 1.1]))
        elif what == "die":
            await daemon.die()
            self.daemons[at] = Daemon(self.store, daemon.host, daemon.disk.log, self.now)

    async def run(self) -> None:
        """All of it."""
        for number in range(STEPS):
            calm = number >= STEPS - CALM_STEPS
            self.store.failing = 0.0 if calm else self.rnd.choice([0, 0, 0, 0.2])
            await self.step(number, calm=calm)
            self.advance(TICK_S)  # versions are times
            for _ in range(self.rnd.choice([0, 0, 1, 3, 10])):
                await asyncio.sleep(0)
        self.store.failing = 0.0
        for daemon in self.daemons:
            daemon.disk.full = 0.0
        for _ in range(8):
            for daemon in self.daemons:
                self.advance(ROUND_S)
                await daemon.calm_down()

    def check(self) -> None:
        """Compare what there is with what was acknowledged."""
        for session_id, turns in self.acknowledged.items():
            row = self.store.rows[session_id]
            stored = (row.document or b"").decode()
            tables = [daemon.core.table for daemon in self.daemons]
            copies = [copy.state.turns.decode() for table in tables for copy in table.set_aside.of(session_id)]
            for turn in turns:
                assert stored.count(turn) <= 1
                assert turn in stored or any(turn in copy for copy in copies)
            assert row.meta is not None
            for host, table in zip(HOSTS, tables, strict=True):
                assert (session_id in table.sessions) is (host == row.meta.host)


@pytest.mark.parametrize("tens", range(examples(20)))
async def test_nothing_acknowledged_is_lost(tens: int) -> None:
    for seed in range(10 * tens, 10 * tens + 10):
        course = Course(seed)
        await asyncio.wait_for(course.run(), 60.0)
        course.check()
