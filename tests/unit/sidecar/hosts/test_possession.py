"""What the store has as this host's is hot in the end, or it would never be reaped."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec import structs

from callstate_client.engine.interfaces import NotOurs
from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.head import head_of
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.stored import StoredMeta, StoreDownError, StoredSession
from callstate_client.model import documents
from callstate_sidecar.config.schema import LimitsConfig
from callstate_sidecar.hosts.adoption import Adopter
from callstate_sidecar.hosts.doubts import Doubts
from callstate_sidecar.hosts.possession import Possessions
from callstate_sidecar.hosts.takeover import Takeovers
from callstate_sidecar.stores.hosts import HostRegistry, Possession, Take, Taken, TakeOutcome
from support.core import HOST, BadDisk, Core, off_loop, open_journal
from support.stores import down

LIVE = b'{"id":"a","status":"active"}'
TURN = b'{"id":"a","status":"active","history":[{"role":"user","content":"theirs"}]}'
OURS = StoredMeta(host=HOST, version=6, epoch=1 << 20, owner="w1")


class Registry:
    """The hosts of a store that has one session, and gives it to whoever asks for it. `cut`: without a reply;
    `answering`: the reply waits for this."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.cut = False
        self.document = LIVE
        self.answering = asyncio.Event()
        self.answering.set()

    async def take(self, takes: Sequence[Take]) -> list[Taken]:
        """It is this host's then; the reply comes in the next turn of the loop."""
        (owner,) = {take.owner for take in takes}
        given = structs.replace(OURS, owner=owner, orphan="" if owner else "host_lost")
        self._core.memory.put("a", self.document, given)
        await asyncio.sleep(0)
        await self.answering.wait()
        if self.cut:
            raise down()
        return [Taken(TakeOutcome.TAKEN, StoredSession(self.document, OURS)) for _ in takes]

    async def sessions_of(self, host: str, cursor: str) -> tuple[list[str], str]:
        """The whole set in one page."""
        return ["a"], ""

    async def possessions(self, session_ids: Sequence[str]) -> list[Possession | None]:
        """It is this host's."""
        return [Possession(HOST, OURS.epoch, "live") for _ in session_ids]

    async def remove_from_set(self, host: str, session_ids: Sequence[str]) -> None:
        """Nothing is in it by mistake."""
        assert not session_ids


class Several:
    """A core among other hosts."""

    def __init__(self, **options: Any) -> None:
        self.core = core = Core(**options)
        self.registry = Registry(core)
        self.doubts = doubts = Doubts(core.ctx, core.read_through, core.commit)
        registry = cast(HostRegistry, self.registry)
        core.reconciler.in_doubt = doubts.session_ids
        self.possessions = Possessions(
            registry, core.ctx, core.reconciler, doubts, core.commit, HOST
        )  # fmt: skip
        self.adopter = Adopter(
            registry, core.ctx, core.reconciler, core.commit, HOST, "instance-1", doubts.session_ids, core.metrics
        )  # fmt: skip
        self.takeovers = Takeovers(
            registry, core.read_through, lambda: None, HOST, doubts.session_ids, core.metrics
        )  # fmt: skip

    async def claim(self) -> None:
        """Ask for a session of another host, and wait until the store has answered."""
        seen = Session("a", Document(head_of(documents.read(b'{"id":"a"}')), 0))
        seen.host = "host-2"
        self.takeovers.when_taken(NotOurs(seen, owner="w1", force=True, why="stolen"), lambda: None)
        await self.core.read_through.close()


async def test_a_lost_reply_to_a_claim_is_asked_for_until_the_store_answers() -> None:
    """The next round may begin while the store is still taken for down."""
    several = Several()
    several.registry.cut = True
    await several.claim()
    several.core.memory.failure = down
    for _ in range(2):
        with pytest.raises(StoreDownError):
            await several.doubts.settle()
    several.core.memory.failure = None
    several.core.writer.store.succeeded()
    await several.doubts.settle()
    assert several.core.session("a").restored
    assert not several.doubts.session_ids


async def test_a_lost_reply_to_an_adoption_is_asked_for_as_well() -> None:
    several = Several()
    several.registry.cut = True
    with pytest.raises(StoreDownError):
        await several.adopter.adopt({"a": Possession("host-2", 1, "live")})
    await several.doubts.settle()
    assert "a" in several.core.table.sessions


