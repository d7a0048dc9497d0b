"""Misses: one read an id, whoever waits is served in order, and nothing late replaces what is hot."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import Any

import pytest

from callstate_client.engine.interfaces import INTERNAL
from callstate_client.engine.phases import Phase
from callstate_client.engine.rules import handoff
from callstate_client.engine.sessions.long_document import PIECE_BYTES
from callstate_client.engine.sessions.store_form import session_of
from callstate_client.engine.sessions.stored import StoredMeta, StoreDownError, StoreTimeoutError
from callstate_client.engine.table.tombstones import Tombstone
from callstate_client.errors import (
    ConflictError,
    FencedError,
    SessionEndedError,
    SessionNotFoundError,
    StoreUnavailableError,
    UnreadableError,
)
from callstate_client.model.times import format_us
from callstate_sidecar import read_through as read_through_module
from callstate_sidecar import slices
from callstate_sidecar.write_behind.guarded_reads import READS_AT_ONCE, SEARCHES_AT_ONCE
from support.core import HOST, Core
from support.documents import UNREADABLE, go_document
from support.stores import down, refusing

LIVE = b'{"id":"a","status":"active","created_at":"2025-01-01T00:00:00Z","history":[{"role":"user"}]}'
ENDED = LIVE.replace(b"active", b"ended")


def meta(**beside: Any) -> StoredMeta:
    return StoredMeta(**({"host": HOST, "version": 5, "epoch": 1} | beside))


async def test_of_many_that_ask_one_reads() -> None:
    core = Core()
    core.memory.put("a", LIVE, meta())
    core.memory.hold()
    asked = [core.begin("session.load", b'{"session_id":"a"}') for _ in range(5)]
    await core.memory.called.wait()
    core.memory.let_go()
    answers = await asyncio.gather(*asked)
    assert core.memory.reads == ["a"]
    assert len(set(answers)) == 1


async def test_they_are_served_in_the_order_of_asking() -> None:
    core = Core()
    core.memory.put("a", LIVE, meta())
    core.memory.hold()
    turns = [core.begin("session.add_turn", b'{"session_id":"a","turn":{"content":"%d"}}' % i) for i in range(5)]
    ended = core.begin("session.end", b'{"session_id":"a"}')
    late = core.begin("session.heartbeat", b'{"session_id":"a"}')
    core.memory.let_go()
    assert [json.loads(reply)["turn_count"] for reply in await asyncio.gather(*turns)] == [2, 3, 4, 5, 6]
    await ended
    with pytest.raises(SessionEndedError):
        await late


async def test_they_are_served_in_that_order_though_the_store_is_asked_for_more_meanwhile() -> None:
    """As by a claim that was shown an earlier read, while others have begun the next one."""
    core = Core()
    core.memory.put("a", LIVE, meta(host="other"))
    core.memory.hold()
    served: list[str] = []
    core.read_through.when_known("a", lambda: served.append("sent first"))

    async def found() -> None:
        """The other answer comes at once."""

    core.read_through.ask("a", found, lambda: served.append("claimed"))
    core.read_through.when_known("a", lambda: served.append("sent second"))
    await core.memory.called.wait()
    core.memory.let_go()
    await core.read_through.close()
    assert served == ["sent first", "claimed", "sent second"]


async def test_a_live_session_of_ours_becomes_hot() -> None:
    core = Core()
    core.memory.put("a", LIVE, meta(heartbeat_timeout_s=2.5, labels={"app": "x"}), 1)
    loaded = await core.call("session.load", session_id="a")
    assert (loaded["version"], loaded["epoch"], loaded["labels"], loaded["turn_count"]) == (5, 1, {"app": "x"}, 1)
    assert core.phase("a") is Phase.LIVE
    await core.call("session.heartbeat", session_id="a")
    assert core.memory.reads == ["a"]
    assert not core.table.dirty.marks, "the store has it"
    assert core.replayed().sessions.keys() == {"a"}, "and the journal now has it too"


async def test_a_session_created_after_a_deletion_is_not_the_one_that_was_read() -> None:
    """All three waited for the same read, which still shows the session that was deleted."""
    core = Core()
    core.memory.put("a", ENDED, meta())
    core.memory.hold()
    deleted = core.begin("session.delete", b'{"session_id":"a"}')
    saved = core.begin("session.save", b'{"session":{"id":"a","status":"active"}}')
    loaded = core.begin("session.load", b'{"session_id":"a"}')
    core.memory.let_go()
    await asyncio.gather(deleted, saved)
    assert json.loads(await loaded)["session"]["created_at"] == json.loads(await saved)["updated_at"]


@pytest.mark.parametrize(
    ("document", "stored"),
    [(ENDED, meta()), (LIVE, meta(host="other")), (LIVE, None)],
    ids=["ended", "another host's", "Go's"],
)
async def test_sessions_of_other_hosts_are_read_each_time(document: bytes, stored: StoredMeta | None) -> None:
    core = Core()
    core.memory.put("a", document, stored)
    for _ in range(2):
        await core.call("session.load", session_id="a")
    assert core.memory.reads == ["a", "a"]
    assert not core.table.sessions
    assert core.phase("a") is None
    assert core.ctx.reading is None, "shown to those who waited, then forgotten"


async def test_a_heartbeat_of_a_session_that_is_not_kept_hot_shows_at_once() -> None:
    core = Core()
    core.memory.put("a", LIVE, None)  # Go's
    core.clock.advance(7)
    await core.call("session.heartbeat", session_id="a")
    beaten = format_us(core.clock.wall_us())
    core.clock.advance(1)
    assert (await core.call("session.load", session_id="a"))["session"]["updated_at"] == beaten
    (listed,) = (await core.call("session.list", scope="all"))["sessions"]
    assert listed["session"]["updated_at"] == beaten


async def test_a_call_that_go_ended_was_over_with_its_last_change() -> None:
    core = Core()
    core.memory.put("a", ENDED.replace(b"{", b'{"updated_at":"2025-01-01T01:00:00+00:30",', 1), None)
    for ask in (
        core.call("session.heartbeat", session_id="a"),
        core.call("session.claim", session_id="a", worker_id="w"),
    ):
        with pytest.raises(SessionEndedError) as ended:
            await ask
        assert (ended.value.ended_at, ended.value.reason) == ("2025-01-01T00:30:00Z", "")
        assert str(ended.value) == "the session has ended"
    with pytest.raises(ConflictError) as caught:
        await core.call("session.save", session={"id": "a"}, if_version=0)
    assert (caught.value.status, caught.value.ended_at) == ("ended", "2025-01-01T00:30:00Z")
    for since, found in (("2025-01-01T00:30:00Z", 1), ("2025-01-01T00:30:00.000001Z", 0)):
        page = await core.call("session.list", scope="all", ended_since=since)
        assert len(page["sessions"]) == found


async def test_a_miss_is_cached_for_a_moment() -> None:
    core = Core()
    for _ in range(3):
        with pytest.raises(SessionNotFoundError):
            await core.call("session.load", session_id="a")
    assert core.memory.reads == ["a"]
    core.clock.advance(1.0)
    with pytest.raises(SessionNotFoundError):
        await core.call("session.load", session_id="a")
    assert core.memory.reads == ["a", "a"]


@pytest.mark.parametrize("ids", [["a"], ["a", "b"]])
async def test_a_miss_that_expires_while_the_process_is_stopped_is_read_again(
    ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the store has answered, and before those who waited are served."""
    core = Core()
    deliver = core.read_through._deliver
    stops = 1

    async def late(*arguments: Any) -> None:
        nonlocal stops
        if stops:
            stops -= 1
            core.clock.advance(1.5)
        await deliver(*arguments)

    monkeypatch.setattr(core.read_through, "_deliver", late)
    loads = [core.begin("session.load", b'{"session_id":"a"}') for _ in range(2)]
    beats = core.begin("session.heartbeat", json.dumps({"session_ids": ids}).encode())
    for load in loads:
        with pytest.raises(SessionNotFoundError):
            await load
    assert sorted(json.loads(await beats)["missing"]) == ids
    assert not stops


