from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from callstate_client import (
    Clock,
    ConflictError,
    DocumentError,
    InvalidParamsError,
    SessionMetrics,
    SessionState,
    Turn,
    protocol,
)
from callstate_client.model.merge import merge_patch
from callstate_client.requests.patches import patch_state, split_changes
from support.flaky import FlakyStore

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
async def store() -> AsyncIterator[FlakyStore]:
    async with FlakyStore(Clock(START), worker_id="w1") as store:
        await store.save(
            SessionState("c1", history=[Turn("user", "x")], recovery_data={"old": 1}), labels={"a": "1"}
        )
        yield store


class Inner(msgspec.Struct, omit_defaults=True):
    at: int = 0


class Recovery(msgspec.Struct, omit_defaults=True):
    node: str = "menu"
    old: int | None = None
    inner: Inner = msgspec.field(default_factory=Inner)


def test_an_update_separates_the_document_from_the_facts() -> None:
    changes = {
        "status": "on_hold", "from_": "+1", "created_at": START, "metrics": SessionMetrics(interruption_count=3),
        "call_id": None, "labels": {"app": "x"}, "heartbeat_timeout_s": 5.0, "extra": {"campaign": 7},
    }  # fmt: skip
    patch, beside = split_changes(changes)
    assert patch.pop("metrics")["interruption_count"] == 3
    assert patch == {
        "status": "on_hold", "from": "+1", "created_at": "2026-01-02T03:04:05Z", "call_id": None, "campaign": 7,
    }  # fmt: skip
    assert beside == {"labels": {"app": "x"}, "heartbeat_timeout_s": 5.0}


@pytest.mark.parametrize("name", ["statsu", "if_version", "from", "campaign", "owner"])
def test_a_keyword_that_names_no_member_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"no member `{name}`"):
        split_changes({name: "x"})
    with pytest.raises(InvalidParamsError, match="extra="):
        split_changes({name: "x"})


def test_an_unknown_member_is_answered_with_a_suggestion() -> None:
    with pytest.raises(TypeError, match="did you mean `status`"):
        split_changes({"statsu": "x"})


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "c2"}, {"history": []}, {"updated_at": START}, {"labels": None}, {"max_duration_s": None},
        {"extra": {"status": "x"}}, {"extra": {"from": "x"}}, {"extra": {"id": "x"}}, {"extra": {"history": []}},
    ],
)  # fmt: skip
def test_protected_members_can_not_be_changed(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidParamsError):
        split_changes(changes)


def test_an_unstorable_value_is_named_by_its_path() -> None:
    with pytest.raises(DocumentError, match=r"recovery_data\.when is of type datetime"):
        split_changes({"recovery_data": {"when": START}})


async def test_a_struct_takes_the_place_of_what_was_there(store: FlakyStore) -> None:
    await store.update("c1", recovery_data=Recovery("order", 7, Inner(3)))
    assert (await store.load("c1")).recovery_data == {"node": "order", "old": 7, "inner": {"at": 3}}
    await store.update("c1", recovery_data=Recovery())
    kept = (await store.load("c1")).recovery_data
    assert kept == {"node": "menu", "inner": {"at": 0}}
    assert msgspec.convert(kept, Recovery) == Recovery()


async def test_labels_and_timeouts_really_change(store: FlakyStore) -> None:
    version = await store.update(
        "c1", labels={"b": "2"}, heartbeat_timeout_s=7, max_duration_s=600, status="on_hold", extra={"campaign": 7}
    )
    record = await store.claim("c1")
    assert record.version == version
    assert (record.labels, record.heartbeat_timeout_s, record.max_duration_s) == ({"b": "2"}, 7, 600)
    assert (record.state.status, record.state.extra, record.turn_count) == ("on_hold", {"campaign": 7}, 1)


class RacedStore(FlakyStore):
    """Where somebody else changes the session between a read and the write."""

    races = 1

    async def request(self, method: str, params: Any = None, **options: Any) -> bytes:
        if method == "session.save" and params.__class__.__name__ == "SaveParams" and self.races:
            self.races -= 1
            await super().request("session.add_turn", _turn())
        return await super().request(method, params, **options)


def _turn() -> Any:
    return protocol.AddTurnParams(session_id="c1", turn=msgspec.Raw(b'{"role":"user","content":"meanwhile"}'))


async def test_labels_change_whatever_happens_meanwhile() -> None:
    async with RacedStore(Clock(START)) as store:
        await store.save(SessionState("c1"))
        await store.update("c1", labels={"b": "2"})
        record = await store.get("c1")
        assert (record.labels, record.turn_count) == ({"b": "2"}, 1)
        store.races = 100
        with pytest.raises(ConflictError):
            await store.update("c1", labels={"b": "3"})
        with pytest.raises(ConflictError):
            await store.update("c1", if_version=1, labels={"b": "3"})


