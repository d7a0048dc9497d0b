"""`session.claim`: who may take which session, and what the claimer gets."""

from __future__ import annotations

import pytest

from callstate_client.engine.phases import Phase
from support.core import TIME, FakeClient
from support.core_harness import FULL, RETENTION_S, TIMEOUT_S, CoreHarness
from support.verbs import event, make_claimable, unjournaled

CLAIMABLE = ["released", "disconnected", "heartbeat_timeout", "worker_exited", "reaped", "unowned", "stolen"]


@pytest.mark.parametrize("how", CLAIMABLE)
async def test_a_claim_reports_why_the_session_was_claimable(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient, how: str
) -> None:
    await make_claimable(harness, w1, how)
    version = harness.core.session("a").version
    await harness.advance(1.0)
    claimed = await harness.claim(w2, "a", "w2", steal=how == "stolen")
    assert (claimed["owner"], claimed["epoch"]) == ("w2", 1)
    assert claimed["version"] > version
    assert claimed["session"]["status"] == "active"
    assert "ended_reason" not in claimed
    assert harness.ownership("a") == ("w2", 1, "")
    assert harness.new_events() == [event("claimed", "a", owner="w2", epoch=1, reason=how, labels={"app": "x"})]
    assert "a" in harness.core.table.dirty.marks, "it will be flushed"
    await harness.advance(TIMEOUT_S - 0.001)
    assert harness.phase("a") is Phase.LIVE, "a full timeout"
    await harness.advance(0.001)
    assert harness.phase("a") is Phase.SUSPECT


@pytest.mark.parametrize("how", CLAIMABLE)
async def test_a_claim_that_is_not_journaled_changes_nothing(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient, how: str
) -> None:
    """A suspect is a suspect again: its process is as dead as before."""
    await make_claimable(harness, w1, how)
    phase, suspected = harness.phase("a"), harness.core.session("a").suspected
    await unjournaled(harness, w2, "session.claim", session_id="a", worker_id="w2", steal=True)
    assert (harness.phase("a"), harness.core.session("a").suspected) == (phase, suspected)
    assert harness.new_events() == [{"type": "journal.full"}]
    harness.check_consistency()
    assert (await harness.claim(w2, "a", "w2", steal=True))["epoch"] == 1
    assert [e["type"] for e in harness.new_events()] == ["claimed", "journal.ok"]


