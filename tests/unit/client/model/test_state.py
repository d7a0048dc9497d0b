from __future__ import annotations

import copy
import json
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from callstate_client import Direction, DocumentError, MemoryStore, Role, SessionMetrics, SessionState, Status, Turn

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

GO_DOCUMENT = (
    b'{"id":"c1","created_at":"2026-01-02T03:04:05.123456789Z","updated_at":"2026-01-02T05:04:06+02:00",'
    b'"call_id":"CA1","provider":"twilio","direction":"inbound","from":"+1","to":"+2","status":"active",'
    b'"history":[{"role":"user","content":"h\\u00e9","timestamp":"2026-01-02T03:04:05.5Z","duration_ms":900}],'
    b'"metrics":{"turn_count":1,"interruption_count":2,"user_speech_duration_ms":900,'
    b'"agent_speech_duration_ms":0,"first_response_ms":310},"recovery_data":{"node":"menu"}}'
)


def test_a_new_session() -> None:
    before = datetime.now(UTC)
    state = SessionState("c1", provider="sip", direction=Direction.OUTBOUND, from_="a", to="b")
    assert (state.status, state.history, state.call_id, state.extra) == (Status.PENDING, [], "", {})
    assert before <= state.created_at == state.updated_at <= datetime.now(UTC)
    assert json.loads(state.to_json())["history"] == []
    assert state.is_active


def test_documents_by_go_round_trip_unchanged() -> None:
    state = SessionState.from_json(GO_DOCUMENT)
    assert state.from_ == "+1"
    assert state.history[0].content == "hé"
    assert state.metrics == SessionMetrics(
        turn_count=1, interruption_count=2, user_speech_duration_ms=900, first_response_ms=310
    )
    assert state.updated_at == datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC)
    assert SessionState.from_json(GO_DOCUMENT).to_json() == GO_DOCUMENT


def test_empty_members_are_left_out_where_go_leaves_them_out() -> None:
    members = json.loads(SessionState("c1").to_json())
    assert list(members) == [
        "id", "created_at", "updated_at", "provider", "direction", "from", "to", "status", "history", "metrics",
    ]  # fmt: skip
    assert list(members["metrics"]) == [
        "turn_count", "interruption_count", "user_speech_duration_ms", "agent_speech_duration_ms",
    ]  # fmt: skip


@pytest.mark.parametrize("empty", [None, "", {}, []])
def test_empty_recovery_data_is_left_out(empty: object) -> None:
    assert b"recovery_data" not in SessionState("c1", recovery_data=empty).to_json()


@pytest.mark.parametrize("some", [0, False, 1.5, "x", [1], {"a": None}])
def test_other_recovery_data_is_kept(some: object) -> None:
    state = SessionState("c1", recovery_data=some)
    assert SessionState.from_json(state.to_json()).recovery_data == some


@pytest.mark.parametrize("missing", [b"{}", b'{"history":null,"metrics":null,"recovery_data":null}'])
def test_missing_members_have_the_zero_values_of_go(missing: bytes) -> None:
    state = SessionState.from_json(missing)
    assert (state.id, state.status, state.history, state.metrics) == ("", "", [], SessionMetrics())
    assert state.created_at == datetime(1, 1, 1, tzinfo=UTC)


def test_members_we_do_not_know_survive_on_every_level() -> None:
    document = {
        "id": "c1",
        "campaign": {"deep": [1, None]},
        "history": [{"role": "tool", "content": "", "tool": {"name": "book"}}],
        "metrics": {"turn_count": 1, "tokens": 77},
    }
    state = SessionState.from_json(json.dumps(document))
    assert state.extra == {"campaign": {"deep": [1, None]}}
    assert state.metrics.extra == {"tokens": 77}
    assert state.history[0].extra == {"tool": {"name": "book"}}
    again = json.loads(state.to_json())
    assert again["campaign"] == document["campaign"]
    assert again["metrics"]["tokens"] == 77
    assert again["history"][0]["tool"] == {"name": "book"}