async def test_a_tombstone_is_a_miss_and_a_minimum_for_version_and_epoch() -> None:
    core = Core()
    later = core.clock.at_us + 10**9
    core.memory.put("a", None, meta(deleted=True, version=later, epoch=4))
    with pytest.raises(SessionNotFoundError):
        await core.call("session.load", session_id="a")
    assert core.table.tombstones.predecessor("a") == Tombstone(later, 4)
    saved = await core.save("a")
    assert saved["version"] > later
    await core.writer.write_round()
    assert core.memory.versions() == {"a": saved["version"]}


async def test_above_another_hosts_tombstone_only_an_epoch_is_taken() -> None:
    core = Core()
    core.memory.put("a", None, meta(deleted=True, host="other", epoch=4))
    await core.save("a")
    await core.writer.write_round()
    assert not core.session("a").quarantined
    assert core.memory.versions() == {"a": core.session("a").version}


async def test_a_repeat_after_the_session_has_left_memory_gets_the_first_result() -> None:
    core = Core()
    await core.save("a")
    first = await core.turn("a", op="op-1")
    ended = await core.call("session.end", session_id="a", reason="done", op="op-2")
    await core.writer.write_round()
    core.tx.evict(core.session("a"))
    core.commit()
    assert await core.turn("a", op="op-1") == first
    assert await core.call("session.end", session_id="a", reason="done", op="op-2") == ended
    assert "a" not in core.table.sessions, "nothing was changed"


