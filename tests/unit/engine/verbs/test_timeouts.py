"""Timeouts of a session: given by a save or a claim, or the default in force when the call began."""

from __future__ import annotations

from typing import Any

import pytest

from callstate_client.engine.phases import Phase
from callstate_sidecar.config.schema import ReaperConfig
from support.core import Core, FakeClient
from support.core_harness import TIMEOUT_S, CoreHarness


async def test_a_saved_timeout_counts_from_now_on(core: Core) -> None:
    await core.save("a")
    await core.save("a", heartbeat_timeout_s=5.0)
    core.advance(5.0)
    assert core.phase("a") is Phase.SUSPECT


async def test_a_maximal_duration_counts_from_the_beginning_of_the_call(core: Core) -> None:
    await core.save("a", session={"created_at": "2025-12-31T23:59:50Z"}, max_duration_s=25.0)
    await core.save("zero", session={"created_at": "0001-01-01T00:00:00Z"}, max_duration_s=25.0)
    core.advance(14.9)
    assert core.phase("a") is Phase.LIVE
    await core.call("session.heartbeat", session_ids=["a", "zero"])
    core.advance(0.2)
    assert core.session("a").facts.ended_reason == "max_duration"
    assert core.phase("zero") is Phase.LIVE, "a zero time is no beginning"


# -- claims -------------------------------------------------------------------------------------------------------


async def test_a_claim_returns_the_timeouts_in_force_and_sets_those_it_gives(
    harness: CoreHarness, w1: FakeClient
) -> None:
    await harness.save(harness.operator, "a", max_duration_s=900)
    claimed = await harness.claim(w1, "a", "w1")
    assert (claimed["heartbeat_timeout_s"], claimed["max_duration_s"]) == (TIMEOUT_S, 900.0)
    again = await harness.claim(w1, "a", "w1", heartbeat_timeout_s=60, max_duration_s=1000)
    assert (again["heartbeat_timeout_s"], again["max_duration_s"]) == (60.0, 1000.0)
    assert again["epoch"] == claimed["epoch"]
    assert again["version"] > claimed["version"]
    await harness.advance(TIMEOUT_S + 1)
    assert harness.phase("a") is Phase.LIVE
    harness.check_replay()
    await harness.advance(30)
    assert harness.phase("a") is Phase.SUSPECT


async def test_a_claim_by_another_worker_sets_its_timeouts(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.save(w1, "a", heartbeat_timeout_s=10)
    claimed = await harness.claim(w2, "a", "w2", steal=True, heartbeat_timeout_s=60, max_duration_s=50)
    assert (claimed["heartbeat_timeout_s"], claimed["max_duration_s"]) == (60.0, 50.0)
    await harness.advance(49)
    assert harness.phase("a") is Phase.LIVE
    await harness.advance(2)
    assert harness.core.session("a").facts.ended_reason == "max_duration"
    harness.check_replay()


async def test_a_claim_after_the_maximal_duration_sets_a_new_limit(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.save(w1, "a", max_duration_s=5)
    await harness.advance(6)
    assert (await harness.claim(w2, "a", "w2", max_duration_s=20))["max_duration_s"] == 20.0
    await harness.advance(15)
    assert harness.core.session("a").facts.ended_reason == "max_duration"


async def test_a_claim_after_the_maximal_duration_removes_the_limit(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.save(w1, "a", max_duration_s=10.0)
    await harness.advance(10.0)
    assert harness.core.session("a").facts.ended_reason == "max_duration"
    await harness.claim(w2, "a", "w2")
    await harness.advance(TIMEOUT_S - 1)
    assert harness.phase("a") is Phase.LIVE


async def test_a_claim_before_the_maximal_duration_keeps_the_limit(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.save(w1, "a", max_duration_s=20.0)
    await harness.advance(15.0)
    await harness.claim(w2, "a", "w2", steal=True)
    await harness.advance(5.0)
    assert harness.core.session("a").facts.ended_reason == "max_duration"


@pytest.mark.parametrize("bad", [0, -1, "60"])
@pytest.mark.parametrize("name", ["heartbeat_timeout_s", "max_duration_s"])
async def test_a_claim_with_an_invalid_timeout_takes_nothing(
    harness: CoreHarness, w1: FakeClient, name: str, bad: Any
) -> None:
    await harness.save(harness.operator, "a")
    data = await harness.refused(w1, "session.claim", session_id="a", worker_id="w1", **{name: bad})
    assert (data["kind"], data["path"]) == ("invalid_params", f"$.params.{name}")


# -- the default --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reload", "restart"])
async def test_a_changed_default_holds_for_new_calls_only(harness: CoreHarness, w1: FakeClient, how: str) -> None:
    await harness.save(w1, "created")
    await harness.save(harness.operator, "claimed")
    await harness.claim(w1, "claimed", "w1")
    if how == "restart":
        harness.options = {"reaper": ReaperConfig(heartbeat_timeout_s=6)}
        await harness.restart()
        w1 = await harness.worker("w1", harness.process_of(w1))
    harness.core.liveness.timeout_s = 6.0
    new = await harness.save(harness.operator, "new")
    assert new["heartbeat_timeout_s"] == 6.0
    for _ in range(3):  # heartbeats at the interval of the default that was in force when the calls began
        await harness.advance(TIMEOUT_S / 3)
        assert [harness.phase(call) for call in ("created", "claimed")] == [Phase.LIVE] * 2
        await harness.request(w1, "session.heartbeat", session_ids=["created", "claimed"])
    assert harness.phase("new") is Phase.SUSPECT
    assert (await harness.claim(w1, "claimed", "w1"))["heartbeat_timeout_s"] == TIMEOUT_S
    harness.check_replay()


async def test_a_connection_that_read_the_default_is_not_held_to_a_shorter_one(
    harness: CoreHarness, w1: FakeClient
) -> None:
    await harness.request(w1, "server.info")
    harness.core.liveness.timeout_s = 6.0
    assert (await harness.save(w1, "a"))["heartbeat_timeout_s"] == TIMEOUT_S
    await harness.request(w1, "server.info")
    assert (await harness.save(w1, "b"))["heartbeat_timeout_s"] == 6.0
    harness.core.liveness.timeout_s = 60.0
    assert (await harness.save(w1, "c"))["heartbeat_timeout_s"] == 60.0


async def test_a_worker_with_an_instance_follows_a_lowered_default(harness: CoreHarness) -> None:
    one = await harness.worker("w1", instance="i1")
    await harness.request(one, "server.info")
    harness.core.liveness.timeout_s = 6.0
    assert (await harness.save(one, "a"))["heartbeat_timeout_s"] == 6.0
