"""`server.erase`: what it deletes, what it refuses, and what becomes of it if the journal refuses the deletion."""

from __future__ import annotations

import pytest

from callstate_client import MemoryStore, SessionState
from callstate_client.errors import ConflictError, SessionNotFoundError
from support.core import Core, FakeClient
from support.core_harness import CoreHarness
from support.stores import taken_over
from support.verbs import refused, unjournaled


async def test_an_ended_call_is_deleted_and_may_be_erased_again(core: Core) -> None:
    core.writer.start()
    await core.save("a")
    await core.call("session.end", session_id="a")
    first = await core.call("server.erase", session_id="a")
    assert len(first["remains"]) == 2
    await refused(SessionNotFoundError, core, "session.load", session_id="a")
    assert await core.call("server.erase", session_id="a") == first
    await core.writer.stop()


async def test_a_call_that_another_host_has_by_now_is_not_said_to_be_erased(core: Core) -> None:
    """It has stolen the call, of which this host learns when the store refuses the deletion, and gives that up."""
    core.writer.start()
    await core.save("a")
    await core.call("server.flush")
    await taken_over(core.memory)
    with pytest.raises(ConflictError, match="the store has a session of this id"):
        await core.call("server.erase", session_id="a", end=True)
    await core.writer.stop()


async def test_one_that_nobody_knows_is_not_found(core: Core) -> None:
    await refused(SessionNotFoundError, core, "server.erase", session_id="nobody")


async def test_a_live_call_is_ended_only_if_asked_for(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.save(w1, "a")
    assert (await harness.refused(harness.operator, "server.erase", session_id="a"))["kind"] == "conflict"
    assert (await harness.refused(w1, "server.erase", session_id="b", end=True))["kind"] == "not_found"
    harness.new_events()
    harness.core.writer.start()
    await harness.request(harness.operator, "server.erase", session_id="a", end=True)
    assert [event["type"] for event in harness.new_events()] == ["ended", "deleted"]
    await harness.core.writer.stop()


async def test_another_workers_call_is_fenced(harness: CoreHarness, w1: FakeClient, w2: FakeClient) -> None:
    await harness.save(w1, "a")
    assert (await harness.refused(w2, "server.erase", session_id="a", end=True))["kind"] == "fenced"


async def test_if_the_journal_refuses_the_deletion_nothing_has_changed(
    harness: CoreHarness, w1: FakeClient
) -> None:
    await harness.save(w1, "a")
    await unjournaled(harness, harness.operator, "server.erase", session_id="a", end=True)


async def test_a_memory_store_has_no_files() -> None:
    async with MemoryStore() as store:
        await store.save(SessionState("a", status="active"))
        with pytest.raises(ConflictError, match="live"):
            await store.erase("a")
        assert await store.erase("a", end=True) == []
        with pytest.raises(SessionNotFoundError):
            await store.load("a")
        assert await store.erase("a") == []