async def test_a_tombstone_brings_back_what_may_be_repeated() -> None:
    core = Core()
    core.memory.put("a", None, meta(deleted=True, ops={"op-1": b"{}"}))
    with pytest.raises(SessionNotFoundError):
        await core.call("session.load", session_id="a")
    assert core.table.tombstones.repeated("a", "op-1") == b"{}"


@pytest.mark.parametrize("how", [down, refusing])
async def test_a_store_that_is_away_makes_no_session_missing(how: Any) -> None:
    core = Core()
    core.memory.failure = how
    for method in ("session.load", "session.heartbeat", "session.delete", "session.end"):
        with pytest.raises(StoreUnavailableError):
            await core.call(method, session_id="a")
    core.memory.failure = None
    core.memory.put("a", LIVE, meta())
    await core.writer.write_round()  # finds out that the store is back
    assert (await core.call("session.load", session_id="a"))["version"] == 5, "nothing wrong is remembered"


async def test_while_the_store_is_down_nobody_waits_for_it() -> None:
    """One waits for the timeout; then the circuit is open until the store was tried again."""
    core = Core()
    core.memory.failure = lambda: StoreTimeoutError("no answer")
    with pytest.raises(StoreUnavailableError):
        await core.call("session.load", session_id="a")
    assert core.writer.store.status == "down"
    core.memory.hold()  # from now on whoever asks it would wait for ever
    for method in ("session.load", "session.heartbeat", "session.delete", "session.end"):
        with pytest.raises(StoreUnavailableError, match="no answer"):
            await core.call(method, session_id="b")
    for method in ("session.list", "session.list_active"):
        with pytest.raises(StoreUnavailableError, match="no answer"):
            await core.call(method, scope="all")
    for number, created in enumerate(({}, {"if_version": 0})):
        saved = await core.call("session.save", session={"id": f"new-{number}"}, **created)
        assert saved["unverified"] is True
    assert core.memory.reads == ["a"]


async def test_a_read_that_finds_the_store_down_has_it_tried_again() -> None:
    core = Core()
    core.memory.failure = down
    with pytest.raises(StoreUnavailableError):
        await core.call("session.load", session_id="a")
    assert core.writer._wake.is_set(), "not only after the flush interval"
    assert core.writer.store.failures == 1
    core.memory.failure = None
    await core.writer.write_round()
    assert core.writer.store.status == "up"


