"""What was saved while the store could not be asked, and a journal older than the store: nothing gets lost."""

from __future__ import annotations

import asyncio
import errno
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from callstate_client.engine.interfaces import INTERNAL
from callstate_client.engine.phases import Phase
from callstate_client.engine.sessions.long_document import PIECE_BYTES
from callstate_client.engine.sessions.stored import StoredMeta, StoredSession
from callstate_client.engine.table.replay import all_dirty
from callstate_client.engine.table.session_table import SessionTable
from callstate_client.errors import FencedError, SessionNotFoundError, StoreUnavailableError
from callstate_sidecar.reconcile import Reconciler
from callstate_sidecar.slices import in_turns
from callstate_sidecar.write_behind import outcomes
from support.core import HOST, BadDisk, Core, FakeClient, kept, open_journal
from support.stores import MemoryBackend, down

THEIRS = {
    "id": "a", "status": "active", "provider": "sip", "from": "+1", "created_at": "2025-01-01T00:00:00Z",
    "campaign": 7, "recovery_data": {"node": "menu"},
    "history": [{"role": "agent", "content": "before"}],
    "metrics": {"turn_count": 1, "interruption_count": 2, "quality": "good"},
}  # fmt: skip


def meta(**beside: Any) -> StoredMeta:
    return StoredMeta(**({"host": HOST, "version": 5, "epoch": 3, "labels": {"app": "sales"}} | beside))


def put(core: Core, about: StoredMeta | None, **members: Any) -> None:
    core.memory.put("a", json.dumps(THEIRS | members).encode(), about)


async def blind(core: Core, **beside: Any) -> Any:
    """A save while the store is down."""
    core.memory.failure = down
    saved = await core.call("session.save", session={"id": "a", **beside.pop("session", {})}, **beside)
    assert saved["unverified"] is True
    return saved


async def flush(core: Core) -> None:
    """The store is up again and takes what there is."""
    core.memory.failure = None
    for _ in range(3):
        await core.writer.write_round()
    await asyncio.sleep(0)  # what is queued leaves at the turn's end


def stored(core: Core) -> dict[str, Any]:
    document = core.memory.rows["a"].document
    assert document is not None
    loaded: dict[str, Any] = json.loads(document)
    return loaded


def contents(document: dict[str, Any]) -> list[str]:
    return [turn["content"] for turn in document["history"]]


def reasons(peer: FakeClient, type_: str) -> list[str | None]:
    return [event.get("reason") for event in peer.events if event["type"] == type_]


async def listening(core: Core) -> FakeClient:
    peer = FakeClient(core)
    peer.send(("events.subscribe", {}))
    core.commit()
    return peer


@pytest.fixture(params=["as it is", "restarted", "restarted twice"])
async def core(request: pytest.FixtureRequest) -> Core:
    core = Core()
    core.restarts = {"as it is": 0, "restarted": 1, "restarted twice": 2}[request.param]  # type: ignore[attr-defined]
    return core


def again(core: Core) -> Core:
    """The daemon after as many kills and restarts as the test is about, its store being what it was."""
    for _ in range(core.restarts):  # type: ignore[attr-defined]
        core = restarted(core)
    return core


def restarted(core: Core) -> Core:
    table = core.replayed()
    all_dirty(table, 0.0)
    successor = Core(table=table, backend=core.memory)
    successor.memory = core.memory
    successor.logged = [*core.logged]
    successor.restarts = getattr(core, "restarts", 0)  # type: ignore[attr-defined]
    for session in table.sessions.values():
        if session.ended:
            successor.liveness.keep(session, 0.0)
        else:
            successor.ctx.watch(INTERNAL, session)
    return successor


# -- saved while the store was down -------------------------------------------------------------------------------


