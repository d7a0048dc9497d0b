"""How sessions end: by `session.end`, by a save or an update, by deletion, or by the daemon."""

from __future__ import annotations

from typing import Any

import pytest

from callstate_client.engine.phases import Phase
from callstate_client.errors import FencedError, InvalidParamsError, SessionEndedError
from support.core import Core, FakeClient
from support.core_harness import ENDS, FULL, GRACE_S, TIMEOUT_S, CoreHarness
from support.verbs import SIGNS_OF_LIFE, event, refused, unjournaled


async def test_a_repeated_end_gets_the_first_result(core: Core) -> None:
    await core.save("a")
    core.clock.advance(5.0)
    ended = await core.call("session.end", session_id="a", reason="hangup", detail={"cause": 16})
    core.clock.advance(5.0)
    assert await core.call("session.end", session_id="a", reason="other", epoch=0) == ended
    await refused(FencedError, core, "session.end", session_id="a", reason="other", epoch=99)
    loaded = await core.call("session.load", session_id="a")
    assert (loaded["ended_reason"], loaded["ended_detail"]) == ("hangup", {"cause": 16})
    assert loaded["session"]["updated_at"] == "2026-01-01T00:00:05Z"
    assert (await core.call("session.list_active"))["session_ids"] == []
    error = await refused(SessionEndedError, core, "session.heartbeat", session_id="a")
    assert error.data["ended_at"] == "2026-01-01T00:00:05Z"
    assert error.data["reason"] == "hangup"


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"reason": ""}, "$.params.reason"),
        ({"reason": "x" * 65}, "$.params.reason"),
        ({"detail": "x" * 1100}, "$.params.detail"),
        ({"detail": {"n": 2**64}}, "$.params.detail.n"),
    ],
)
async def test_invalid_params_of_an_end_are_named(core: Core, params: dict[str, Any], path: str) -> None:
    await core.save("a")
    error = await refused(InvalidParamsError, core, "session.end", session_id="a", **params)
    assert error.data["path"] == path


async def test_an_ended_session_takes_late_turns_but_no_heartbeat(core: Core) -> None:
    await core.save("a")
    await core.call("session.end", session_id="a")
    assert (await core.turn("a"))["turn_count"] == 1
    await core.call("session.update", session_id="a", set={"summary": "x"})
    await core.call("session.amend_turn", session_id="a", set={"content": "y"})
    await core.call("session.record_interruption", session_id="a")
    loaded = await core.call("session.load", session_id="a")
    assert loaded["ended_reason"] == "completed"
    assert core.phase("a") is Phase.ENDED
    beats = await core.call("session.heartbeat", session_ids=["a"])
    assert beats == {"missing": [], "ended": ["a"], "fenced": []}


async def test_a_save_with_another_status_revives_an_ended_session(core: Core) -> None:
    await core.save("a", heartbeat_timeout_s=2.0)
    await core.call("session.end", session_id="a", reason="hangup", detail={"x": 1})
    await core.save("a")
    loaded = await core.call("session.load", session_id="a")
    assert "ended_reason" not in loaded
    assert core.phase("a") is Phase.LIVE
    core.advance(2.0)
    assert core.phase("a") is Phase.SUSPECT, "with the timeout it had"


async def test_a_save_with_status_ended_ends_the_session(core: Core) -> None:
    await core.save("a")
    await core.save("a", session={"status": "ended"})
    assert core.phase("a") is Phase.ENDED
    assert core.session("a").facts.ended_reason == "completed"
    await core.save("b", session={"status": "ended"})
    assert core.phase("b") is Phase.ENDED


# -- reaped sessions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("owned", [True, False])
async def test_a_reaped_session_refuses_changes_and_heartbeats(
    harness: CoreHarness, w1: FakeClient, owned: bool
) -> None:
    peer = w1 if owned else harness.operator
    await harness.save(peer, "a")
    await harness.add_turn(peer, "a")
    await harness.reap_silent()
    for method, params in SIGNS_OF_LIFE.values():
        if "session_ids" in params:
            assert (await harness.request(peer, method, **params))["ended"] == ["a"]
        else:
            data = await harness.refused(peer, method, **params)
            assert (data["kind"], data["reason"]) == ("session_ended", "heartbeat_timeout")


async def test_a_reaped_session_can_be_ended_again_and_deleted(core: Core) -> None:
    await core.save("a")
    core.clock.advance(3.0)
    await core.call("session.heartbeat", session_id="a")
    for span_s in (TIMEOUT_S, GRACE_S):
        core.advance(span_s)
    loaded = await core.call("session.load", session_id="a")
    assert loaded["ended_reason"] == "heartbeat_timeout"
    assert loaded["session"]["updated_at"] == "2026-01-01T00:00:03Z", "its last sign of life"
    assert await core.call("session.end", session_id="a") == {"version": loaded["version"]}
    await core.call("session.delete", session_id="a")


