"""`session.release`: a session without an owner, for whoever claims it next."""

from __future__ import annotations

import pytest

from callstate_client.engine.phases import Phase
from support.core import FakeClient
from support.core_harness import TIMEOUT_S, CoreHarness
from support.verbs import event, make_claimable, unjournaled


async def test_a_released_session_is_an_orphan_with_a_full_timeout(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.save(w1, "a")
    await harness.advance(TIMEOUT_S - 1)
    harness.new_events()
    version = harness.core.session("a").version
    assert await harness.release(w1, "a") == {}
    assert harness.ownership("a") == ("", 0, "released")
    assert harness.core.session("a").version > version
    assert harness.new_events() == [event("released", "a", owner="w1", reason="released")]
    await harness.advance(TIMEOUT_S - 0.001)
    assert harness.phase("a") is Phase.LIVE


async def test_a_repeated_release_changes_nothing(harness: CoreHarness, w1: FakeClient) -> None:
    await make_claimable(harness, w1, "released")
    before = harness.durable_state()
    for peer in (w1, harness.operator):
        assert await harness.release(peer, "a") == {}
    assert harness.durable_state() == before
    assert harness.new_events() == []


async def test_a_released_suspect_is_live_again(harness: CoreHarness, w1: FakeClient) -> None:
    await make_claimable(harness, w1, "heartbeat_timeout")
    await harness.release(w1, "a")
    assert harness.phase("a") is Phase.LIVE
    assert harness.ownership("a") == ("", 0, "released")
    assert [e["type"] for e in harness.new_events()] == ["released"]


async def test_a_release_needs_epoch_and_ownership(harness: CoreHarness, w1: FakeClient, w2: FakeClient) -> None:
    await harness.save(w1, "a")
    for peer, epoch in ((w1, 1), (w2, 0), (harness.operator, 1)):
        assert (await harness.refused(peer, "session.release", session_id="a", epoch=epoch))["kind"] == "fenced"
    assert (await harness.refused(w1, "session.release", session_id="a"))["kind"] == "invalid_params"
    assert (await harness.refused(w1, "session.release", session_id="no", epoch=0))["kind"] == "not_found"
    await harness.release(harness.operator, "a")
    assert harness.ownership("a") == ("", 0, "released")


async def test_a_late_release_after_a_claim_is_fenced(harness: CoreHarness, w1: FakeClient, w2: FakeClient) -> None:
    await harness.save(w1, "a")
    await harness.claim(w2, "a", "w2", steal=True)
    assert (await harness.refused(w1, "session.release", session_id="a", epoch=0))["kind"] == "fenced"


async def test_an_ended_session_is_not_released(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.save(w1, "a")
    await harness.end(w1, "a")
    assert (await harness.refused(w1, "session.release", session_id="a", epoch=0))["kind"] == "session_ended"


@pytest.mark.parametrize("was", ["live", "heartbeat_timeout"])
async def test_a_release_that_is_not_journaled_changes_nothing(
    harness: CoreHarness, w1: FakeClient, was: str
) -> None:
    await make_claimable(harness, w1, was)
    phase = harness.phase("a")
    await unjournaled(harness, w1, "session.release", session_id="a", epoch=0)
    assert harness.ownership("a") == ("w1", 0, "")
    assert harness.phase("a") is phase
    assert harness.new_events() == [{"type": "journal.full"}]
    await harness.release(w1, "a")