async def test_members_left_out_by_a_save_are_the_stores(core: Core) -> None:
    put(core, meta(max_duration_s=7200.0, ops={"op-0": b'{"version":5}'}))
    await blind(core, session={"status": "on_hold"})
    await core.turn("a", "after", op="op-1")
    core = again(core)
    await flush(core)
    document = stored(core)
    assert contents(document) == ["before", "after"]
    assert (document["status"], document["provider"], document["from"]) == ("on_hold", "sip", "+1")
    assert (document["campaign"], document["recovery_data"]) == (7, {"node": "menu"})
    assert document["created_at"] == "2025-01-01T00:00:00Z"
    assert document["metrics"]["turn_count"] == 2
    assert (document["metrics"]["interruption_count"], document["metrics"]["quality"]) == (2, "good")
    loaded = await core.call("session.load", session_id="a")
    assert loaded["labels"] == {"app": "sales"}
    assert contents(loaded["session"]) == ["before", "after"]
    assert core.session("a").facts.max_duration_s == 7200.0
    assert core.session("a").ops.keys() >= {"op-0", "op-1"}
    assert loaded["epoch"] > 3
    assert core.table.is_stored(core.session("a"))
    assert not core.table.quarantined
    assert kept(core.replayed().sessions["a"]) == kept(core.session("a")), "the journal has it as it is"


async def test_members_given_by_a_save_are_ours(core: Core) -> None:
    put(core, meta())
    session = {
        "status": "active", "provider": "twilio", "history": [{"role": "user", "content": "whole"}],
        "metrics": {"turn_count": 1}, "recovery_data": {"node": "end"}, "campaign": 8,
    }  # fmt: skip
    await blind(core, session=session, labels={"app": "care"}, heartbeat_timeout_s=60, max_duration_s=60)
    core = again(core)
    await flush(core)
    document = stored(core)
    assert contents(document) == ["whole"]
    assert (document["provider"], document["campaign"], document["recovery_data"]) == ("twilio", 8, {"node": "end"})
    assert document["metrics"]["turn_count"] == 1
    facts = core.session("a").facts
    assert (facts.labels, facts.heartbeat_timeout_s, facts.max_duration_s) == (
        {"app": "care"},
        60.0,
        60.0,
    )


@pytest.mark.parametrize("history", [[], None])
async def test_a_save_that_nobody_could_check_empties_no_history(core: Core, history: Any) -> None:
    """A worker that begins with a new state has an empty one, and knows of no other."""
    put(core, meta())
    await blind(core, session={"status": "active", "history": history, "recovery_data": None})
    await core.turn("a", "new")
    await core.call("session.save", session={"id": "a", "status": "active", "history": []})
    await core.turn("a", "newer")
    core = again(core)
    await flush(core)
    assert contents(stored(core)) == ["before", "newer"]
    assert "recovery_data" not in stored(core)


async def test_changes_after_the_save_are_ours(core: Core) -> None:
    put(core, meta())
    await blind(core, session={"status": "active"})
    await core.call("session.update", session_id="a", set={"recovery_data": {"node": "late"}, "provider": "sip-2"})
    await core.turn("a", "one")
    await core.call("session.amend_turn", session_id="a", set={"content": "one, amended"})
    core = again(core)
    await flush(core)
    assert contents(stored(core)) == ["before", "one, amended"]
    assert (stored(core)["recovery_data"], stored(core)["provider"]) == ({"node": "late"}, "sip-2")


async def test_of_a_new_call_nothing_is_read(core: Core) -> None:
    await blind(core, if_version=0, session={"status": "active"})
    await core.turn("a", "hello")
    version, epoch = core.session("a").version, core.session("a").facts.epoch
    core = again(core)
    core.memory.reads.clear()
    await flush(core)
    assert core.memory.reads == [], "one write that the store takes only if there is none"
    assert contents(stored(core)) == ["hello"]
    assert (core.session("a").version, core.session("a").facts.epoch) == (version, epoch)
    assert not core.session("a").unverified
    assert not core.replayed().sessions["a"].unverified


