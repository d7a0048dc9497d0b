"""The sweep: what the store lost, and what other software changed there, is found without a change of ours."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from callstate_client.engine.sessions.stored import StoredSession, StoreTimeoutError
from callstate_sidecar.config.schema import StoreConfig
from callstate_sidecar.write_behind import sweep as sweep_module
from support.core import Core, FakeClient
from support.stores import down


async def stored(*session_ids: str, **store: Any) -> Core:
    """A core whose store has these sessions."""
    core = Core(store=StoreConfig(**store))
    for session_id in session_ids:
        await core.save(session_id)
        await core.turn(session_id, "hello")
    await core.writer.write_round()
    return core


async def look(core: Core) -> None:
    """Sweep, and write what that found."""
    await core.writer._sweep.sweep()
    await core.writer.write_round()
    await core.writer.write_round()


def change(core: Core, session_id: str, **members: Any) -> None:
    """As software does that knows no meta."""
    row = core.memory.rows[session_id]
    document = json.loads(row.document or b"") | members
    core.memory.rows[session_id] = StoredSession(json.dumps(document).encode(), row.meta, 0, b"foreign")


def document_of(core: Core, session_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(core.memory.rows[session_id].document or b"{}")
    return found


async def listening(core: Core) -> FakeClient:
    peer = FakeClient(core)
    peer.send(("events.subscribe", {}))
    core.commit()
    return peer


async def events(core: Core, peer: FakeClient) -> list[tuple[str, str | None]]:
    core.commit()
    await asyncio.sleep(0)  # what is queued leaves at the turn's end
    return [(event["type"], event.get("reason")) for event in peer.events]


async def test_a_session_the_store_has_is_not_written_again() -> None:
    core = await stored("a", "b")
    before = len(core.memory.batches)
    await look(core)
    assert len(core.memory.batches) == before
    assert [session.session_id for session in core.memory.checks[0]] == ["a", "b"]


async def test_a_session_that_the_store_lost_is_written_again() -> None:
    core = await stored("a", "b")
    peer = await listening(core)
    del core.memory.rows["a"]
    await look(core)
    assert document_of(core, "a")["history"][0]["content"] == "hello"
    assert await events(core, peer) == [("store.repaired", None)]
    assert core.metrics.counters["store_repairs"] == 1


async def test_an_older_copy_is_replaced() -> None:
    core = await stored("a")
    older = core.memory.rows["a"]
    await core.turn("a", "again")
    await core.writer.write_round()
    core.memory.rows["a"] = older
    await look(core)
    assert len(document_of(core, "a")["history"]) == 2


async def test_a_change_of_other_software_is_taken() -> None:
    core = await stored("a")
    peer = await listening(core)
    change(core, "a", status="on_hold", campaign=7)
    before = core.session("a").version
    await look(core)
    loaded = await core.call("session.load", session_id="a")
    assert (loaded["session"]["status"], loaded["session"]["campaign"]) == ("on_hold", 7)
    assert loaded["version"] > before
    assert await events(core, peer) == [("recovered", "foreign_write")]
    row = core.memory.rows["a"]
    assert row.meta is not None
    assert (row.meta.version, row.foreign_stamp) == (core.session("a").version, b"")
    assert "store_set_aside" not in core.metrics.counters


async def test_an_end_by_other_software_ends_the_call() -> None:
    core = await stored("a")
    peer = await listening(core)
    change(core, "a", status="ended")
    await look(core)
    assert core.session("a").ended
    assert await events(core, peer) == [("ended", "operator")]
    assert "a" not in core.memory.active


async def test_a_call_that_ended_here_is_not_revived() -> None:
    """As by a heartbeat that loads, modifies and saves, across the end."""
    core = await stored("a")
    await core.call("session.end", session_id="a")
    await core.writer.write_round()
    change(core, "a", status="active")
    core.memory.active.add("a")
    await look(core)
    assert document_of(core, "a")["status"] == "ended"
    assert "a" not in core.memory.active


async def test_a_change_of_ours_wins_and_theirs_is_set_aside() -> None:
    core = await stored("a")
    peer = await listening(core)
    change(core, "a", status="on_hold")
    await core.turn("a", "ours")
    await look(core)
    assert document_of(core, "a")["status"] == "active"
    assert len(document_of(core, "a")["history"]) == 2
    assert ("recovered", "foreign_set_aside") in await events(core, peer)
    assert core.metrics.counters["store_set_aside"] == 1


async def test_a_deletion_by_other_software_is_taken() -> None:
    core = await stored("a")
    peer = await listening(core)
    row = core.memory.rows["a"]
    core.memory.rows["a"] = StoredSession(None, row.meta)
    await look(core)
    assert "a" not in core.table.sessions
    assert await events(core, peer) == [("deleted", "deleted")]


async def test_a_session_that_changes_meanwhile_is_left_to_its_own_write() -> None:
    core = await stored("a")
    change(core, "a", status="on_hold")
    real = core.memory.check

    async def check(sessions: Any) -> Any:
        found = await real(sessions)
        await core.turn("a", "ours")
        return found

    core.memory.check = check  # type: ignore[method-assign]
    await look(core)
    assert len(document_of(core, "a")["history"]) == 2


async def test_many_sessions_are_compared_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_module, "SESSIONS_A_REQUEST", 2)
    core = await stored("a", "b", "c")
    await look(core)
    assert [len(checked) for checked in core.memory.checks] == [2, 1]


async def test_an_ended_session_is_not_renewed_and_may_expire() -> None:
    core = await stored("a", "b", ttl_s=100)
    await core.call("session.end", session_id="a")
    await core.writer.write_round()
    await look(core)
    assert {session.session_id: session.live for session in core.memory.checks[-1]} == {"a": False, "b": True}
    core.clock.advance(60.0)
    await look(core)
    assert [session.session_id for session in core.memory.checks[-1]] == ["b"]


async def test_a_store_that_fails_is_left_to_the_writer() -> None:
    core = await stored("a")
    core.memory.failure = down
    await core.writer._sweep.sweep()
    core.memory.failure = None
    assert not core.table.dirty.marks


# -- loss of everything -----------------------------------------------------------------------------------------


async def test_after_a_loss_deletions_are_repeated() -> None:
    core = await stored("a", "b", "c")
    lost = core.memory.rows["a"], core.memory.rows["b"]
    for session_id in ("a", "b"):
        await core.call("session.delete", session_id=session_id)
    await core.writer.write_round()
    await core.save("b")
    await core.writer.write_round()
    core.memory.rows["a"], core.memory.rows["b"] = lost
    core.memory.data_losses += 1
    for _ in range(3):
        await core.writer.write_round()
    assert core.memory.versions().keys() == {"b", "c"}
    assert core.memory.versions()["b"] == core.session("b").version


async def test_deletions_are_remembered_for_the_ttl() -> None:
    core = await stored("a", ttl_s=100)
    await core.call("session.delete", session_id="a")
    await core.writer.write_round()
    assert len(core.writer._deletions) == 1
    core.clock.advance(101.0)
    await core.save("b")
    await core.writer.write_round()
    assert len(core.writer._deletions) == 0


async def test_an_ended_session_stays_hot_while_the_store_is_in_doubt() -> None:
    core = await stored("a")
    await core.call("session.end", session_id="a")
    await core.writer.write_round()
    assert core.table.is_stored(core.session("a"))
    core.memory.failure = down
    await core.save("b")
    await core.writer.write_round()
    assert not core.table.is_stored(core.session("a"))
    core.memory.failure = None
    core.clock.advance(10.0)
    await core.writer.write_round()
    assert core.table.is_stored(core.session("a"))


async def test_a_sweep_that_is_not_answered_opens_the_circuit() -> None:
    core = await stored("a")

    async def check(sessions: Any) -> Any:
        raise StoreTimeoutError("no answer")

    core.memory.check = check  # type: ignore[method-assign]
    await core.writer._sweep.sweep()
    assert core.writer.store.status == "down"
    assert core.writer._wake.is_set(), "write-behind finds out"
    await core.writer.write_round()
    assert core.writer.store.status == "up"


async def test_a_sweep_that_asks_too_much_does_not_open_it() -> None:
    core = await stored("a")

    async def check(sessions: Any) -> Any:
        core.writer.store.answered()  # a read, meanwhile
        raise StoreTimeoutError("no answer")

    core.memory.check = check  # type: ignore[method-assign]
    await core.writer._sweep.sweep()
    assert core.writer.store.status == "up"