@pytest.mark.parametrize("changed", [False, True], ids=["unchanged", "changed since"])
@pytest.mark.parametrize("fault", ["", "no reply", "full disk"])
async def test_a_dead_hosts_session_counts_more_than_what_was_lost_to_that_host(
    changed: bool, fault: str, tmp_path: Path
) -> None:
    """The dead host had stolen it and added a turn; here it is hot as it was before, as nobody has noticed that."""
    disk = BadDisk()
    journal = open_journal(tmp_path, disk, None, start=True)
    several = Several(journal=journal)
    core = several.core
    core.memory.put("a", LIVE, structs.replace(OURS, version=1, epoch=1))
    await core.turn("a", "ours")
    await core.writer.write_round()
    several.registry.cut = fault == "no reply"
    disk.error = OSError(errno.ENOSPC, "full") if fault == "full disk" else None
    adoption = asyncio.ensure_future(several.adopter.adopt({"a": Possession("host-2", 1, "live")}))
    if changed and not fault:
        await core.turn("a", "too late")
    several.registry.document = TURN
    with pytest.raises(StoreDownError) if several.registry.cut else nullcontext():
        await adoption
    disk.error = None
    if changed and fault:
        await core.turn("a", "too late")
    await several.doubts.settle()
    await core.writer._sweep.sweep()
    for _ in range(2):
        await core.writer.write_round()
    loaded = (await core.call("session.load", session_id="a"))["session"]
    for session in (loaded, json.loads(core.memory.rows["a"].document or b"")):
        assert [turn["content"] for turn in session["history"]] == ["theirs"]
    assert core.session("a").facts.orphan == "host_lost"
    assert len(core.table.set_aside.of("a")) == 1
    off_loop(journal.close)


async def begun_and_deleted() -> Several:
    """A session was begun here and deleted while the store, which has another host's of this id, was away."""
    several = Several()
    core = several.core
    core.memory.failure = down
    await core.save("a")
    await core.call("session.delete", session_id="a")
    core.memory.failure = None
    return several


async def test_a_deletion_of_what_a_dead_host_had_is_given_up_when_that_is_adopted() -> None:
    several = await begun_and_deleted()
    core = several.core
    assert await several.adopter.adopt({"a": Possession("host-2", 1, "live")}) == 1
    assert core.session("a").facts.orphan == "host_lost"
    assert not core.table.tombstones.pending
    assert core.replayed().sessions.keys() == {"a"}
    for _ in range(3):
        await core.writer.write_round()
    assert core.memory.rows["a"].document == LIVE


async def test_a_deletion_that_the_store_is_told_of_during_the_adoption_counts() -> None:
    """The store said that the session is this host's already, and the deletion was raised above it."""
    several = await begun_and_deleted()
    core = several.core
    ((write, since),) = core.queue.take(HOST, 1, 1)
    adoption = asyncio.ensure_future(several.adopter.adopt({"a": Possession("host-2", 1, "live")}))
    await asyncio.sleep(0)
    core.reconciler.settle(write, StoredSession(LIVE, OURS), None)
    core.queue.retry(write, since)
    await adoption
    assert "a" not in core.table.sessions
    await core.writer.write_round()
    assert core.memory.rows["a"].document is None


async def test_a_start_finds_its_sessions_though_the_store_fails_in_between() -> None:
    several = Several()
    several.core.memory.put("a", LIVE, OURS)
    several.core.memory.failure = down
    with pytest.raises(StoreDownError):
        await several.possessions.look_at_own_set()
    several.core.memory.failure = None
    several.core.writer.store.succeeded()
    assert await several.possessions.look_at_own_set() == 1
    assert several.core.session("a").restored


async def test_a_read_from_before_the_store_gave_a_session_does_not_settle_whose_it_is() -> None:
    """The session was lost while the store was asked for it, so the adoption leaves it to be read again."""
    several = Several()
    core = several.core
    several.registry.answering.clear()
    adoption = asyncio.ensure_future(several.adopter.adopt({"a": Possession("host-2", 1, "live")}))
    await asyncio.sleep(0)
    given = core.memory.rows["a"]
    core.memory.put("a", LIVE, StoredMeta(host="host-2", version=6, epoch=1))
    core.table.readings.outdate("a")
    core.memory.hold()
    settling = asyncio.ensure_future(several.doubts.settle(["a"]))
    await core.memory.called.wait()
    core.memory.rows["a"] = given
    several.registry.answering.set()
    await adoption
    core.memory.let_go()
    await settling
    assert several.doubts.session_ids == {"a"}
    await several.doubts.settle()
    assert core.session("a").facts.epoch == OURS.epoch


