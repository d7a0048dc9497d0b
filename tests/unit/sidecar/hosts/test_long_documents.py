"""Sessions that come from another host are read in steps where they are long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, cast

import pytest

from callstate_client.engine.interfaces import NotOurs
from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.head import head_of
from callstate_client.engine.sessions.long_document import PIECE_BYTES
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.stored import StoredMeta, StoredSession
from callstate_client.model import documents
from callstate_sidecar import slices
from callstate_sidecar.hosts.adoption import Adopter
from callstate_sidecar.hosts.takeover import Takeovers
from callstate_sidecar.reconcile import Reconciler
from callstate_sidecar.stores.hosts import HostRegistry, Possession, Take, Taken, TakeOutcome
from support.core import HOST, Core

TURNS = b",".join([b'{"role":"user","content":"%b"}' % (b"x" * 900)] * 600)
DOCUMENT = b'{"id":"a","status":"active","history":[%b]}' % TURNS


class Registry:
    """Gives every session that is asked for, as a store with two hosts does."""

    async def take(self, takes: Sequence[Take]) -> list[Taken]:
        """The session, with the meta that says that it is this host's."""
        stored = StoredSession(DOCUMENT, StoredMeta(host=HOST, version=6, epoch=1 << 20))
        return [Taken(TakeOutcome.TAKEN, stored) for _ in takes]


@pytest.fixture
async def core(monkeypatch: pytest.MonkeyPatch) -> Core:
    monkeypatch.setattr(slices, "SLICE_S", 0.0)
    return Core()


def adopter_of(core: Core) -> Adopter:
    """It takes over what a test names."""
    registry, reconciler = cast(HostRegistry, Registry()), Reconciler(core.ctx, HOST, core.metrics)
    return Adopter(registry, core.ctx, reconciler, core.commit, HOST, "instance-1", set(), core.metrics)


async def turns_of(work: Awaitable[Any]) -> int:
    """How many turns of the loop some work takes."""
    task, turns = asyncio.ensure_future(work), 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    await task
    return turns


async def test_a_claimed_session_of_another_host_is_read_in_turns_of_the_loop(core: Core) -> None:
    seen = Session("a", Document(head_of(documents.read(b'{"id":"a"}')), 0))
    seen.host = "host-2"
    found: list[Session] = []
    registry = cast(HostRegistry, Registry())
    takeovers = Takeovers(registry, core.read_through, lambda: None, HOST, set(), core.metrics)
    done = asyncio.Event()

    def then() -> None:
        found.append(cast(Session, core.ctx.find("a")))
        done.set()

    takeovers.when_taken(NotOurs(seen, owner="w1", force=True, why="stolen"), then)
    assert await turns_of(done.wait()) > 2 * len(DOCUMENT) // PIECE_BYTES
    assert found[0].doc.turn_count == 600


async def test_an_adopted_session_is_read_in_turns_of_the_loop(core: Core) -> None:
    adopter = adopter_of(core)
    sessions = {"a": Possession("host-2", 1, "live")}
    assert await turns_of(adopter.adopt(sessions)) > 2 * len(DOCUMENT) // PIECE_BYTES
    session = core.session("a")
    assert (session.doc.turn_count, session.facts.orphan) == (600, "host_lost")


async def test_a_session_that_was_read_during_its_adoption_is_the_one_that_stays(core: Core) -> None:
    adopter = adopter_of(core)
    adoption = asyncio.ensure_future(adopter.adopt({"a": Possession("host-2", 1, "live")}))
    await asyncio.sleep(0)
    core.memory.put("a", b'{"id":"a","status":"active"}', StoredMeta(host=HOST, version=6, epoch=1 << 20))
    await core.call("session.load", session_id="a")
    session = core.session("a")
    await adoption
    assert core.session("a") is session


async def test_a_session_deleted_during_its_adoption_stays_deleted(core: Core) -> None:
    """A request has read it, as this host's, and another has deleted it: both before it is adopted."""
    adopter = adopter_of(core)
    adoption = asyncio.ensure_future(adopter.adopt({"a": Possession("host-2", 1, "live")}))
    await asyncio.sleep(0)
    core.memory.put("a", b'{"id":"a","status":"active"}', StoredMeta(host=HOST, version=6, epoch=1 << 20))
    await core.call("session.load", session_id="a")
    await core.call("session.delete", session_id="a")
    await adoption
    assert "a" not in core.table.sessions
    assert [write.document for write, _ in core.queue.take(HOST, 10, 10)] == [None]
