"""Reads, adoptions, claims across hosts and writes take turns of the loop, and requests come in between.

Courses by chance, over a store that answers late, fails before or after it has done what was asked, and has
sessions of another host. Whatever the course, once all is written: what was deleted is gone, each acknowledged turn
is there once, and what is live and this host's is hot. What another host's state has superseded is set aside, and
a deletion of it given up; that is reported, and compared with nothing here.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Coroutine, Sequence
from typing import Any, cast

import pytest
from msgspec import structs

from callstate_client.engine.sessions.stored import (
    StoredMeta,
    StoreDownError,
    StoredSession,
    StoreError,
    StoreRefusingError,
    StoreTimeoutError,
)
from callstate_sidecar.config.schema import LimitsConfig
from callstate_sidecar.hosts.adoption import Adopter
from callstate_sidecar.hosts.doubts import Doubts
from callstate_sidecar.hosts.takeover import Takeovers
from callstate_sidecar.stores.hosts import HostRegistry, Possession, Take, Taken, TakeOutcome, next_term
from support.budget import examples
from support.core import HOST, Core
from support.slow_backend import Chance, SlowBackend

OTHER = "host-2"
IDS = "abc"
STEPS = 60
CALM_STEPS = 15
"""Of the last ones none fails."""
ROOM_BYTES = 1 << 20


class SlowStore(SlowBackend):
    """Has sessions of another host as well."""

    turns = (0, 0, 1, 2, 5, 20, 60)
    errors = (StoreDownError, StoreTimeoutError, StoreRefusingError)

    async def take(self, takes: Sequence[Take]) -> list[Taken]:
        """Give sessions of the other host to this one (stores.hosts.HostRegistry)."""

        async def taken() -> list[Taken]:
            return [self._taken(take) for take in takes]

        return await self.slowly(taken)

    def _taken(self, take: Take) -> Taken:
        row = self.rows.get(take.session_id)
        meta = None if row is None else row.meta
        if (
            row is None
            or meta is None
            or row.document is None
            or (meta.host, meta.epoch) != (take.host, take.epoch)
        ):
            return Taken(TakeOutcome.CHANGED)
        meta = structs.replace(meta, host=HOST, epoch=next_term(meta.epoch))
        row = self.rows[take.session_id] = StoredSession(row.document, meta, row.beat_ms)
        return Taken(TakeOutcome.TAKEN, row)


class Course:
    """One course of requests and of what the daemon does by itself."""

    def __init__(self, seed: int) -> None:
        self.rnd = random.Random(seed)
        self.store = SlowStore(Chance(self.rnd))
        self.core = core = Core(backend=self.store, limits=LimitsConfig(hot_bytes=ROOM_BYTES))
        core.memory = self.store
        registry = cast(HostRegistry, self.store)
        self.doubts = doubts = Doubts(core.ctx, core.read_through, core.commit)
        core.reconciler.in_doubt = doubts.session_ids
        self.adopter = Adopter(
            registry, core.ctx, core.reconciler, core.commit, HOST, "instance-1", doubts.session_ids, core.metrics
        )  # fmt: skip
        core.host._takeovers = Takeovers(
            registry, core.read_through, core.writer.store.check, HOST, doubts.session_ids, core.metrics
        )  # fmt: skip
        core.host.is_shared = True
        self.acknowledged: dict[str, list[str] | None] = dict.fromkeys(IDS)
        """The turns of each session, in the order in which they took effect; None: there is no session."""
        self.given_up: set[str] = set()
        self.is_full = False
        self.tasks: set[asyncio.Future[Any]] = set()
        give_up = core.tx.give_up_deletion

        def noted(session_id: str) -> None:
            self.given_up.add(session_id)
            give_up(session_id)

        core.tx.give_up_deletion = noted  # type: ignore[method-assign]

    def stock(self) -> None:
        """What the store has at first."""
        for session_id in IDS:
            if self.rnd.random() < 0.5:
                host = self.rnd.choice([HOST, OTHER])
                document = b'{"id":"%s","status":"active"}' % session_id.encode()
                self.store.put(session_id, document, StoredMeta(host=host, version=5, epoch=1))
                self.acknowledged[session_id] = []
                if host == HOST:
                    self.doubts.session_ids.add(session_id)

    def request(self, verb: str, session_id: str, content: str) -> None:
        """Send one, and note what becomes of it."""
        params: dict[str, Any] = {"session_id": session_id}
        if verb == "save":
            params = {"session": {"id": session_id, "status": "active"}}
        elif verb == "add_turn":
            params["turn"] = {"content": content}
        elif verb == "claim":
            params |= {"worker_id": "w1", "steal": True}

        def done(reply: asyncio.Future[bytes]) -> None:
            if reply.exception() is not None:
                return
            turns = self.acknowledged[session_id]
            if verb == "delete":
                self.acknowledged[session_id] = None
            elif verb == "save":
                self.acknowledged[session_id] = turns or []
            elif verb == "add_turn":
                self.acknowledged[session_id] = [*(turns or []), content]

        self.core.begin(f"session.{verb}", json.dumps(params).encode()).add_done_callback(done)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do this meanwhile; the store may fail."""

        async def quietly() -> None:
            try:
                await work
            except StoreError:
                pass

        task = asyncio.ensure_future(quietly())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def by_itself(self, what: str, session_id: str) -> None:
        """What happens without a request."""
        core, session = self.core, self.core.table.sessions.get(session_id)
        row = self.store.rows.get(session_id)
        if what == "adopt" and row is not None and row.meta is not None and row.meta.host == OTHER:
            self.spawn(self.adopter.adopt({session_id: Possession(OTHER, row.meta.epoch, "live")}))
        elif what == "settle doubts":
            self.spawn(self.doubts.settle())
        elif what == "fill":
            self.is_full = not self.is_full
            core.table.hot.total += ROOM_BYTES if self.is_full else -ROOM_BYTES
        elif what == "evict" and session is not None and session.ended and core.table.is_stored(session):
            core.ctx.evict(session)
            core.commit()
        elif what == "let time pass":
            core.clock.advance(self.rnd.choice([0.1, 1.1]))

    async def run(self) -> None:
        """All of it."""
        rnd, core, writing = self.rnd, self.core, asyncio.Lock()

        async def write() -> None:
            async with writing:
                await core.writer.write_round()

        verbs = ["save", "add_turn", "add_turn", "load", "delete", "end", "claim"]
        others = ["adopt", "settle doubts", "write", "write", "fill", "evict", "let time pass", "", ""]
        self.stock()
        for step in range(STEPS):
            self.store.chance.failing = rnd.choice([0, 0, 0, 0.2]) if step < STEPS - CALM_STEPS else 0.0
            what, session_id = rnd.choice(verbs + others), rnd.choice(IDS)
            if what in verbs:
                self.request(what, session_id, str(step))
            elif what == "write":
                self.spawn(write())
            else:
                self.by_itself(what, session_id)
            for _ in range(rnd.choice([0, 0, 1, 3, 10])):
                await asyncio.sleep(0)
        self.store.chance.failing = 0.0
        if self.is_full:
            self.by_itself("fill", "")
        while self.tasks:
            await asyncio.wait(self.tasks)
        for _ in range(50):
            core.clock.advance(6.0)
            await core.writer.write_round()
        await self.doubts.settle()
        while core.read_through._tasks:  # one may begin another
            await core.read_through.close()
        for _ in range(4):
            await core.writer.write_round()

    def check(self) -> None:
        """Compare what there is with what was acknowledged."""
        core = self.core
        assert not core.table.readings.size_bytes
        for session_id, turns in self.acknowledged.items():
            row = self.store.rows.get(session_id)
            meta = None if row is None else row.meta
            is_others = meta is not None and meta.host == OTHER
            if session_id in core.table.set_aside or session_id in self.given_up or is_others:
                continue
            document = None if row is None or row.document is None else json.loads(row.document)
            if turns is None:
                assert document is None
                assert session_id not in core.table.sessions
                continue
            assert document is not None
            assert [turn["content"] for turn in document.get("history") or []] == turns
            assert document["status"] == "ended" or session_id in core.table.sessions


@pytest.mark.parametrize("tens", range(examples(20)))
async def test_nothing_acknowledged_is_undone(tens: int) -> None:
    for seed in range(10 * tens, 10 * tens + 10):
        course = Course(seed)
        await asyncio.wait_for(course.run(), 60.0)
        course.check()