async def test_a_read_of_a_document_that_takes_too_long_does_not_open_the_circuit() -> None:
    """Where others are answered meanwhile."""
    core = Core()
    core.memory.put("small", LIVE.replace(b'"a"', b'"small"'), meta())
    real = core.memory.read
    begun, gate = asyncio.Event(), asyncio.Event()

    async def read(session_id: str) -> Any:
        if session_id == "large":
            begun.set()
            await gate.wait()
            raise StoreTimeoutError("no answer")
        return await real(session_id)

    core.memory.read = read  # type: ignore[method-assign]
    large = core.begin("session.load", b'{"session_id":"large"}')
    await begun.wait()
    await core.call("session.load", session_id="small")
    gate.set()
    with pytest.raises(StoreUnavailableError):
        await large
    assert core.writer.store.status == "up"


async def test_a_store_that_refuses_writes_is_read_all_the_same() -> None:
    core = Core()
    core.memory.put("a", LIVE, meta())
    core.writer.store.failed(refusing())
    assert (await core.call("session.load", session_id="a"))["version"] == 5
    assert core.writer.store.status == "refusing", "an answer to a read does not say that it takes writes"


@pytest.mark.parametrize("document", UNREADABLE.values(), ids=UNREADABLE)
async def test_an_unreadable_document_is_not_missing_and_not_created_over(document: bytes) -> None:
    core = Core()
    core.memory.put("a", document, None)
    turn = {"role": "user"}
    asked: list[tuple[str, dict[str, Any]]] = [
        ("session.load", {}),
        ("session.claim", {"worker_id": "w1"}),
        ("session.add_turn", {"turn": turn}),
        ("session.amend_turn", {"set": turn}),
        ("session.record_interruption", {}),
        ("session.update", {"set": {"status": "on_hold"}}),
        ("session.end", {}),
        ("session.release", {"epoch": 0}),
        ("session.heartbeat", {}),
    ]
    versions = set()
    for method, params in asked:
        with pytest.raises(UnreadableError) as caught:
            await core.call(method, session_id="a", **params)
        versions.add(caught.value.version)
    assert len(versions) == 1
    assert (versions.pop() or 0) > 0
    for params in ({}, {"if_version": 0}):
        with pytest.raises(UnreadableError):
            await core.call("session.save", session={"id": "a"}, **params)
    beats = await core.call("session.heartbeat", session_ids=["a"])
    assert beats == {"missing": [], "ended": [], "fenced": [], "unreadable": ["a"]}
    assert core.table.sessions == {}, "nothing of it is kept"


async def test_who_has_seen_what_can_not_be_read_may_replace_it() -> None:
    core = Core()
    core.memory.put("a", b"{", meta(version=7, epoch=3, labels={"app": "sales"}))
    with pytest.raises(UnreadableError) as caught:
        await core.call("session.load", session_id="a")
    assert caught.value.version == 7
    with pytest.raises(ConflictError) as conflict:
        await core.call("session.save", session={"id": "a"}, if_version=8)
    assert conflict.value.version == 7
    with pytest.raises(FencedError):
        await core.call("session.save", session={"id": "a"}, if_version=7, epoch=2)
    saved = await core.call("session.save", session={"id": "a", "status": "active"}, if_version=7)
    assert saved["version"] > 7
    loaded = await core.call("session.load", session_id="a")
    assert loaded["session"]["status"] == "active"
    assert (loaded["epoch"], loaded["labels"]) == (3, {"app": "sales"}), "what is beside the document stays"


async def test_another_unreadable_document_has_another_version() -> None:
    core = Core()
    versions = set()
    for document in (b"{", b"[", b"{"):
        core.memory.put("a", document, None)
        with pytest.raises(UnreadableError) as caught:
            await core.call("session.load", session_id="a")
        versions.add(caught.value.version)
    assert len(versions) == 2


async def test_a_document_that_is_too_long_is_not_read_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    core = Core()
    core.memory.document_bytes = 1000
    core.memory.put("a", b'{"id":"a","x":"%b"}' % (b"x" * 1000), None)
    for method, params in (("session.load", {}), ("session.add_turn", {"turn": {}})):
        with pytest.raises(UnreadableError, match="the document has 1017 bytes"):
            await core.call(method, session_id="a", **params)
    assert [record.levelname for record in caplog.records if "1017 bytes" in record.message] == ["WARNING"] * 2
    core.memory.document_bytes = 2000
    assert (await core.call("session.load", session_id="a"))["session"]["x"] == "x" * 1000


