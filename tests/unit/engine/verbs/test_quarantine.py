"""`quarantine.*`: what the store refuses is listed, shown, tried again and dropped."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from callstate_client import MemoryStore, SessionState
from callstate_client.engine.sessions.stored import StoredMeta
from callstate_client.engine.verbs import quarantine as quarantine_verbs
from callstate_client.errors import InvalidParamsError, NotDurableError, SessionNotFoundError, StoreUnavailableError
from support.core import HOST, Core
from support.stores import down, taken_over

OTHER = StoredMeta(host="other", epoch=1 << 20, version=1 << 60, owner="w9")


async def refused(*session_ids: str) -> Core:
    """A core whose store refuses these sessions, and the deletion of `gone`."""
    core = Core()
    for session_id in (*session_ids, "gone"):
        await core.save(session_id, session={"from": "+15550001"})
    await core.writer.write_round()
    core.memory.rejected = {*session_ids, "gone"}
    await core.call("session.delete", session_id="gone")
    for session_id in session_ids:
        await core.turn(session_id)
    await core.writer.write_round()
    core.clock.advance(0.25)
    return core


async def listed(core: Core, **params: Any) -> list[str]:
    return [each["session_id"] for each in (await core.call("quarantine.list", **params))["quarantined"]]


async def test_sessions_and_deletions_are_listed_with_why_and_when() -> None:
    core = await refused("a")
    result = await core.call("quarantine.list")
    assert result.keys() == {"quarantined"}
    by_id = {each["session_id"]: each for each in result["quarantined"]}
    assert by_id.keys() == {"a", "gone"}
    assert {name: by_id["a"][name] for name in ("kind", "reason", "attempts", "since_s", "version")} == {
        "kind": "session",
        "reason": "rejected: too big for this store",
        "attempts": 1,
        "since_s": 0.25,
        "version": core.session("a").version,
    }
    assert 0.25 <= by_id["a"]["retry_in_s"] <= 0.75
    assert by_id["gone"]["kind"] == "deletion"
    assert by_id["gone"]["version"] == core.table.tombstones.pending["gone"].version


async def test_they_are_listed_by_pages_the_oldest_first() -> None:
    core = await refused("a", "b", "c")
    ids = await listed(core)
    page = await core.call("quarantine.list", limit=3)
    assert [each["session_id"] for each in page["quarantined"]] == ids[:3]
    core.clock.advance(2.0)
    await core.writer.write_round()  # refused again, which changes no place
    rest = await core.call("quarantine.list", limit=3, cursor=page["next_cursor"])
    assert [each["session_id"] for each in rest["quarantined"]] == ids[3:]
    assert "next_cursor" not in rest
    other_run = page["next_cursor"].replace("stream-1", "stream-0")
    assert (await core.call("quarantine.list", cursor=other_run))["quarantined"][0]["session_id"] == ids[0]
    for cursor in ("x", "-1", "1:2", "9" * 20):
        with pytest.raises(InvalidParamsError):
            await core.call("quarantine.list", cursor=cursor)
    with pytest.raises(InvalidParamsError):
        await core.call("quarantine.list", limit=0)


async def test_a_page_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine_verbs, "ENTRIES_A_PAGE", 2)
    core = await refused("a", "b")
    assert len(await listed(core)) == len(await listed(core, limit=1000)) == 2


async def test_one_is_shown_with_what_the_store_has_in_its_place() -> None:
    core = await refused("a")
    shown = await core.call("quarantine.show", session_id="a")
    assert shown["session"]["from"] == "+15550001"
    assert "history" not in shown["session"]
    assert shown["turn_count"] == 1
    meta = core.memory.rows["a"].meta
    document = core.memory.rows["a"].document
    assert meta is not None
    assert document is not None
    assert shown["stored"] == {
        "version": meta.version,
        "host": HOST,
        "document_bytes": len(document),
    }
    shown = await core.call("quarantine.show", session_id="gone")
    assert shown["kind"] == "deletion"
    assert "session" not in shown
    del core.memory.rows["gone"]
    assert (await core.call("quarantine.show", session_id="gone"))["stored"] is None


async def test_it_is_shown_although_the_store_is_unavailable() -> None:
    core = await refused("a")
    core.memory.failure = down
    for _ in range(2):
        shown = await core.call("quarantine.show", session_id="a")
        assert shown["store_error"] == "connection refused"
        assert "stored" not in shown


async def lost(*session_ids: str) -> Core:
    """A core that has set these sessions aside, as another host has taken them over."""
    core = Core()
    for session_id in session_ids:
        await core.save(session_id)
    await core.writer.write_round()
    await taken_over(core.memory)
    for session_id in session_ids:
        await core.turn(session_id, "said here")
    await core.writer.write_round()
    core.clock.advance(2.0)
    return core


async def test_copies_of_what_another_host_has_taken_over_are_listed_behind_the_rest() -> None:
    core = await lost("a", "b", "c")
    await core.save("d")
    core.memory.rejected = {"d"}
    await core.writer.write_round()
    entries: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        page = await core.call("quarantine.list", limit=1, **cursor)
        entries += page["quarantined"]
        if "next_cursor" not in page:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert [(each["session_id"], each["kind"]) for each in entries] == [
        ("d", "session"),
        ("a", "copy"),
        ("b", "copy"),
        ("c", "copy"),
    ]
    assert entries[1].keys() == {"session_id", "kind", "reason", "since_s", "version", "epoch"}
    assert (entries[1]["reason"], entries[1]["since_s"]) == ("host host-2 has it", 2.0)
    assert await core.call("quarantine.retry", session_ids=["a"]) == {"retried": 0}


async def test_a_copy_is_shown_whole_and_dropped_for_good() -> None:
    core = await lost("a")
    shown = await core.call("quarantine.show", session_id="a")
    assert [turn["content"] for turn in shown["session"]["history"]] == ["said here"]
    assert (shown["stored"]["host"], shown["stored"]["owner"]) == ("host-2", "w9")
    assert core.replayed().set_aside.of("a")
    assert await core.call("quarantine.drop", session_id="a") == {}
    assert not core.table.set_aside
    assert not core.replayed().set_aside
    assert (await core.call("session.load", session_id="a"))["owner"] == "w9"
    with pytest.raises(SessionNotFoundError):
        await core.call("quarantine.show", session_id="a")


async def test_of_two_that_came_to_the_same_version_at_two_hosts_both_are_kept() -> None:
    core = await lost("a")
    (copy,) = core.table.set_aside.of("a")
    facts = structs.replace(copy.state.facts, epoch=2 << 20)
    later = structs.replace(copy, state=structs.replace(copy.state, facts=facts))
    core.tx.records.append(later)
    core.table.set_aside.add(later)
    core.commit()
    assert core.table.set_aside.of("a") == [copy, later]
    assert core.replayed().set_aside.of("a") == [copy, later]
    await core.call("quarantine.drop", session_id="a")
    assert not core.table.set_aside
    assert not core.replayed().set_aside


async def test_a_drop_of_a_copy_that_is_not_durable_is_undone() -> None:
    core = await lost("a")
    copies = core.table.set_aside.of("a")
    core.tx.drop_copies("a")
    core.tx.rollback(NotDurableError("the disk is full"))
    assert core.table.set_aside.of("a") == copies


async def test_a_refused_deletion_of_what_another_host_takes_over_leaves_quarantine() -> None:
    core = await refused()
    core.memory.rejected = set()
    document = core.memory.rows["gone"].document
    core.memory.put("gone", document, OTHER)
    core.clock.advance(600.0)
    await core.writer.write_round()
    assert not core.table.quarantined
    assert await listed(core) == []


async def test_one_or_all_are_tried_again_at_once() -> None:
    core = await refused("a", "b")
    core.memory.rejected = set()
    assert await core.call("quarantine.retry", session_ids=["a", "unknown"]) == {"retried": 1}
    assert core.writer._wake.is_set()
    await core.writer.write_round()
    assert core.table.quarantined.keys() == {"b", "gone"}
    assert await core.call("quarantine.retry") == {"retried": 2}
    await core.writer.write_round()
    assert not core.table.quarantined
    assert core.memory.versions() == {name: core.session(name).version for name in ("a", "b")}
    assert core.memory.rows["gone"].document is None
    assert await core.call("quarantine.retry") == {"retried": 0}


async def test_a_dropped_session_is_what_the_store_has() -> None:
    core = await refused("a")
    assert await core.call("quarantine.drop", session_id="a") == {}
    assert core.phase("a") is None
    loaded = await core.call("session.load", session_id="a")
    assert loaded["turn_count"] == 0, "the turn that the store refused is gone"
    assert core.replayed().sessions["a"].doc.turn_count == 0, "from the journal too"
    core.clock.advance(600.0)
    await core.writer.write_round()
    assert core.table.quarantined.keys() == {"gone"}


async def test_a_dropped_deletion_leaves_the_session_as_the_store_has_it() -> None:
    core = await refused()
    with pytest.raises(SessionNotFoundError):
        await core.call("session.load", session_id="gone")
    assert await core.call("quarantine.drop", session_id="gone") == {}
    assert not core.replayed().tombstones.pending
    assert (await core.call("session.load", session_id="gone"))["session"]["from"] == "+15550001"
    core.memory.rejected = set()
    core.clock.advance(600.0)
    await core.writer.write_round()
    assert core.memory.versions().keys() == {"gone"}


async def test_a_drop_that_is_not_durable_is_undone() -> None:
    core = await refused("a")
    refusals = {name: core.table.quarantined.get(name) for name in ("a", "gone")}
    core.tx.give_up_deletion("gone")
    core.tx.forget(core.session("a"), 0)
    core.tx.rollback(NotDurableError("the disk is full"))
    assert {name: core.table.quarantined.get(name) for name in ("a", "gone")} == refusals
    assert core.session("a").doc.turn_count == 1
    assert "gone" in core.table.tombstones.pending


async def test_a_session_that_is_not_quarantined_is_not_found() -> None:
    core = await refused("a")
    await core.save("b")
    for method in ("quarantine.show", "quarantine.drop"):
        for session_id in ("b", "unknown"):
            with pytest.raises(SessionNotFoundError):
                await core.call(method, session_id=session_id)
        with pytest.raises(InvalidParamsError):
            await core.call(method, session_id="not an id")
    with pytest.raises(InvalidParamsError):
        await core.call("quarantine.retry", session_ids=["not an id"])


async def test_a_session_the_store_takes_meanwhile_is_not_found() -> None:
    core = await refused("a")
    core.memory.hold()
    showing = core.begin("quarantine.show", b'{"session_id":"a"}')
    core.table.quarantined.discard("a")
    core.memory.let_go()
    with pytest.raises(SessionNotFoundError):
        await showing


async def test_an_unexpected_fault_of_the_read_is_an_internal_error() -> None:
    core = await refused("a")
    core.memory.failure = lambda: ZeroDivisionError("oops")
    with pytest.raises(ZeroDivisionError):
        await core.call("quarantine.show", session_id="a")


async def test_a_quarantined_session_is_served_while_the_store_is_down() -> None:
    """A refused session is served as any other."""
    core = await refused("a")
    core.memory.failure = down
    with pytest.raises(StoreUnavailableError):
        await core.call("session.load", session_id="cold")
    assert (await core.call("session.load", session_id="a"))["turn_count"] == 1


async def test_a_memory_store_refuses_nothing() -> None:
    async with MemoryStore() as store:
        await store.save(SessionState("a"))
        assert [each async for each in store.quarantined()] == []
        assert await store.retry_quarantined() == 0
        for call in (store.show_quarantined, store.drop_quarantined):
            with pytest.raises(SessionNotFoundError):
                await call("a")
