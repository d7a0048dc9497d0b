"""Turns, amendments and interruptions, over the wire, against a real daemon."""

from __future__ import annotations

from typing import Any

import pytest

from support.calls import contents, new_id, refused, session, turn
from support.wire import Wire


def test_turns_are_counted_and_their_speech_added(wire: Wire, sid: str) -> None:
    result = wire.call(
        "session.add_turn",
        session_id=sid,
        turns=[
            turn("user", "a", duration_ms=7),
            turn("agent", "b", duration_ms=11),
            turn("tool", "c", duration_ms=13),
        ],
    )
    assert result["turn_count"] == 5
    assert session(wire, sid)["metrics"] == {
        "turn_count": 5,
        "interruption_count": 0,
        "user_speech_duration_ms": 7,
        "agent_speech_duration_ms": 11,
    }


def test_a_turn_is_kept_with_all_its_members_and_the_present_time(wire: Wire, sid: str) -> None:
    turns: list[dict[str, Any]] = [{}, {"role": "user", "content": "x"}, turn("user", "y")]
    wire.call("session.add_turn", session_id=sid, turns=turns)
    after = session(wire, sid)
    first, second, third = after["history"][-3:]
    assert first == {"role": "", "content": "", "timestamp": after["updated_at"], "duration_ms": 0}
    assert second == {"role": "user", "content": "x", "timestamp": after["updated_at"], "duration_ms": 0}
    assert third == turns[2]


@pytest.mark.parametrize(
    "time",
    [
        "2026-05-01T12:00:00.123456789Z",
        "2026-05-01T12:00:00.1Z",
        "2026-05-01T14:00:00.000000001+02:00",
        "2026-05-01T05:30:00-06:30",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
    ],
)
def test_times_stay_as_they_were_written(wire: Wire, sid: str, time: str) -> None:
    wire.call("session.add_turn", session_id=sid, turn=turn("user", "now", timestamp=time))
    wire.call("session.update", session_id=sid, set={"created_at": time})
    wire.call("session.record_interruption", session_id=sid)
    after = session(wire, sid)
    assert (after["history"][-1]["timestamp"], after["created_at"]) == (time, time)


def test_an_empty_list_of_turns_is_accepted(wire: Wire, sid: str) -> None:
    assert wire.call("session.add_turn", session_id=sid, turns=[])["turn_count"] == 2


def test_of_several_turns_all_are_taken_or_none(wire: Wire, sid: str) -> None:
    refused(wire, "invalid_params", "session.add_turn", session_id=sid, turns=[turn("user", "x"), {"role": 1}])
    assert contents(wire, sid) == ["Hello?", "Hi."]


def test_an_amended_turn_is_patched_and_counts_nothing(wire: Wire, sid: str) -> None:
    wire.call("session.add_turn", session_id=sid, turn=turn("agent", "Our hours are", asr={"n": 1, "m": 2}))
    before = session(wire, sid)["metrics"]
    patch = {"content": "Our", "interrupted": True, "asr": {"n": None, "k": 3}, "duration_ms": 40}
    wire.call("session.amend_turn", session_id=sid, set=patch)
    after = session(wire, sid)
    assert after["history"][2] == turn("agent", "Our", asr={"m": 2, "k": 3}, interrupted=True, duration_ms=40)
    assert (len(after["history"]), after["metrics"]) == (3, before)


def test_any_turn_can_be_amended(wire: Wire, sid: str) -> None:
    assert wire.call("session.amend_turn", session_id=sid, set={"content": "a"}, role="agent")["index"] == 0
    assert wire.call("session.amend_turn", session_id=sid, set={"content": "b"}, index=1)["index"] == 1
    assert wire.call("session.amend_turn", session_id=sid, set={"x": 1}, index=-2, role="agent")["index"] == 0
    assert contents(wire, sid) == ["a", "b"]
    assert session(wire, sid)["history"][0]["x"] == 1


@pytest.mark.parametrize("which", [{"index": 2}, {"index": -3}, {"role": "tool"}, {"index": 0, "role": "user"}])
def test_a_turn_that_is_not_there_can_not_be_amended(wire: Wire, sid: str, which: dict[str, Any]) -> None:
    before = wire.document(sid)
    refused(wire, "conflict", "session.amend_turn", session_id=sid, set={"content": "x"}, **which)
    assert wire.document(sid) == before


def test_amending_without_a_turn_is_a_conflict(wire: Wire) -> None:
    sid = new_id()
    wire.call("session.save", session={"id": sid})
    refused(wire, "conflict", "session.amend_turn", session_id=sid, set={"content": "x"})


@pytest.mark.parametrize(
    ("patch", "path"),
    [({"role": 5}, "$.params.set.role"), ({"timestamp": "now"}, "$.params.set.timestamp"), ([], "$.params.set")],
)
def test_an_amended_turn_must_be_a_turn(wire: Wire, sid: str, patch: Any, path: str) -> None:
    before = wire.document(sid)
    assert refused(wire, "invalid_params", "session.amend_turn", session_id=sid, set=patch)["path"] == path
    assert wire.document(sid) == before


def test_interruptions_are_counted(wire: Wire, sid: str) -> None:
    versions = [wire.call("session.record_interruption", session_id=sid)["version"] for _ in range(3)]
    assert versions == sorted(set(versions))
    assert session(wire, sid)["metrics"]["interruption_count"] == 3