@pytest.mark.parametrize(
    "bad",
    [
        b"", b"[]", b"null", b'"x"', b"{", b'{"id":3}', b'{"history":{}}', b'{"history":[', b'{"metrics":[]}',
        b'{"metrics":{"turn_count":"1"}}', b'{"id":"\xff"}', b'{"status":null}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_an_invalid_session_is_a_document_error(bad: bytes) -> None:
    with pytest.raises(DocumentError):
        SessionState.from_json(bad)


@pytest.mark.parametrize("value", [object(), {1, object()}])
def test_values_outside_json_are_a_document_error(value: Any) -> None:
    with pytest.raises(DocumentError):
        SessionState("c1", recovery_data={"x": value}).to_json()


def test_turns_are_counted_and_speech_is_added_by_role() -> None:
    state = SessionState("c1")
    turn = state.add_turn(Role.USER, "hello", 900, at=AT, extra={"confidence": 0.9})
    state.add_turn(Role.AGENT, "hi", 500)
    state.add_turn("tool", "booked", 70)
    state.record_interruption()
    assert turn == Turn("user", "hello", timestamp=AT, duration_ms=900, extra={"confidence": 0.9})
    assert state.history[0] is turn
    assert state.metrics == SessionMetrics(
        turn_count=3, interruption_count=1, user_speech_duration_ms=900, agent_speech_duration_ms=500
    )


def test_duration_runs_until_the_end() -> None:
    state = SessionState("c1", created_at=AT, updated_at=AT + timedelta(seconds=5))
    assert state.duration(AT + timedelta(seconds=60)) == timedelta(seconds=60)
    assert state.duration() > timedelta(seconds=60)
    state.status = Status.ENDED
    assert state.duration(AT + timedelta(seconds=60)) == timedelta(seconds=5)
    assert not state.is_active


def test_copies_share_nothing() -> None:
    state = SessionState("c1", recovery_data={"a": [1]}, extra={"b": [2]})
    state.add_turn("user", "x", extra={"tags": [3]})
    state.history_from = 4
    for other in (state.copy(), copy.deepcopy(state), pickle.loads(pickle.dumps(state))):  # noqa: S301 - our own bytes
        assert other == state
        assert other.history_from == 4
        other.recovery_data["a"].append(0)
        other.extra["b"].append(0)
        other.history[0].extra["tags"].append(0)
        other.metrics.turn_count = 99
        assert other != state
    assert (state.recovery_data, state.extra) == ({"a": [1]}, {"b": [2]})
    assert (state.history[0].extra, state.metrics.turn_count) == ({"tags": [3]}, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"status": "active"},
        {"created_at": AT},
        {"updated_at": AT},
        {"extra": {"x": 1}},
        {"history": [Turn("u", "x")]},
    ],
)
def test_states_differ_by_every_member(change: dict[str, Any]) -> None:
    state = SessionState("c1")
    other = state.copy()
    for name, value in change.items():
        setattr(other, name, value)
    assert other != state
    assert state != "c1"


def test_a_repr_shows_no_number_and_no_word() -> None:
    state = SessionState("c1", from_="+15550001", to="+15550002", recovery_data="secret")
    state.add_turn("user", "secret")
    assert "secret" not in repr(state)
    assert "555" not in repr(state)


def test_history_can_be_emptied() -> None:
    state = SessionState("c1", history=[Turn("user", "x")])
    state.history = None  # type: ignore[assignment]
    assert state.history == []


class Recovery(msgspec.Struct):
    node: str
    item: int | None = None
    since: datetime | None = None


@pytest.mark.parametrize("data", [Recovery("order", 7, AT), Recovery("order")])
def test_recovery_data_of_a_type_of_ones_own(data: Recovery) -> None:
    state = SessionState("c1", recovery_data=data)
    assert state.recovery(Recovery) == data
    assert SessionState.from_json(state.to_json()).recovery(Recovery) == data


def test_recovery_data_that_is_none_or_something_else() -> None:
    assert SessionState("c1").recovery(Recovery) is None
    assert SessionState("c1", recovery_data={"node": "x"}).recovery(dict[str, str]) == {"node": "x"}
    with pytest.raises(DocumentError, match=r"recovery_data is not a valid Recovery: .*node"):
        SessionState("c1", recovery_data={"item": 7}).recovery(Recovery)


async def test_counters_stop_where_the_daemons_do() -> None:
    most = 2**63 - 1
    full = dict.fromkeys(("turn_count", "interruption_count", "agent_speech_duration_ms"), most)
    state = SessionState("a", metrics=SessionMetrics(**full, user_speech_duration_ms=most - 5))
    async with MemoryStore() as store:
        await store.save(state)
        for role in ("user", "agent", "tool"):
            state.add_turn(role, "x", 10)
            await store.add_turn("a", role, "x", 10)
        state.record_interruption()
        await store.record_interruption("a")
        assert state.metrics == (await store.load("a")).metrics
        await store.save(state)