# -- events -------------------------------------------------------------------------------------------------------


async def test_a_suspicion_is_reported_with_its_evidence_and_deadline(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.save(w1, "silent")
    await harness.advance(TIMEOUT_S - 1)
    await harness.save(w2, "dead")
    harness.new_events()
    await harness.advance(1.0)
    await harness.kill(w2)
    deadline = "2026-01-01T00:01:00Z"
    assert harness.new_events() == [
        event(
            "suspect", "silent", owner="w1", reason="heartbeat_timeout", evidence="silence", deadline=deadline
        ),
        {"type": "worker.left", "worker_id": "w2", "reason": "exited"},
        event(
            "suspect", "dead", owner="w2", reason="worker_exited", evidence="process_exited", deadline=deadline
        ),
    ]  # fmt: skip
    await harness.advance(GRACE_S - 0.001)
    assert harness.new_events() == []
    await harness.advance(0.001)
    assert harness.new_events() == [
        event("expired", "silent", owner="w1", reason="heartbeat_timeout"),
        event("expired", "dead", owner="w2", reason="worker_exited"),
    ]
    for name, reason in (("silent", "heartbeat_timeout"), ("dead", "worker_exited")):
        loaded = await harness.load(name)
        assert (loaded["session"]["status"], loaded["ended_reason"]) == ("ended", reason)


REQUESTED = {
    "end": ("session.end", {"reason": "hangup"}, "ended", "hangup"),
    "end without reason": ("session.end", {}, "ended", "completed"),
    "save": ("session.save", {"session": {"id": "a", "status": "ended"}}, "ended", "completed"),
    "update": ("session.update", {"set": {"status": "ended"}}, "ended", "completed"),
    "delete": ("session.delete", {"op": "deletion"}, "deleted", "deleted"),
}


async def one_end(harness: CoreHarness, type_: str, reason: str) -> None:
    """Let much time pass, and assert that session `a` ended once, for this reason."""
    for _ in range(5):
        await harness.advance(TIMEOUT_S)
    assert harness.new_events(*ENDS) == [event(type_, "a", owner="w1", reason=reason)]
    if type_ != "deleted":
        assert (await harness.load("a"))["ended_reason"] == reason


@pytest.mark.parametrize("was", [Phase.LIVE, Phase.SUSPECT])
@pytest.mark.parametrize(("method", "params", "type_", "reason"), REQUESTED.values(), ids=REQUESTED)
async def test_a_repeated_end_is_reported_once(
    harness: CoreHarness, w1: FakeClient, was: Phase, method: str, params: dict[str, Any], type_: str, reason: str
) -> None:
    await harness.save(w1, "a")
    if was is Phase.SUSPECT:
        await harness.advance(TIMEOUT_S)
    assert harness.phase("a") is was
    given = params if method == "session.save" else {"session_id": "a"} | params
    for _ in range(2):
        await harness.request(w1, method, **given)
    if type_ == "deleted":
        assert (await harness.refused(w1, method, session_id="a"))["kind"] == "not_found"
    await one_end(harness, type_, reason)


async def test_a_session_created_as_ended_is_reported_as_ended(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.save(w1, "a", "ended")
    await one_end(harness, "ended", "completed")


@pytest.mark.parametrize(
    ("why", "max_duration_s"),
    [("heartbeat_timeout", None), ("worker_exited", None), ("max_duration", 10.0), ("max_duration", 40.0)],
    ids=["silence", "exit", "maximal duration", "maximal duration of a suspect"],
)
async def test_an_end_by_the_daemon_is_reported_once(
    harness: CoreHarness, w1: FakeClient, why: str, max_duration_s: float | None
) -> None:
    await harness.save(w1, "a", **({} if max_duration_s is None else {"max_duration_s": max_duration_s}))
    if why == "worker_exited":
        await harness.kill(w1)
    await one_end(harness, "expired", why)


async def test_an_end_that_is_not_journaled_is_not_reported(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.save(w1, "a")
    await harness.save(w1, "b")
    await harness.advance(TIMEOUT_S)
    harness.new_events()
    harness.disk.error = FULL
    assert (await harness.refused(w1, "session.end", session_id="a"))["kind"] == "not_durable"
    await harness.advance(GRACE_S)
    harness.disk.error = None
    assert [e["type"] for e in harness.new_events()] == ["journal.full"]
    harness.check_consistency()
    await harness.advance(TIMEOUT_S + GRACE_S)
    await harness.advance(GRACE_S)
    ends = sorted((e["session_id"], e["type"]) for e in harness.new_events(*ENDS))
    assert ends == [("a", "expired"), ("b", "expired")]


async def test_a_revival_that_is_not_journaled_is_not_reported(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.save(w1, "a", "ended")
    harness.new_events()
    await unjournaled(harness, w1, "session.save", session={"id": "a", "status": "active"})
    assert harness.new_events() == [{"type": "journal.full"}]