async def test_an_owner_goes_on_with_the_epoch_it_was_given(core: Core) -> None:
    put(core, meta())
    saved = await blind(core, session={"status": "active"})
    core = again(core)
    await flush(core)
    assert core.session("a").facts.epoch != saved["epoch"]
    await core.turn("a", "mine", epoch=saved["epoch"])
    with pytest.raises(FencedError):
        await core.turn("a", "not mine", epoch=3)
    claimed = await core.call("session.claim", session_id="a", worker_id="w2")
    with pytest.raises(FencedError):
        await core.turn("a", "no more", epoch=saved["epoch"])
    await core.turn("a", "w2's", epoch=claimed["epoch"])


async def test_who_holds_it_in_the_store_keeps_it_where_nobody_took_it(core: Core) -> None:
    put(core, meta(owner="w1"))
    await blind(core, session={"status": "active"})
    core = again(core)
    await flush(core)
    assert core.session("a").facts.owner == "w1"
    await core.turn("a", "w1's", epoch=3)


async def test_a_merge_is_published(core: Core) -> None:
    put(core, meta())
    await blind(core)
    core = again(core)
    peer = await listening(core)
    await flush(core)
    assert reasons(peer, "recovered") == ["merged"]


async def test_another_live_owners_wins_and_ours_is_set_aside(core: Core) -> None:
    put(core, meta(host="other", owner="w9"))
    before = core.memory.rows["a"]
    await blind(core, session={"status": "active"})
    await core.turn("a", "ours")
    core = again(core)
    peer = await listening(core)
    await flush(core)
    with pytest.raises(FencedError) as refused:
        await core.turn("a", "more")
    assert refused.value.host == "other"
    assert (await core.call("session.load", session_id="a"))["owner"] == "w9", "it is read from the store"
    await flush(core)
    assert core.memory.rows["a"] == before
    assert "a" not in core.replayed().sessions
    for table in (core.table, core.replayed()):
        (copy,) = table.set_aside.of("a")
        assert (copy.host, copy.state.count) == ("other", 1), "memory and journal keep it"
    assert reasons(peer, "fenced") == ["superseded"], "told once"
    assert await core.writer.flush(None, 0.01) == {"flushed": 0, "unflushed": 1}


async def test_a_newer_document_without_a_host_wins(core: Core) -> None:
    await blind(core, session={"status": "active"})
    core = again(core)
    put(core, None, updated_at="2027-01-01T00:00:00Z")
    await flush(core)
    assert contents(stored(core)) == ["before"]
    assert core.table.quarantined.keys() == {"a"}


async def test_an_older_document_without_a_host_is_merged(core: Core) -> None:
    put(core, None, updated_at="2025-01-01T00:00:00Z")
    await blind(core, session={"status": "active"})
    await core.turn("a", "after")
    core = again(core)
    await flush(core)
    assert contents(stored(core)) == ["before", "after"]


async def test_created_over_one_that_has_ended_both_are_kept(core: Core) -> None:
    """Neither call's turns are lost: the new one goes on under the id, behind what was said before."""
    put(core, meta(ended_reason="hangup", max_duration_s=1.0), status="ended")
    await blind(
        core, if_version=0, session={"status": "pending", "history": [], "metrics": {}, "provider": "twilio"}
    )
    await core.turn("a", "after")
    core = again(core)
    await flush(core)
    document = stored(core)
    assert (document["status"], document["provider"]) == ("pending", "twilio")
    assert contents(document) == ["before", "after"]
    assert document["metrics"]["turn_count"] == 2
    assert core.phase("a") is Phase.LIVE
    assert core.session("a").facts.max_duration_s is None, "the limit of a call that is over ends no other"
    assert core.memory.active == {"a"}


async def test_response_times_of_both_sides_are_averaged(core: Core) -> None:
    theirs = {"first_response_ms": 90, "average_response_ms": 100, "response_count": 2, "response_total_ms": 200}
    put(core, None, updated_at="2025-01-01T00:00:00Z", metrics=theirs)
    await blind(core, session={"status": "active"})
    turn = {"role": "agent", "content": "after", "response_ms": 400}
    await core.call("session.add_turn", session_id="a", turn=turn)
    core = again(core)
    await flush(core)
    metrics = stored(core)["metrics"]
    assert (metrics["first_response_ms"], metrics["average_response_ms"]) == (90, 200)
    assert (metrics["response_count"], metrics["response_total_ms"]) == (3, 600)


