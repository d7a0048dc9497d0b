"""Who owns a session, whose requests it takes, and whose count as signs of life."""

from __future__ import annotations

from typing import Any

import pytest

from callstate_client.engine.phases import Phase
from support.core import FakeClient
from support.core_harness import TIMEOUT_S, CoreHarness
from support.verbs import CHANGES, LAST_REQUESTS, SIGNS_OF_LIFE, event, unjournaled

ANY_REQUEST = SIGNS_OF_LIFE | LAST_REQUESTS


async def test_a_worker_owns_what_it_creates(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.save(w1, "a", labels={"app": "x"})
    assert harness.ownership("a") == ("w1", 0, "")
    assert harness.new_events() == [event("created", "a", owner="w1", labels={"app": "x"})]
    loaded = await harness.load("a")
    assert (loaded["owner"], loaded["epoch"]) == ("w1", 0)


async def test_sessions_of_an_unregistered_connection_have_no_owner(harness: CoreHarness) -> None:
    await harness.save(harness.operator, "a")
    assert harness.ownership("a") == ("", 0, "")
    assert "owner" not in await harness.load("a")


async def test_a_creation_that_is_not_journaled_leaves_no_owner(harness: CoreHarness, w1: FakeClient) -> None:
    await unjournaled(harness, w1, "session.save", session={"id": "a", "status": "active"})
    assert not harness.core.table.index.owned
    assert harness.new_events() == [{"type": "journal.full"}]
    assert await harness.claim_next(w1, "w1") is None
    await harness.save(w1, "a")
    assert harness.ownership("a") == ("w1", 0, "")


@pytest.mark.parametrize(("method", "params"), ANY_REQUEST.values(), ids=ANY_REQUEST)
async def test_requests_for_another_workers_session_are_fenced(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient, method: str, params: dict[str, Any]
) -> None:
    await harness.save(w1, "a")
    await harness.add_turn(w1, "a")
    harness.new_events()
    if "session_ids" in params:
        assert await harness.request(w2, method, **params) == {"missing": [], "ended": [], "fenced": ["a"]}
    else:
        data = await harness.refused(w2, method, **params)
        assert (data["kind"], data["epoch"], data["owner"]) == ("fenced", 0, "w1")
    assert harness.new_events() == [event("fenced", "a", owner="w1", worker_id="w2")]


async def test_a_fenced_worker_is_reported_once_per_epoch(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.save(w1, "a")
    for _ in range(3):
        await harness.refused(w2, "session.heartbeat", session_id="a")
    await harness.refused(w1, "session.record_interruption", session_id="a", epoch=7)
    await harness.claim(w2, "a", "w2", steal=True)
    for _ in range(3):
        await harness.refused(w1, "session.heartbeat", session_id="a")
    assert [(e["epoch"], e["worker_id"]) for e in harness.new_events("fenced")] == [(0, "w2"), (1, "w1")]


@pytest.mark.parametrize(("method", "params"), SIGNS_OF_LIFE.values(), ids=SIGNS_OF_LIFE)
async def test_any_request_of_the_owner_revives_a_suspect(
    harness: CoreHarness, w1: FakeClient, method: str, params: dict[str, Any]
) -> None:
    await harness.save(w1, "a")
    await harness.add_turn(w1, "a")
    await harness.advance(TIMEOUT_S)
    assert harness.phase("a") is Phase.SUSPECT
    harness.new_events()
    await harness.request(w1, method, **params)
    assert harness.phase("a") is Phase.LIVE
    assert harness.new_events() == [event("recovered", "a", owner="w1")]
    await harness.advance(TIMEOUT_S - 0.001)
    assert harness.phase("a") is Phase.LIVE


@pytest.mark.parametrize(("method", "params"), SIGNS_OF_LIFE.values(), ids=SIGNS_OF_LIFE)
async def test_anybody_keeps_a_session_without_an_owner_alive(
    harness: CoreHarness, w1: FakeClient, method: str, params: dict[str, Any]
) -> None:
    await harness.save(harness.operator, "a")
    await harness.add_turn(harness.operator, "a")
    for peer in (w1, harness.operator):
        await harness.advance(TIMEOUT_S)
        assert harness.phase("a") is Phase.SUSPECT
        await harness.request(peer, method, **params)
        assert harness.phase("a") is Phase.LIVE
    assert harness.ownership("a") == ("", 0, ""), "which does not make them its owner"


@pytest.mark.parametrize(("method", "params"), CHANGES.values(), ids=CHANGES)
async def test_an_operators_change_is_a_sign_of_life_only_with_the_epoch(
    harness: CoreHarness, w1: FakeClient, method: str, params: dict[str, Any]
) -> None:
    await harness.save(w1, "a")
    await harness.add_turn(w1, "a")
    await harness.advance(TIMEOUT_S)
    version = harness.core.session("a").version
    await harness.request(harness.operator, method, **params)
    assert harness.core.session("a").version > version
    assert harness.phase("a") is Phase.SUSPECT
    data = await harness.refused(harness.operator, method, **params, epoch=1)
    assert (data["kind"], data["epoch"]) == ("fenced", 0)
    await harness.request(harness.operator, method, **params, epoch=0)
    assert harness.phase("a") is Phase.LIVE
    assert harness.ownership("a") == ("w1", 0, "")


@pytest.mark.parametrize("name", ["heartbeat", "heartbeats"])
async def test_an_operators_heartbeat_is_a_sign_of_life_only_while_the_owner_is_disconnected(
    harness: CoreHarness, w1: FakeClient, name: str
) -> None:
    await harness.save(w1, "a")
    await harness.advance(TIMEOUT_S)
    method, params = SIGNS_OF_LIFE[name]
    none_wrong = {} if name == "heartbeat" else {"missing": [], "ended": [], "fenced": []}
    assert await harness.request(harness.operator, method, **params) == none_wrong
    assert harness.phase("a") is Phase.SUSPECT
    harness.drop_connection(w1)
    assert await harness.request(harness.operator, method, **params) == none_wrong
    assert harness.phase("a") is Phase.LIVE


async def test_an_ended_session_takes_late_changes_from_its_owner_and_operators(
    harness: CoreHarness, w1: FakeClient, w2: FakeClient
) -> None:
    await harness.save(w1, "a")
    await harness.end(w1, "a", reason="hangup")
    await harness.add_turn(w1, "a")
    await harness.add_turn(harness.operator, "a")
    await harness.request(w1, "session.update", session_id="a", set={"to": "+1"})
    assert (await harness.refused(w2, "session.add_turn", session_id="a", turn={}))["kind"] == "fenced"
    assert (await harness.refused(w1, "session.heartbeat", session_id="a"))["kind"] == "session_ended"
    await harness.save(w1, "a")
    assert harness.ownership("a") == ("w1", 0, ""), "revived, with the same owner"
    assert [e["type"] for e in harness.new_events()] == ["created", "ended", "fenced", "recovered"]