async def test_long_documents_are_read_one_by_one_and_in_turns_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE_S", 0.0)
    core = Core()
    long = b",".join([b'{"role":"user","content":"%b"}' % (b"x" * 900)] * 300)
    names = [f"s{number}" for number in range(4)]
    for name in names:
        core.memory.put(name, b'{"id":"%b","status":"active","history":[%b]}' % (name.encode(), long), meta())
    core.memory.put("short", LIVE.replace(b'"a"', b'"short"'), meta())
    beat = core.begin("session.heartbeat", json.dumps({"session_ids": [*names, "short"]}).encode())
    turns, hot = 0, [0]
    while not beat.done():
        await asyncio.sleep(0)
        turns += 1
        if len(core.table.sessions) != hot[-1]:
            hot.append(len(core.table.sessions))
    assert json.loads(beat.result()) == {"missing": [], "ended": [], "fenced": []}
    assert core.memory.reads == names
    assert hot == [0, 1, 2, 3, 5], "the short one was read with the first of them"
    assert turns > 4 * len(long) // PIECE_BYTES
    assert core.session("s3").doc.turn_count == 300


async def test_so_many_sessions_are_read_at_a_time_and_no_more() -> None:
    core = Core()
    core.memory.hold()
    reads, searches, active_ids = core.writer.reads, list[str](), core.memory.active_ids

    def search(cursor: str = "") -> Awaitable[tuple[list[str], str]]:
        searches.append(cursor)
        return active_ids(cursor)

    core.memory.active_ids = search  # type: ignore[assignment,method-assign]
    wanted: list[asyncio.Future[Any]] = []
    wanted += [asyncio.ensure_future(reads.active_ids()) for _ in range(3 * SEARCHES_AT_ONCE)]
    wanted += [asyncio.ensure_future(reads.read(f"s{number}")) for number in range(3 * READS_AT_ONCE)]
    for _ in range(3):
        await asyncio.sleep(0)
        assert (len(core.memory.reads), len(searches)) == (READS_AT_ONCE, SEARCHES_AT_ONCE)
    core.memory.let_go()
    await asyncio.gather(*wanted)
    assert (len(core.memory.reads), len(searches)) == (3 * READS_AT_ONCE, 3 * SEARCHES_AT_ONCE)


async def test_reads_that_waited_fail_at_once_when_the_store_goes_down() -> None:
    core = Core()
    core.memory.hold()
    wanted = [asyncio.ensure_future(core.writer.reads.read(f"s{number}")) for number in range(2 * READS_AT_ONCE)]
    await asyncio.sleep(0)
    core.memory.failure = down
    core.memory.let_go()
    results = await asyncio.gather(*wanted, return_exceptions=True)
    assert {type(result) for result in results} == {StoreDownError}
    assert len(core.memory.reads) == READS_AT_ONCE


async def test_an_unreadable_document_can_be_deleted() -> None:
    core = Core()
    core.memory.put("a", b"{", meta(version=7, epoch=3))
    with pytest.raises(FencedError):
        await core.call("session.delete", session_id="a", epoch=2)
    await core.call("session.delete", session_id="a")
    with pytest.raises(SessionNotFoundError):
        await core.call("session.load", session_id="a")
    grave = core.table.tombstones.pending["a"]
    assert grave.version > 7
    assert grave.epoch == 3


async def test_an_unreadable_document_of_another_host_is_left_to_that_host() -> None:
    core = Core()
    core.memory.put("a", b"{", meta(version=7, host="other"))
    for method, params in (
        ("session.save", {"session": {"id": "a"}, "if_version": 7}), ("session.delete", {"session_id": "a"})
    ):  # fmt: skip
        with pytest.raises(FencedError):
            await core.call(method, **params)


async def test_a_store_that_never_answers_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_through_module, "READ_DEADLINE_S", 0.001)
    core = Core()
    core.memory.hold()
    with pytest.raises(StoreUnavailableError, match="no answer"):
        await core.call("session.load", session_id="a")
    core.memory.let_go()