@pytest.mark.parametrize("host", [HOST, "other"])
async def test_above_a_tombstone_it_is_taken(core: Core, host: str) -> None:
    core.memory.put("a", None, meta(host=host, deleted=True))
    await blind(core, if_version=0, session={"status": "active"})
    core = again(core)
    await flush(core)
    assert stored(core)["status"] == "active"
    assert not core.table.quarantined


async def test_an_unreadable_document_is_not_overwritten(core: Core) -> None:
    core.memory.put("a", b"[]", meta())
    await blind(core, session={"status": "active"})
    core = again(core)
    await flush(core)
    assert core.memory.rows["a"].document == b"[]"
    assert core.table.quarantined.keys() == {"a"}


async def test_a_first_write_whose_reply_is_lost_is_recognized_as_ours(core: Core) -> None:
    await blind(core, session={"status": "active"})
    await core.turn("a", "one")
    core.memory.failure, core.memory.cut = None, True
    await core.writer.write_round()
    assert core.memory.versions()
    await core.turn("a", "two")
    core.memory.cut = False
    core = again(core)
    await flush(core)
    assert contents(stored(core)) == ["one", "two"]


async def test_our_own_write_whose_reply_is_lost_changes_no_version(core: Core) -> None:
    await blind(core, session={"status": "active"})
    core.memory.failure, core.memory.cut = None, True
    await core.writer.write_round()
    version = (await core.turn("a", "one"))["version"]
    core.memory.cut = False
    await flush(core)
    assert (await core.call("session.load", session_id="a"))["version"] == version
    assert core.memory.versions() == {"a": version}
    core = again(core)
    assert (await core.call("session.load", session_id="a"))["version"] == version


async def test_a_read_of_a_failing_store_is_repeated(core: Core) -> None:
    put(core, meta())
    await blind(core, session={"status": "active"})
    core.memory.failure = None
    real = core.memory.read

    async def read(session_id: str) -> Any:
        raise down()

    core.memory.read = read  # type: ignore[method-assign]
    await core.writer.write_round()
    assert core.writer.store.status == "down"
    assert core.table.dirty.marks.keys() == {"a"}
    assert not core.table.dirty.in_flight
    core.memory.read = real  # type: ignore[method-assign]
    await flush(core)
    assert contents(stored(core)) == ["before"]


async def test_a_deletion_of_what_was_saved_unverified_is_above_what_the_store_has(core: Core) -> None:
    put(core, meta())
    await blind(core, session={"status": "active"})
    await core.call("session.delete", session_id="a")
    core = again(core)
    await flush(core)
    assert core.memory.rows["a"].document is None
    assert not core.table.tombstones.pending
    core.clock.advance(5.0)
    with pytest.raises(SessionNotFoundError):
        await core.call("session.load", session_id="a")


async def test_superseded_by_our_own_host_is_not_for_good() -> None:
    """Claimed, ended and evicted; then the store is down and the session is saved again."""
    core = Core()
    await core.save("a", session={"history": [{"role": "user", "content": "first life"}]})
    await core.call("session.claim", session_id="a", worker_id="w1")
    await core.call("session.end", session_id="a")
    await flush(core)
    core.tx.evict(core.session("a"))
    core.commit()
    await blind(core, session={"status": "active"})
    assert core.session("a").facts.epoch == 0
    await flush(core)
    assert stored(core)["status"] == "active"
    assert contents(stored(core)) == ["first life"]
    assert not core.table.quarantined
    assert await core.writer.flush(None, 0.01) == {"flushed": 0, "unflushed": 0}


async def test_an_epoch_of_our_own_host_is_risen_above() -> None:
    core = Core()
    await core.save("a")
    await core.writer.write_round()
    row = core.memory.rows["a"]
    assert row.meta is not None
    row.meta.epoch = 9
    await core.turn("a", "more")
    await flush(core)
    assert contents(stored(core)) == ["more"]
    assert core.session("a").facts.epoch == 10