async def test_a_held_calls_labels_and_timeouts_really_change(store: FlakyStore) -> None:
    async with store.hold("c1") as call:
        call.add_turn("agent", "before")
        version = await call.update(labels={"b": "2"}, heartbeat_timeout_s=7, status="on_hold")
        call.add_turn("agent", "after")
        assert call.version == version
        assert call.state.status == "on_hold"
        record = await store.claim("c1")
        assert (record.labels, record.heartbeat_timeout_s, record.epoch) == ({"b": "2"}, 7, call.epoch)
        assert record.state.status == "on_hold"
    assert (await store.get("c1")).turn_count == 3


async def test_heartbeats_of_a_held_call_follow_its_new_timeout(store: FlakyStore) -> None:
    async with store.hold("c1", heartbeat_timeout_s=3600) as call:
        await call.update(heartbeat_timeout_s=0.03)
        async with asyncio.timeout(10):
            await store.when_asked("session.heartbeat", 2)


async def test_a_change_beside_that_is_refused_is_taken_back(store: FlakyStore) -> None:
    async with store.hold("c1") as call:
        store.fail("session.save", InvalidParamsError("no such label"), times=1)
        with pytest.raises(InvalidParamsError):
            await call.update(labels={"b": "2"}, status="on_hold")
        assert call.state.status == (await store.load("c1")).status != "on_hold"


@pytest.mark.parametrize(
    "before", [None, {}, {"a": {"b": 1, "c": (1, 2)}, "d": 1.5}, msgspec.json.decode(b'{"a":{"b":null}}')]
)
@pytest.mark.parametrize(
    "patch",
    [
        {"status": "active"},
        {"from": "+1", "to": "+2", "provider": "p", "direction": "inbound", "call_id": "CA1"},
        {"provider": None, "call_id": None},
        {"recovery_data": {"a": {"b": None, "e": [1, {"x": None}]}, "d": {"y": (1, 2)}}},
        {"recovery_data": {"a": {"b": None}}, "status": "active"},
        {"recovery_data": {"a": None, "d": None}},
        {"recovery_data": None},
        {"recovery_data": {}},
        {"metrics": {"interruption_count": 3}, "status": "active"},
        {"further": {"z": 1}, "created_at": "2026-01-02T03:04:05Z"},
    ],
)
def test_a_patched_state_is_the_one_that_is_read_again(before: Any, patch: dict[str, Any]) -> None:
    state = SessionState("c1", status="pending", call_id="CA0", recovery_data=before, extra={"more": [1]})
    written = msgspec.json.encode(merge_patch(state.to_members(with_history=False), patch))
    history = state.history
    patch_state(state, patch)
    read = SessionState.from_json(written)
    assert state.to_json() == read.to_json()
    assert state == read or "recovery_data" not in patch, "tuples are lists once they are read"
    assert state.history is history
    assert state.status_given


def test_a_patch_leaves_what_it_is_applied_to() -> None:
    before = {"a": {"b": 1}}
    state = SessionState("c1", recovery_data=before)
    patch_state(state, {"recovery_data": {"a": {"b": 2}}})
    assert (before, state.recovery_data) == ({"a": {"b": 1}}, {"a": {"b": 2}})


@pytest.mark.parametrize("change", [
    {"status": None}, {"created_at": None}, {"status": None, "created_at": None, "to": "+2"}, {"provider": None},
    {"call_id": None, "from_": None}, {"metrics": None}, {"metrics": {"turn_count": None}}, {"recovery_data": None},
    {"status": None, "labels": {"b": "2"}},
])  # fmt: skip
async def test_what_is_removed_is_what_the_store_makes_of_it(store: FlakyStore, change: dict[str, Any]) -> None:
    began = SessionState(
        "c2", status="on_hold", provider="sip", call_id="CA1", from_="+1", recovery_data={"a": 1},
        created_at=datetime(2025, 1, 1, tzinfo=UTC), metrics=SessionMetrics(turn_count=3),
    )  # fmt: skip
    async with store.hold(began) as call:
        await call.update(**change)
        kept = await store.load("c2")
        kept.updated_at = call.state.updated_at
        assert call.state == kept


async def test_a_time_that_is_left_is_the_one_that_was_queued_before(store: FlakyStore) -> None:
    async with store.hold("c1") as call:
        call.add_turn("user", "y")  # under way, so that the next two may be joined
        call.update(created_at=START, extra={"a": 1})
        await call.update(created_at=None, extra={"b": 2})
        assert call.state.created_at == (await store.load("c1")).created_at == START


@pytest.mark.parametrize("value", ["", "yesterday", "2026-01-01 00:00:00Z"])
def test_a_time_that_is_none_is_refused_at_the_call(value: str) -> None:
    with pytest.raises(InvalidParamsError, match="RFC 3339") as caught:
        split_changes({"created_at": value})
    assert caught.value.path == "$.params.set.created_at"
