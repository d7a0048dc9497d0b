"""Epochs: when a session gets a new one, and that requests with an older one are fenced."""

from __future__ import annotations

import pytest

from callstate_client.engine.phases import Phase
from callstate_client.engine.table.replay import snapshot
from callstate_client.errors import FencedError, SessionNotFoundError
from support.core import Core, FakeClient
from support.core_harness import TIMEOUT_S, CoreHarness
from support.verbs import SIGNS_OF_LIFE, event, make_claimable, refused


async def test_another_epoch_than_the_sessions_is_fenced(core: Core) -> None:
    await core.save("a")
    core.session("a").change_facts(epoch=3)
    core.logged += snapshot(core.table)
    core.session("a").version += 1  # the log has it with this epoch from here on
    core.logged += snapshot(core.table)
    for method, params in (
        ("session.save", {"session": {"id": "a"}}),
        ("session.add_turn", {"session_id": "a", "turn": {}}),
        ("session.end", {"session_id": "a"}),
        ("session.delete", {"session_id": "a"}),
    ):
        error = await refused(FencedError, core, method, epoch=2, **params)
        assert error.data["epoch"] == 3
    await core.turn("a", epoch=3)
    await refused(SessionNotFoundError, core, "session.save", session={"id": "b"}, epoch=3)


async def test_a_new_session_continues_from_the_epoch_of_the_deleted_one(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.save(w1, "a")
    await harness.claim(w2, "a", "w2", steal=True)
    await harness.request(w2, "session.delete", session_id="a")
    await harness.save(w1, "a")
    assert harness.ownership("a") == ("w1", 1, "")


async def test_an_ended_orphan_is_revived_in_a_new_epoch(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await make_claimable(harness, w1, "released")
    await harness.end(harness.operator, "a")
    await harness.save(w2, "a")
    assert harness.ownership("a") == ("w2", 1, "")
    assert (await harness.refused(w1, "session.record_interruption", session_id="a", epoch=0))["kind"] == "fenced"
    assert await harness.claim_next(w1, "w1") is None


# -- a worker's own sessions --------------------------------------------------------------------------------------


async def test_a_silent_owner_claims_its_session_in_the_same_epoch(harness: CoreHarness, w1: FakeClient) -> None:
    await make_claimable(harness, w1, "heartbeat_timeout")
    assert (await harness.claim(w1, "a", "w1"))["epoch"] == 0
    assert harness.new_events() == [event("recovered", "a", owner="w1", labels={"app": "x"})]


async def test_an_operators_claim_for_the_owner_keeps_the_epoch(harness: CoreHarness) -> None:
    one = await harness.worker("w1", instance="i1")
    await harness.save(one, "a")
    assert (await harness.claim(harness.operator, "a", "w1"))["epoch"] == 0
    await harness.add_turn(one, "a", epoch=0)


@pytest.mark.parametrize("was", ["live", "silent", "claim_next"])
async def test_a_new_process_of_a_worker_claims_in_a_new_epoch(
    harness: CoreHarness, w1: FakeClient, was: str
) -> None:
    await harness.save(w1, "a")
    if was == "silent":
        await harness.advance(TIMEOUT_S)
    await harness.kill(w1)
    again = await harness.worker("w1")
    if was == "claim_next":
        claimed = await harness.claim_next(again, "w1")
    else:
        claimed = await harness.claim(again, "a", "w1")
    assert claimed["epoch"] == 1


async def test_a_new_process_that_registers_and_claims_at_once_gets_a_new_epoch(
    harness: CoreHarness, w1: FakeClient
) -> None:
    """It claims before the daemon has dealt with all sessions of the old process; dealing with them later must not
    make a suspect of what was claimed."""
    for number in range(100):
        await harness.save(w1, f"s{number}")
    program = harness.process()
    new = harness.connect(program)
    harness.exit(harness.process_of(w1))
    await harness.settle()
    harness.new_events()
    register = ("worker.register", {"worker_id": "w1"})
    claim = ("session.claim", {"session_id": "s99", "worker_id": "w1"})
    replies = await harness.replies(new, register, claim)
    assert replies[1]["result"]["epoch"] == 1
    assert harness.phase("s99") is Phase.LIVE
    assert [e["reason"] for e in harness.new_events() if e.get("session_id") == "s99"] == ["worker_exited"]
    while len(harness.core.liveness.suspects) < 99:
        await harness.settle()
    assert harness.phase("s99") is Phase.LIVE


# -- instances: stores of one process under one worker id ---------------------------------------------------------


@pytest.fixture
async def instances(harness: CoreHarness) -> tuple[FakeClient, FakeClient]:
    """Connections of two instances of w1; session `a` is the first one's."""
    program = harness.process()
    one = await harness.worker("w1", program, instance="i1")
    other = await harness.worker("w1", program, instance="i2")
    await harness.save(one, "a")
    return one, other


async def test_another_instance_of_the_worker_is_fenced_until_it_claims(
    harness: CoreHarness, instances: tuple[FakeClient, FakeClient]
) -> None:
    one, other = instances
    assert (await harness.claim(one, "a", "w1"))["epoch"] == 0  # a repeat
    for method, params in SIGNS_OF_LIFE.values():
        if "session_ids" in params:
            assert (await harness.request(other, method, **params))["fenced"] == ["a"]
        else:
            assert (await harness.refused(other, method, **params))["kind"] == "fenced"
    # the first instance hangs and the other takes its call over; then the first continues
    assert (await harness.claim(other, "a", "w1"))["epoch"] == 1
    harness.check_replay()
    assert (await harness.refused(one, "session.add_turn", session_id="a", turn={}, epoch=0))["kind"] == "fenced"
    assert (await harness.refused(one, "session.heartbeat", session_id="a"))["kind"] == "fenced"
    assert (await harness.request(one, "session.heartbeat", session_ids=["a"]))["fenced"] == ["a"]
    await harness.add_turn(other, "a", epoch=1)
    assert (await harness.claim(other, "a", "w1"))["epoch"] == 1


async def test_another_instance_gets_a_silent_session_in_a_new_epoch(
    harness: CoreHarness, instances: tuple[FakeClient, FakeClient]
) -> None:
    _, other = instances
    await harness.advance(TIMEOUT_S)
    claimed = await harness.claim_next(other, "w1")
    assert (claimed["session"]["id"], claimed["epoch"]) == ("a", 1)
    assert harness.new_events("claimed") == [event("claimed", "a", owner="w1", reason="heartbeat_timeout", epoch=1)]


async def test_an_instance_without_a_connection_fences_no_other(
    harness: CoreHarness, instances: tuple[FakeClient, FakeClient]
) -> None:
    one, other = instances
    await harness.disconnect(one)
    await harness.add_turn(other, "a")
    await harness.heartbeat(other, "a")
    assert (await harness.claim(other, "a", "w1"))["epoch"] == 1


@pytest.mark.parametrize("instance", ["i1", "i2"])
async def test_the_daemon_knows_an_instance_again_after_a_restart(harness: CoreHarness, instance: str) -> None:
    program = harness.process()
    await harness.save(await harness.worker("w1", program, instance="i1"), "a")
    await harness.restart()
    again = await harness.worker("w1", program, instance=instance)
    assert (await harness.claim(again, "a", "w1"))["epoch"] == (0 if instance == "i1" else 1)