async def test_a_live_session_is_claimed_only_with_steal(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.save(w1, "a")
    data = await harness.refused(w2, "session.claim", session_id="a", worker_id="w2")
    assert (data["kind"], data["owner"]) == ("conflict", "w1")
    await harness.claim(w2, "a", "w2", steal=True)
    data = await harness.refused(w1, "session.add_turn", session_id="a", turn={})
    assert (data["kind"], data["epoch"], data["owner"]) == ("fenced", 1, "w2")


async def test_a_repeated_claim_keeps_the_epoch_and_is_a_sign_of_life(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.save(harness.operator, "a")
    first = await harness.claim(w1, "a", "w1")
    await harness.advance(TIMEOUT_S - 1)
    harness.new_events()
    again = await harness.claim(w1, "a", "w1")
    assert (again["epoch"], again["version"]) == (first["epoch"], first["version"]) == (1, first["version"])
    assert harness.new_events() == []
    await harness.advance(TIMEOUT_S - 1)
    assert harness.phase("a") is Phase.LIVE


async def test_a_call_ended_by_its_worker_can_not_be_claimed(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.save(w1, "a")
    await harness.end(w1, "a", reason="hangup")
    for steal in (False, True):
        data = await harness.refused(w2, "session.claim", session_id="a", worker_id="w2", steal=steal)
        assert (data["kind"], data["reason"], data["ended_at"]) == ("session_ended", "hangup", TIME)
    assert (await harness.refused(w1, "session.claim", session_id="a", worker_id="w1"))["kind"] == "session_ended"


async def test_a_reaped_session_is_claimable_only_within_the_retention(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await make_claimable(harness, w1, "reaped")
    await harness.core.writer.write_round()
    await harness.advance(RETENTION_S)
    assert not harness.core.table.sessions
    data = await harness.refused(w2, "session.claim", session_id="a", worker_id="w2")
    assert (data["kind"], data["reason"]) == ("session_ended", "heartbeat_timeout")


@pytest.mark.parametrize("status", ["pending", "on_hold"])
async def test_a_claimed_reaped_session_has_its_status_from_before(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient, status: str
) -> None:
    await harness.save(w1, "a", status)
    await harness.reap_silent()
    claimed = await harness.claim(w2, "a", "w2")
    assert claimed["session"]["status"] == status
    facts = harness.core.session("a").facts
    assert (facts.reaped, facts.ended_reason, facts.ended_us, facts.status_before) == (False, "", 0, "")


async def test_a_worker_claims_for_itself_and_an_operator_for_anybody(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.save(harness.operator, "a")
    for method, more in (("session.claim", {"session_id": "a"}), ("session.claim_next", {})):
        assert (await harness.refused(w1, method, worker_id="w2", **more))["kind"] == "forbidden"
    assert (await harness.claim(harness.operator, "a", "script"))["owner"] == "script"
    await harness.advance(TIMEOUT_S)
    await harness.heartbeat(harness.operator, "a")
    assert harness.phase("a") is Phase.LIVE, "heartbeats are all that a worker without a connection has"


@pytest.mark.parametrize("bad", ["", "x" * 65, "a b", "é", "a\n", "\x7f", "\t"])
async def test_an_invalid_worker_id_is_refused(harness: CoreHarness, bad: str) -> None:
    await harness.save(harness.operator, "a")
    for method, more in (
        ("session.claim", {"session_id": "a"}),
        ("session.claim_next", {}),
        ("worker.register", {}),
    ):
        data = await harness.refused(harness.operator, method, worker_id=bad, **more)
        assert (data["kind"], data["path"]) == ("invalid_params", "$.params.worker_id")


async def test_the_longest_worker_id(harness: CoreHarness) -> None:
    await harness.save(harness.operator, "a")
    assert (await harness.claim(harness.operator, "a", "~" * 64))["owner"] == "~" * 64


async def test_a_claim_of_an_unknown_session(harness: CoreHarness, w1: FakeClient) -> None:
    assert (await harness.refused(w1, "session.claim", session_id="no", worker_id="w1"))["kind"] == "not_found"


async def test_a_claim_with_an_invalid_history_takes_nothing(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await make_claimable(harness, w1, "released")
    for method, more in (("session.claim", {"session_id": "a"}), ("session.claim_next", {})):
        data = await harness.refused(w2, method, worker_id="w2", history="some", **more)
        assert (data["kind"], data["path"]) == ("invalid_params", "$.params.history")


async def test_of_two_claims_at_once_the_second_is_a_conflict(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    w3 = await harness.worker("w3")
    await make_claimable(harness, w1, "released")
    claims = ((w2, "w2"), (w3, "w3"))
    asked = [(w, w.send(("session.claim", {"session_id": "a", "worker_id": i}))) for w, i in claims]
    await harness.settle()
    first, second = (w.replies[ids[0]] for w, ids in asked)
    assert first["result"]["epoch"] == 1
    assert second["error"]["data"] | {"kind": "conflict", "owner": "w2"} == second["error"]["data"]


async def test_an_undone_claim_leaves_a_restored_session_restored(harness: CoreHarness, w1: FakeClient) -> None:
    """Its last sign of life is still that of its owner, from before the restart."""
    await harness.save(w1, "a")
    await harness.restart()
    peer = await harness.worker("w3")
    session = harness.core.session("a")
    before = session.beat_us
    await harness.advance(1.0)
    harness.disk.error = FULL
    await harness.refused(peer, "session.claim", session_id="a", worker_id="w3", steal=True)
    assert (session.restored, session.beat_us) == (True, before)
    await harness.refused(harness.operator, "session.release", session_id="a", epoch=0)
    assert (session.restored, session.beat_us) == (True, before)
    harness.disk.error = None
    harness.check_consistency()
    await harness.claim(peer, "a", "w3", steal=True)
    assert not session.restored