@pytest.mark.parametrize("deleted", [False, True])
async def test_what_was_taken_back_since_the_store_was_read_stays_ours(deleted: bool) -> None:
    """It was lost, claimed back and changed while the store was read, and what was read is from in between."""
    core = Core()
    put(core, meta(epoch=3 << 20))
    await core.turn("a", "acknowledged")
    if deleted:
        await core.call("session.delete", session_id="a")
    ((write, since),) = core.queue.take(HOST, 1, 1)
    before = StoredSession(json.dumps(THEIRS).encode(), meta(host="host-2", epoch=2 << 20))
    reconciler = Reconciler(core.ctx, HOST, core.metrics)
    assert reconciler.settle(write, before, await in_turns(reconciler.read("a", before)))
    core.queue.retry(write, since)
    await flush(core)
    if deleted:
        assert core.memory.rows["a"].document is None
    else:
        assert stored(core)["history"][-1]["content"] == "acknowledged"
        assert not core.table.set_aside


async def test_what_another_host_had_in_between_is_not_merged() -> None:
    """It had not seen what the journal alone had. The store has given the session back since; no reply came."""
    core = Core()
    await core.save("a", session={"history": [{"role": "agent", "content": "one"}]})
    await flush(core)
    await core.turn("a", "two")
    core = restarted(core)
    row = core.memory.rows["a"]
    assert row.meta is not None
    theirs = stored(core) | {"history": [*stored(core)["history"], {"role": "agent", "content": "theirs"}]}
    put(core, structs.replace(row.meta, epoch=2 << 20, version=row.meta.version + 10**9), **theirs)
    await core.turn("a", "three")
    await flush(core)
    assert contents(stored(core)) == ["one", "theirs"]
    (copy,) = core.table.set_aside.of("a")
    assert contents({"history": json.loads(b"[%b]" % copy.state.turns)}) == ["one", "two", "three"]
    assert core.session("a").facts.epoch == 2 << 20
    assert kept(core.replayed().sessions["a"]) == kept(core.session("a"))


async def test_other_verbs_on_what_is_not_hot_wait_for_the_store(core: Core) -> None:
    put(core, meta())
    core.memory.failure = down
    with pytest.raises(StoreUnavailableError):
        await core.turn("a", "lost?")
    await blind(core)
    await core.turn("a", "kept")
    await flush(core)
    assert contents(stored(core)) == ["before", "kept"]


# -- a journal older than the store -------------------------------------------------------------------------------


async def with_old_journal(*, status: str = "active") -> tuple[Core, MemoryBackend]:
    """A daemon whose journal lacks the last things its store has."""
    core = Core()
    await core.save(
        "a", session={"campaign": 7, "history": [{"role": "agent", "content": "one"}]}, labels={"x": "1"}
    )
    await core.save("b")
    old = [*core.logged]
    core.clock.advance(1.0)
    await core.turn("a", "two")
    await core.call("session.update", session_id="a", set={"status": status, "recovery_data": {"node": "menu"}})
    await flush(core)
    core.logged = old
    successor = restarted(core)
    successor.clock.at_us = core.clock.at_us + 10**7
    assert successor.session("a").doc.turn_count == 1
    return successor, core.memory


async def test_a_journal_older_than_the_store_takes_the_stores() -> None:
    core, memory = await with_old_journal()
    newest = memory.rows["a"].document
    peer = await listening(core)
    memory.reads.clear()
    await flush(core)
    assert memory.reads == ["a"], "of the others nothing is read"
    loaded = await core.call("session.load", session_id="a")
    assert contents(loaded["session"]) == ["one", "two"]
    assert loaded["session"]["recovery_data"] == {"node": "menu"}
    assert json.loads(newest or b"") | {"updated_at": ""} == stored(core) | {"updated_at": ""}
    assert reasons(peer, "recovered") == ["store_newer"]
    assert kept(core.replayed().sessions["a"]) == kept(core.session("a"))


