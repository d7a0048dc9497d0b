"""`session.claim_next`: which session a worker gets, in which order."""

from __future__ import annotations

from callstate_client.engine.phases import Phase
from support.core import FakeClient
from support.core_harness import GRACE_S, TIMEOUT_S, CoreHarness
from support.verbs import make_claimable, unjournaled


async def test_orphans_come_before_suspects_and_the_oldest_first(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    w3 = await harness.worker("w3")
    for name in "abcd":
        await harness.save(w1, name)
    await harness.save(harness.operator, "unowned")
    await harness.save(w3, "lost", heartbeat_timeout_s=100.0)
    await harness.release(w1, "c")
    await harness.release(w1, "a")
    await harness.advance(TIMEOUT_S - 1)
    await harness.heartbeat(w2, "c")
    await harness.heartbeat(w2, "a")
    await harness.advance(1.0)
    assert {*harness.core.liveness.suspects} == {"b", "d", "unowned"}
    await harness.kill(w3)
    taken = [await harness.claim_next(w2, "w2", history="none") for _ in range(6)]
    assert [each and each["session"]["id"] for each in taken] == ["c", "a", "b", "d", "unowned", "lost"]
    assert await harness.claim_next(w2, "w2", history="none") is None
    assert [(e["session_id"], e["reason"]) for e in harness.new_events("claimed")] == [
        ("c", "released"), ("a", "released"), ("b", "heartbeat_timeout"), ("d", "heartbeat_timeout"),
        ("unowned", "heartbeat_timeout"), ("lost", "worker_exited"),
    ]  # fmt: skip


async def test_a_suspected_orphan_is_still_an_orphan(harness: CoreHarness, w1: FakeClient, w2: FakeClient) -> None:
    await make_claimable(harness, w1, "released")
    await harness.advance(TIMEOUT_S)
    assert harness.phase("a") is Phase.SUSPECT
    assert (await harness.claim_next(w2, "w2"))["session"]["id"] == "a"
    assert harness.new_events("claimed")[0]["reason"] == "heartbeat_timeout"


async def next_with(harness: CoreHarness, w2: FakeClient, labels: dict[str, str]) -> str | None:
    """The session that w2 gets with these labels."""
    claimed = await harness.claim_next(w2, "w2", labels=labels)
    return claimed and claimed["session"]["id"]  # type: ignore[no-any-return]


async def test_labels_choose_among_orphans(harness: CoreHarness, w1: FakeClient, w2: FakeClient) -> None:
    for number, labels in enumerate([{"app": "x"}, {"app": "y", "lang": "de"}, {"app": "y"}]):
        await harness.save(w1, f"s{number}", labels=labels)
        await harness.release(w1, f"s{number}")

    assert await next_with(harness, w2, {"app": "z"}) is None
    assert await next_with(harness, w2, {"app": "y", "lang": "en"}) is None
    assert await next_with(harness, w2, {"app": "y"}) == "s1"
    assert await next_with(harness, w2, {"app": "y"}) == "s2"
    assert await next_with(harness, w2, {}) == "s0"


async def test_current_labels_choose_among_suspects(harness: CoreHarness, w1: FakeClient, w2: FakeClient) -> None:
    for number, labels in enumerate([{"app": "x"}, {"app": "y", "lang": "de"}, {"app": "y"}, {}]):
        await harness.save(w1, f"s{number}", labels=labels)
    await harness.save(harness.operator, "unowned", labels={"app": "x"})
    await harness.advance(TIMEOUT_S)
    await harness.save(harness.operator, "s3", labels={"app": "z"})
    harness.check_consistency()

    assert await next_with(harness, w2, {"app": "y", "lang": "en"}) is None
    assert await next_with(harness, w2, {"app": "y"}) == "s1"
    assert await next_with(harness, w2, {"app": "z"}) == "s3"
    assert [await next_with(harness, w2, {"app": "x"}) for _ in range(3)] == ["s0", "unowned", None]
    assert await next_with(harness, w2, {}) == "s2"
    harness.check_consistency()


async def test_live_ended_and_reaped_sessions_are_not_given_out(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.save(w1, "live")
    await harness.save(harness.operator, "never-owned")
    await harness.save(w1, "over")
    await harness.end(w1, "over")
    await harness.save(w1, "reaped", heartbeat_timeout_s=1.0)
    await harness.advance(1.0)
    await harness.advance(GRACE_S - 2)
    await harness.heartbeat(w1, "live")
    await harness.heartbeat(w1, "never-owned")
    await harness.advance(2.0)
    assert harness.core.session("reaped").facts.reaped
    assert harness.phase("never-owned") is Phase.LIVE
    assert await harness.claim_next(w2, "w2") is None


async def test_a_worker_gets_its_own_silent_session_in_the_same_epoch(harness: CoreHarness, w1: FakeClient) -> None:
    """A worker that asks for a session it owns has lost the reply to its claim. Nobody else may get it instead."""
    await make_claimable(harness, w1, "heartbeat_timeout")
    claimed = await harness.claim_next(w1, "w1")
    assert (claimed["session"]["id"], claimed["epoch"]) == ("a", 0)
    assert [e["type"] for e in harness.new_events()] == ["recovered"]
    assert await harness.claim_next(w1, "w1") is None


async def test_concurrent_requests_get_one_session_each(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    w3 = await harness.worker("w3")
    for number in range(40):
        await harness.save(w1, f"s{number}")
    await harness.kill(w1)
    harness.new_events()
    asked = [
        (w, w.send(*[("session.claim_next", {"worker_id": i, "history": "none"})] * 25))
        for w, i in ((w2, "w2"), (w3, "w3"))
    ]
    while not all(w.answered(ids) for w, ids in asked):
        await harness.settle()
    results = [w.replies[one]["result"] for w, ids in asked for one in ids]
    names = [each["session"]["id"] for each in results if each is not None]
    assert sorted(names) == sorted(f"s{number}" for number in range(40))
    assert len(harness.new_events("claimed")) == 40


async def test_a_claim_next_that_is_not_journaled_changes_nothing(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await make_claimable(harness, w1, "released")
    await unjournaled(harness, w2, "session.claim_next", worker_id="w2")
    assert harness.ownership("a") == ("", 0, "released")
    assert (await harness.claim_next(w2, "w2"))["epoch"] == 1