async def test_a_new_id_is_asked_for_by_one_task(monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core()
    started: list[Any] = []
    create = asyncio.create_task

    def counted(work: Any, **options: Any) -> asyncio.Task[Any]:
        started.append(work)
        return create(work, **options)

    monkeypatch.setattr(asyncio, "create_task", counted)
    begin = core.begin("session.save", b'{"session":{"id":"a"},"if_version":0}')
    assert json.loads(await begin)["version"]
    assert len(started) == 1


async def test_a_session_deleted_while_it_was_read_stays_deleted() -> None:
    """It became hot meanwhile in another way, as by adoption, and its deletion was acknowledged."""
    core = Core()
    core.memory.put("a", LIVE, meta())
    core.memory.hold()
    load = core.begin("session.load", b'{"session_id":"a"}')
    turn = core.begin("session.add_turn", b'{"session_id":"a","turn":{"content":"late"}}')
    await core.memory.called.wait()
    adopted = session_of("a", core.memory.rows["a"], HOST)
    assert adopted is not None
    handoff.adopt(core.ctx, adopted, "w1")
    await core.call("session.delete", session_id="a")
    core.memory.let_go()
    for request in (load, turn):
        with pytest.raises(SessionNotFoundError):
            await request
    assert "a" not in core.table.sessions
    await core.writer.write_round()
    assert core.memory.rows["a"].document is None


@pytest.mark.parametrize("document", [LIVE, ENDED], ids=["live", "ended"])
async def test_a_session_whose_deletion_was_written_while_it_was_read_stays_deleted(document: bytes) -> None:
    """Nobody remembers a deletion here that the store has. What was read before it would bring the session back."""
    core = Core()
    core.memory.put("a", document, meta())
    core.memory.hold()
    turn = core.begin("session.add_turn", b'{"session_id":"a","turn":{"content":"late"}}')
    await core.memory.called.wait()
    reads, core.memory._gate = core.memory._gate, asyncio.Event()  # this read alone goes on waiting
    core.memory.let_go()
    read = session_of("a", core.memory.rows["a"], HOST)
    assert read is not None
    handoff.adopt(core.ctx, read, "w1")
    await core.call("session.delete", session_id="a")
    await core.writer.write_round()
    assert core.memory.rows["a"].document is None
    reads.set()
    with pytest.raises(SessionNotFoundError):
        await turn
    assert "a" not in core.table.sessions


@pytest.mark.parametrize("is_written", [False, True], ids=["pending", "written"])
async def test_a_read_that_begins_after_a_deletion_does_not_undo_it(is_written: bool) -> None:
    """The store has the session until the deletion is written, and that may happen before what was read arrives."""
    core = Core()
    core.memory.put("a", LIVE, meta())
    await core.call("session.delete", session_id="a")
    core.memory.hold()
    known = asyncio.Event()
    core.read_through.when_known("a", known.set)  # waited for its turn to be read, since before the deletion
    await core.memory.called.wait()
    read, core.memory._gate = core.memory._gate, asyncio.Event()
    core.memory.let_go()
    if is_written:
        await core.writer.write_round()
    read.set()
    await known.wait()
    assert "a" not in core.table.sessions
    await core.writer.write_round()
    assert core.memory.rows["a"].document is None


async def test_an_internal_fault_is_reported_and_not_cached(caplog: pytest.LogCaptureFixture) -> None:
    core = Core()
    core.memory.failure = lambda: ZeroDivisionError("oops")
    with pytest.raises(StoreUnavailableError):
        await core.call("session.load", session_id="a")
    assert "reading session a from the store failed" in caplog.text
    core.memory.failure = None
    with pytest.raises(SessionNotFoundError):
        await core.call("session.load", session_id="a")


async def test_a_late_read_never_replaces_what_is_hot() -> None:
    """An undone deletion can bring a session back while the store is being asked for it."""
    core = Core()
    core.memory.put("a", LIVE, meta())
    core.memory.hold()
    load = core.begin("session.load", b'{"session_id":"a"}')
    await core.memory.called.wait()
    later = Core()
    await later.save("a")
    await later.turn("a", "newer")
    session = later.table.sessions.pop("a")
    core.tx.create(session)
    core.ctx.watch(INTERNAL, session)
    core.memory.let_go()
    assert json.loads(await load)["session"]["history"][-1]["content"] == "newer"
    assert core.session("a") is session


async def test_another_hosts_session_can_only_be_read() -> None:
    core = Core()
    core.memory.put("a", LIVE, meta(host="other"))
    changes: list[tuple[str, dict[str, Any]]] = [
        ("session.save", {"session": {"id": "a"}}),
        ("session.add_turn", {"session_id": "a", "turn": {}}),
        ("session.amend_turn", {"session_id": "a", "set": {}}),
        ("session.record_interruption", {"session_id": "a"}),
        ("session.update", {"session_id": "a", "set": {}}),
        ("session.end", {"session_id": "a"}),
        ("session.delete", {"session_id": "a"}),
        ("session.heartbeat", {"session_id": "a"}),
    ]
    for method, params in changes:
        with pytest.raises(FencedError) as caught:
            await core.call(method, **params)
        assert caught.value.host == "other"
    beats = await core.call("session.heartbeat", session_ids=["a"])
    assert beats == {"missing": [], "ended": [], "fenced": ["a"]}
    assert not core.table.sessions
    assert not core.table.dirty.marks


async def test_a_document_by_go_is_taken_over_by_the_first_change() -> None:
    core = Core()
    core.memory.put("go-1", go_document("plain"), None)
    await core.call("session.heartbeat", session_id="go-1")
    assert core.table.unflushed_beats.keys() == {"go-1"}, "the beat counts"
    assert not core.table.sessions, "but nobody of ours reaps it"
    before = (await core.call("session.load", session_id="go-1"))["version"]
    added = await core.turn("go-1", "ours")
    assert added["turn_count"] == 2
    assert added["version"] > before
    assert core.phase("go-1") is Phase.LIVE
    await core.writer.write_round()
    row = core.memory.rows["go-1"]
    assert row.meta is not None
    assert row.meta.host == HOST
    assert json.loads(row.document or b"")["history"][0]["timestamp"] == "2024-05-01T10:00:01.987654321Z"


async def test_a_creation_does_not_overwrite_what_go_wrote() -> None:
    core = Core()
    core.memory.put("go-1", go_document("plain"), None)
    with pytest.raises(Exception, match="the session has version") as caught:
        await core.save("go-1", if_version=0)
    assert type(caught.value).__name__ == "ConflictError"
    loaded = await core.call("session.load", session_id="go-1")
    await core.call("session.update", session_id="go-1", set={"x": 1}, if_version=loaded["version"])


async def test_a_save_without_a_beginning_keeps_the_stored_one() -> None:
    core = Core()
    core.memory.put("a", ENDED, meta())
    await core.save("a")
    assert core.session("a").doc.created_at == "2025-01-01T00:00:00Z"
    assert core.session("a").doc.turn_count == 1, "a save without a history keeps it"


async def test_beats_of_many_wait_for_those_nobody_knows() -> None:
    core = Core()
    await core.save("hot")
    core.memory.put("a", LIVE, meta())
    core.memory.put("b", ENDED.replace(b'"a"', b'"b"'), meta())
    beats = await core.call("session.heartbeat", session_ids=["hot", "a", "b", "c", "no id"])
    assert beats == {"missing": ["no id", "c"], "ended": ["b"], "fenced": []}
    assert core.table.unflushed_beats.keys() == {"hot", "a"}
    core.memory.failure = down
    with pytest.raises(StoreUnavailableError):
        await core.call("session.heartbeat", session_ids=["hot", "x", "y"])


async def test_closing_waits_for_what_is_under_way() -> None:
    core = Core()
    core.memory.hold()
    load = core.begin("session.load", b'{"session_id":"a"}')
    closing = asyncio.ensure_future(core.read_through.close())
    await core.memory.called.wait()
    assert not closing.done()
    core.memory.let_go()
    await closing
    with pytest.raises(SessionNotFoundError):
        await load
    await core.read_through.close()