@pytest.mark.parametrize("restarts", [0, 1, 2])
async def test_changes_made_before_the_store_is_reached_are_merged(restarts: int) -> None:
    core, memory = await with_old_journal()
    memory.failure = down
    await core.turn("a", "three")
    await core.writer.write_round()
    for _ in range(restarts):
        core = restarted(core)
        core.clock.advance(60.0)
    await core.call("session.amend_turn", session_id="a", index=0, set={"content": "one, amended"})
    await core.call("session.update", session_id="a", set={"campaign": 8})
    await core.writer.write_round()
    await flush(core)
    assert contents(stored(core)) == ["one, amended", "two", "three"]
    assert (stored(core)["campaign"], stored(core)["recovery_data"]) == (8, {"node": "menu"})
    assert stored(core)["metrics"]["turn_count"] == 2


async def test_one_that_had_ended_since_ends() -> None:
    core, memory = await with_old_journal(status="ended")
    await flush(core)
    assert core.phase("a") is Phase.ENDED
    assert core.session("a").facts.ended_reason == "completed"
    assert "a" not in memory.active


async def test_a_session_deleted_since_is_dropped() -> None:
    core, memory = await with_old_journal()
    about = memory.rows["a"].meta
    assert about is not None
    about.deleted = True
    memory.rows["a"].document = None
    peer = await listening(core)
    await flush(core)
    assert "a" not in core.table.sessions
    assert core.phase("a") is None
    assert memory.rows["a"].document is None
    assert reasons(peer, "deleted") == ["store_newer"]
    assert "a" not in core.replayed().sessions


async def test_one_that_was_deleted_since_lives_where_it_is_in_use() -> None:
    core, memory = await with_old_journal()
    about = memory.rows["a"].meta
    assert about is not None
    about.deleted = True
    memory.rows["a"].document = None
    await core.turn("a", "I am here")
    await flush(core)
    assert contents(stored(core)) == ["one", "I am here"]


async def test_a_restart_is_no_reason_to_merge_what_we_wrote_ourselves() -> None:
    """The daemon is killed at every step of a first write after a restart."""
    core = Core()
    await core.save("a")
    await flush(core)
    core = restarted(core)
    core.clock.advance(1.0)
    await core.turn("a", "one")
    core.memory.cut = True
    await core.writer.write_round()  # written, and nobody knows
    core.clock.advance(1.0)
    await core.turn("a", "two")
    core.memory.cut = False
    core = restarted(core)
    core.clock.advance(5.0)
    await core.turn("a", "three")
    await flush(core)
    core = restarted(core)
    core.clock.advance(5.0)
    await core.turn("a", "four")
    await flush(core)
    assert contents(stored(core)) == ["one", "two", "three", "four"]


async def test_nothing_is_written_that_a_replay_would_take_for_another_hosts(tmp_path: Path) -> None:
    """The daemon saves without having seen the store, meets a full disk when that is there, and is killed."""
    disk = BadDisk()
    journal = open_journal(tmp_path, disk, None, start=True)
    core = Core(journal=journal)
    await core.save("known")
    await flush(core)
    core.memory.batches.clear()
    await blind(core, if_version=0)
    await core.turn("a", "one")
    core.memory.failure = None
    core.table.dirty.mark("known", core.clock.mono(), 100)
    disk.error = OSError(errno.ENOSPC, "No space left on device")
    for _ in range(2):
        await core.writer.write_round()
    assert "a" not in core.memory.rows
    assert [[write.session_id for write in batch] for batch in core.memory.batches] == [["known"]]
    assert core.table.dirty.marks.keys() == {"a"}
    assert not core.table.dirty.in_flight
    disk.error = None
    core.memory.cut = True
    await core.writer.write_round()  # written, and nobody knows
    core.memory.cut = False
    assert contents(stored(core)) == ["one"]
    journal.close()

    table = SessionTable()
    open_journal(tmp_path, disk, table, start=False).close()
    all_dirty(table, 0.0)
    successor = Core(table=table, backend=core.memory)
    successor.memory = core.memory
    successor.ctx.watch(INTERNAL, table.sessions["a"])
    successor.clock.advance(5.0)
    await successor.turn("a", "two")
    await flush(successor)
    assert contents(stored(successor)) == ["one", "two"]


