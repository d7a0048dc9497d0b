"""Documents in every form that Go's encoding/json gives them go through the model unharmed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from callstate_client import SessionState
from callstate_client.model.times import parse_time
from support.budget import examples

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INT64 = st.integers(-(2**63), 2**63 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | INT64 | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def times(draw: st.DrawFn) -> str:
    """What time.Time.MarshalJSON writes: year 1 to 9999, up to nine digits, no trailing zeros, Z or an offset."""
    at = draw(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)))
    fraction = f"{draw(st.integers(0, 999_999_999)):09}".rstrip("0")
    sign, hours, minutes = draw(st.sampled_from("+-")), draw(st.integers(0, 23)), draw(st.integers(0, 59))
    zone = draw(st.sampled_from(["Z", f"{sign}{hours:02}:{minutes:02}"]))
    return at.strftime(f"{at.year:04}-%m-%dT%H:%M:%S") + (f".{fraction}" if fraction else "") + zone


GO_TIME = st.just("0001-01-01T00:00:00Z") | times()


def members(required: dict[str, Any], known: set[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of the members we know, beside some that we don't."""
    extra = st.dictionaries(TEXT.filter(lambda name: name not in known), JSON, max_size=2)
    return st.builds(lambda some, more: some | more, st.fixed_dictionaries({}, optional=required), extra)


TURN_MEMBERS = {"role": TEXT, "content": TEXT, "timestamp": GO_TIME, "duration_ms": INT64}
METRICS_MEMBERS = dict.fromkeys(
    (
        "turn_count",
        "interruption_count",
        "user_speech_duration_ms",
        "agent_speech_duration_ms",
        "first_response_ms",
        "average_response_ms",
    ),
    INT64,
)
TURN = members(TURN_MEMBERS, set(TURN_MEMBERS))
STATE_MEMBERS: dict[str, Any] = {
    **dict.fromkeys(("id", "call_id", "provider", "direction", "from", "to", "status"), TEXT),
    "created_at": GO_TIME,
    "updated_at": GO_TIME,
    "history": st.none() | st.lists(TURN, max_size=4),
    "metrics": st.none() | members(METRICS_MEMBERS, set(METRICS_MEMBERS)),
    "recovery_data": JSON,
}
DOCUMENT = members(STATE_MEMBERS, set(STATE_MEMBERS))
ZERO: dict[str, Any] = dict.fromkeys(("id", "provider", "direction", "from", "to", "status"), "") | {
    "created_at": "0001-01-01T00:00:00Z",
    "updated_at": "0001-01-01T00:00:00Z",
    "history": [],
}
ZERO_METRICS = dict.fromkeys([*METRICS_MEMBERS][:4], 0)


def expected(document: dict[str, Any]) -> dict[str, Any]:
    """What is written of a document nobody touched: all of it, and Go's zero values for what was not there."""
    given = {name: value for name, value in document.items() if value is not None or name not in STATE_MEMBERS}
    out = ZERO | given
    metrics = ZERO_METRICS | (document.get("metrics") or {})
    out["metrics"] = {name: value for name, value in metrics.items() if value or not name.endswith("_response_ms")}
    if out.get("call_id") == "":
        del out["call_id"]
    if out.get("recovery_data") in ("", {}, []):
        del out["recovery_data"]
    return out


def encoded(document: Any, *, spaced: bool = False, ascii_only: bool = False) -> bytes:
    separators = (", ", ": ") if spaced else (",", ":")
    return json.dumps(document, separators=separators, ensure_ascii=ascii_only).encode()


@settings(max_examples=examples(100))
@given(DOCUMENT, st.booleans(), st.booleans())
def test_every_member_survives(document: dict[str, Any], spaced: bool, ascii_only: bool) -> None:
    state = SessionState.from_json(encoded(document, spaced=spaced, ascii_only=ascii_only))
    assert json.loads(state.to_json()) == expected(document)


@settings(max_examples=examples(100))
@given(DOCUMENT)
def test_writing_is_stable(document: dict[str, Any]) -> None:
    once = SessionState.from_json(encoded(document)).to_json()
    again = SessionState.from_json(once)
    assert again.to_json() == once
    assert again.copy() == again


@settings(max_examples=examples(100))
@given(st.lists(TURN, min_size=1, max_size=4), st.booleans(), st.data())
def test_turns_that_were_not_read_keep_their_bytes(
    turns: list[dict[str, Any]], spaced: bool, data: st.DataObject
) -> None:
    raw = [encoded(turn, spaced=spaced) for turn in turns]
    state = SessionState.from_json(b'{"history":[%b]}' % b",".join(raw))
    looked_at = data.draw(st.integers(0, len(turns) - 1))
    assert state.history[looked_at].extra == {
        name: value for name, value in turns[looked_at].items() if name not in TURN_MEMBERS
    }
    written = msgspec.json.decode(state.to_json(), type=dict[str, msgspec.Raw])["history"]
    parts = [bytes(part) for part in msgspec.json.decode(written, type=list[msgspec.Raw])]
    for index, part in enumerate(parts):
        if index == looked_at:
            zero = {"role": "", "content": "", "timestamp": "0001-01-01T00:00:00Z", "duration_ms": 0}
            assert json.loads(part) == zero | turns[index]
        else:
            assert part == raw[index]


@settings(max_examples=examples(100))
@given(st.lists(TURN, min_size=1, max_size=4), st.booleans())
def test_the_last_turn_is_the_last_one(turns: list[dict[str, Any]], spaced: bool) -> None:
    lazy, whole = (SessionState.from_json(encoded({"history": turns}, spaced=spaced)) for _ in range(2))
    assert lazy.history[-1] == [*whole.history][-1]
    lazy.add_turn("user", "x")
    whole.history.append(lazy.history[-1])
    whole.metrics = lazy.metrics
    written = SessionState.from_json(lazy.to_json())
    assert len(written.history) == len(turns) + 1
    assert written == whole == lazy


@settings(max_examples=examples(100))
@given(times())
def test_times_are_the_moments_go_means(text: str) -> None:
    at = parse_time(text)
    state = SessionState.from_json(b'{"created_at":"%b"}' % text.encode())
    assert state.created_at == at
    assert f'"created_at":"{text}"'.encode() in state.to_json()
    state.created_at = at
    assert SessionState.from_json(state.to_json()).created_at == at


@settings(max_examples=examples(100))
@given(
    st.datetimes(timezones=st.just(UTC)),
    TEXT,
    st.integers(0, 2**63 - 1),
    st.dictionaries(
        TEXT.filter(lambda n: n not in {"role", "content", "duration_ms", "at", "self"}), JSON, max_size=2
    ),
)
def test_a_turn_that_is_added_comes_back(
    at: datetime, content: str, duration_ms: int, extra: dict[str, Any]
) -> None:
    extra.pop("timestamp", None)
    state = SessionState("c1")
    state.add_turn("user", content, duration_ms, at=at, extra=extra)
    (turn,) = SessionState.from_json(state.to_json()).history
    assert (turn.content, turn.timestamp, turn.duration_ms, turn.extra) == (content, at, duration_ms, extra)
