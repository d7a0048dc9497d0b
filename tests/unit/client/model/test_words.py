"""Status, Role and Direction, as their users expect them to behave."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime, timedelta

import msgspec
import orjson
import pytest

from callstate_client.model import Direction, Role, SessionState, Status, Turn

NAMED = [
    (Status, ["pending", "active", "on_hold", "transferring", "ended"]),
    (Direction, ["inbound", "outbound"]),
    (Role, ["user", "agent", "system", "tool"]),
]


@pytest.mark.parametrize(("words", "values"), NAMED)
def test_they_are_words(words: type[Status], values: list[str]) -> None:
    assert list(words) == values
    assert [str(word) for word in words] == values
    assert [f"{word:>12}" for word in words] == [f"{value:>12}" for value in values]
    assert all(value in words and words(value) == value for value in values)
    assert "no such word" not in words
    assert {values[0]: 1}[next(iter(words))] == 1
    assert json.dumps([*words]) == json.dumps(values)
    assert orjson.dumps([*words]) == msgspec.json.encode([*words]) == orjson.dumps(values)
    assert copy.deepcopy([*words]) == [*words]


def test_they_match_what_is_loaded() -> None:
    def said(status: str) -> str:
        match status:
            case Status.ENDED:
                return "over"
            case Status.ACTIVE | Status.ON_HOLD:
                return "on"
            case _:
                return "else"

    state = SessionState.from_json(SessionState("c1", status=Status.ENDED, direction=Direction.INBOUND).to_json())
    assert (said(state.status), said("on_hold"), said("ringing")) == ("over", "on", "else")
    assert state.direction == Direction.INBOUND
    assert not state.is_active
    assert Turn(Role.USER, "hi").to_dict()["role"] == "user"


def test_any_other_word_is_still_possible() -> None:
    state = SessionState("c1", status="ringing", direction="")
    state.add_turn("tool", "")
    again = SessionState.from_json(state.to_json())
    assert (again.status, again.direction, again.history[0].role) == ("ringing", "", "tool")
    assert again.is_active


AT = datetime(2026, 1, 2, tzinfo=UTC)


def test_a_duration_is_never_negative() -> None:
    state = SessionState("c1", created_at=AT, updated_at=AT - timedelta(hours=1))
    assert state.duration(AT + timedelta(seconds=3)) == timedelta(seconds=3)
    assert state.duration(AT - timedelta(seconds=3)) == timedelta(0)
    state.status = Status.ENDED
    assert state.duration() == timedelta(0)


@pytest.mark.parametrize("zero", ["0001-01-01T00:00:00Z", "0000-06-01T00:00:00Z", "0001-01-01T00:00:00+02:00"])
def test_a_call_without_a_start_has_no_duration(zero: str) -> None:
    state = SessionState.from_json(b'{"id":"c1","created_at":"%b"}' % zero.encode())
    assert state.duration() == timedelta(0)


def test_speech_times_are_never_negative() -> None:
    state = SessionState("c1")
    for role in Role:
        state.append_turn(Turn(role, "hi", duration_ms=-5))
    assert (state.metrics.user_speech_duration_ms, state.metrics.agent_speech_duration_ms) == (0, 0)