async def test_a_write_acknowledged_during_a_change_needs_no_merge() -> None:
    core = Core()
    await core.save("a")
    await flush(core)
    core = restarted(core)
    core.memory.hold()
    written = asyncio.ensure_future(core.writer.write_round())
    await core.memory.called.wait()
    core.clock.advance(1.0)
    await core.turn("a", "one")  # as replayed, it is on its way
    core.memory.let_go()
    await written
    await flush(core)
    core.clock.advance(1.0)
    await core.turn("a", "two")
    core = restarted(core)
    core.clock.advance(5.0)
    await core.turn("a", "three")
    await flush(core)
    assert contents(stored(core)) == ["one", "two", "three"]


# -- other software has changed what we wrote -----------------------------------------------------------------


def changed_by_go(core: Core, content: str) -> None:
    """The Go package loads the stored session, adds a turn, and saves it."""
    row = core.memory.rows["a"]
    document = stored(core)
    document["history"].append({"role": "user", "content": content})
    text = json.dumps(document).encode()
    core.memory.rows["a"] = StoredSession(text, row.meta, row.beat_ms, foreign_stamp=b"%d:" % len(text))


async def test_a_change_by_go_of_an_unverified_session_is_merged(core: Core) -> None:
    """It was compared again and again, and never written."""
    put(core, meta())
    changed_by_go(core, "Go's")
    await blind(core, session={"status": "active"})
    await core.turn("a", "ours")
    core = again(core)
    await flush(core)
    assert contents(stored(core)) == ["before", "Go's", "ours"]
    assert not core.table.dirty.sessions


async def test_a_change_by_go_after_a_write_with_a_lost_reply_is_set_aside() -> None:
    core = Core()
    await core.save("a", session={"history": [{"role": "user", "content": "before"}]})
    await flush(core)
    core = restarted(core)
    await core.turn("a", "first")
    core.memory.cut = True
    await core.writer.write_round()
    core.memory.cut = False
    changed_by_go(core, "Go's")
    await core.turn("a", "second")
    await flush(core)
    assert contents(stored(core)) == ["before", "first", "second"]
    assert not core.table.dirty.sessions
    assert core.metrics.counters["store_set_aside"] == 1


async def test_a_change_by_go_that_the_journal_did_not_take_is_taken_later(tmp_path: Path) -> None:
    """It was undone here, and then written over in the store as one that had been taken."""
    disk = BadDisk()
    journal = open_journal(tmp_path, disk, None, start=True)
    core = Core(journal=journal)
    await core.save("a", session={"history": [{"role": "user", "content": "before"}]})
    await flush(core)
    changed_by_go(core, "Go's")
    core.ctx.mark_stale(core.session("a"))
    disk.error = OSError(errno.ENOSPC, "No space left on device")
    for _ in range(2):  # a patch, and then the whole document
        await core.writer.write_round()
    assert core.metrics.counters["groups_not_durable"] > 0
    assert core.session("a").doc.turn_count == 1
    disk.error = None
    await flush(core)
    assert contents(stored(core)) == ["before", "Go's"]
    assert core.session("a").doc.turn_count == 2
    journal.close()


async def test_a_long_document_is_read_in_turns_of_the_loop_before_it_is_merged(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "in_turns", partial(in_turns, slice_s=0.0))
    put(core, meta(), history=[{"role": "user", "content": "x" * 900}] * 600)
    await blind(core)
    await core.turn("a", "after")
    core = again(core)
    flushing, turns = asyncio.ensure_future(flush(core)), 0
    while not flushing.done():
        await asyncio.sleep(0)
        turns += 1
    await flushing
    assert turns > 2 * 600 * 900 // PIECE_BYTES
    assert [len(content) for content in contents(stored(core))] == [900] * 600 + [5]