async def test_a_doubt_that_comes_when_another_is_settled_stays() -> None:
    """Both in one turn of the loop, before the task that waits for the read is told."""
    several = Several()
    core = several.core
    core.memory.put("a", LIVE, StoredMeta(host="host-2", version=6, epoch=1))
    core.memory.hold()
    settling = asyncio.ensure_future(several.doubts.settle(["a"]))
    await core.memory.called.wait()
    core.read_through.when_known("a", lambda: several.doubts.session_ids.add("a"))
    core.memory.let_go()
    await settling
    assert several.doubts.session_ids == {"a"}


@pytest.mark.parametrize("deleted", [False, True])
async def test_what_was_another_hosts_when_the_store_was_read_is_read_again(deleted: bool) -> None:
    """Meanwhile the store has given it to this host; no reply came."""
    several = Several()
    core = several.core
    core.memory.put("a", LIVE, structs.replace(OURS, version=1, epoch=1))
    await core.turn("a", "ours")
    if deleted:
        await core.call("session.delete", session_id="a")
    ((write, since),) = core.queue.take(HOST, 1, 1)
    before = StoredSession(LIVE, StoredMeta(host="host-2", version=2, epoch=1))
    several.registry.cut = True
    with pytest.raises(StoreDownError):
        await several.adopter.adopt({"a": Possession("host-2", 1, "live")})
    await several.doubts.settle()
    assert core.reconciler.settle(write, before, None)
    core.queue.retry(write, since)
    await several.doubts.settle()
    assert core.session("a").facts.epoch == OURS.epoch
    assert not several.doubts.session_ids


@pytest.mark.parametrize(
    ("verb", "params"),
    [
        ("load", {}),
        ("heartbeat", {}),
        ("add_turn", {"turn": {"content": "hello"}, "epoch": OURS.epoch}),
        ("claim", {"worker_id": "w2", "steal": True}),
    ],
)
async def test_what_is_heard_of_while_it_is_read_is_not_restored(verb: str, params: dict[str, Any]) -> None:
    several = Several()
    core = several.core
    core.memory.put("a", LIVE, OURS)
    core.memory.hold()
    request = core.begin(f"session.{verb}", json.dumps({"session_id": "a", **params}).encode())
    settling = asyncio.ensure_future(several.doubts.settle(["a"]))
    await core.memory.called.wait()
    await asyncio.sleep(0)
    core.memory.let_go()
    await settling
    await request
    assert core.session("a").restored is (verb == "load")


async def test_what_was_taken_without_room_is_kept_once_there_is_some() -> None:
    """There was some when the claim was let through, and none any more when the store answered."""
    several = Several(limits=LimitsConfig(hot_bytes=1 << 20))
    several.core.table.hot.total += 1 << 20
    await several.claim()
    await several.doubts.settle()
    assert several.doubts.session_ids == {"a"}
    assert not several.core.memory.reads, "the store is not asked in vain"
    several.core.table.hot.total -= 1 << 20
    await several.doubts.settle()
    assert "a" in several.core.table.sessions
    assert not several.doubts.session_ids


async def test_what_was_deleted_is_not_read_again() -> None:
    """The store has it until the deletion is written."""
    several = Several()
    several.core.memory.put("a", LIVE, OURS)
    await several.core.call("session.delete", session_id="a")
    several.core.memory.reads.clear()
    await several.doubts.settle(["a"])
    assert not several.core.memory.reads
    assert not several.doubts.session_ids
    assert not several.core.table.sessions


async def test_what_is_hot_is_in_doubt_no_longer() -> None:
    several = Several()
    await several.claim()
    await several.doubts.settle()
    assert not several.doubts.session_ids
    assert not several.core.memory.reads
    assert not several.core.session("a").restored


@pytest.mark.parametrize(
    ("document", "meta"),
    [
        (LIVE, StoredMeta(host="host-2", version=6)),
        (b'{"id":"a","status":"ended"}', OURS),
        (b"{}", OURS),
        (None, None),
    ],
    ids=["another host's", "ended", "unreadable", "none"],
)
async def test_what_is_not_to_be_kept_is_not_in_doubt(document: bytes | None, meta: StoredMeta | None) -> None:
    several = Several()
    several.doubts.session_ids.add("a")
    several.core.memory.put("a", document, meta)
    if document is None:
        del several.core.memory.rows["a"]
    await several.doubts.settle()
    assert not several.doubts.session_ids
    assert not several.core.table.sessions
