"""The calls that `callstate top` knows: by listings, by events, in the order that is wanted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from callstate_client import Record, SessionState
from callstate_client.cli.top import sessions
from callstate_client.cli.top.sessions import ENDED, LIVE, NOT_ENDED, ORPHAN, SUSPECT, Calls
from callstate_client.protocol.events import Cursor, Event

START = datetime(2026, 5, 1, 12, tzinfo=UTC)


def a_record(session_id: str, age_s: float = 0, **fields: Any) -> Record:
    beside = {
        name: fields.pop(name) for name in ("owner", "labels", "turn_count", "ended_reason") if name in fields
    }
    state = SessionState(session_id, created_at=START - timedelta(seconds=age_s), **({"status": "active"} | fields))
    return Record(state, **beside)


def an_event(type_: str, session_id: str | None = "a", **fields: Any) -> Event:
    return Event(cursor=Cursor("s", 1), type=type_, at=START, session_id=session_id, **fields)


def known(*records: Record, state: str = LIVE) -> Calls:
    calls = Calls()
    calls.begin_scan(1.0)
    for record in records:
        calls.listed(record, 1.0, state)
    calls.end_scan(NOT_ENDED)
    return calls


def ids(calls: Calls, text: str = "", sort: str = "age", *, reverse: bool = False, states: Any = NOT_ENDED) -> str:
    return " ".join(call.id for call in calls.select(states=states, text=text, sort=sort, reverse=reverse))


def test_a_listing_gives_what_a_line_shows() -> None:
    calls = known(
        a_record("a", provider="twilio", call_id="CA1", from_="+44", to="+1", owner="w", turn_count=3),
        state=SUSPECT,
    )
    (call,) = calls.calls.values()
    assert (call.state, call.status, call.provider, call.call_id, call.owner, call.turns) == (
        SUSPECT, "active", "twilio", "CA1", "w", 3,
    )  # fmt: skip


def test_calls_missing_from_a_complete_listing_are_removed() -> None:
    calls = known(a_record("a"), a_record("b"))
    calls.begin_scan(2.0)
    calls.listed(a_record("b"), 2.0, LIVE)
    assert ids(calls) == "a b"
    calls.end_scan(NOT_ENDED)
    assert ids(calls) == "b"


def test_a_call_announced_by_an_event_during_a_listing_stays() -> None:
    calls = known(a_record("a"))
    calls.begin_scan(2.0)
    calls.apply(an_event("created", "new"), 2.5)
    calls.apply(an_event("recovered", "a"), 2.5)
    calls.end_scan(NOT_ENDED)
    assert ids(calls) == "a new"


def test_ended_calls_that_are_not_listed_leave_with_the_next_listing() -> None:
    calls = known(a_record("a"))
    calls.apply(an_event("ended", reason="completed"), 2.0)
    assert ids(calls, states=(ENDED,)) == "a"
    calls.begin_scan(3.0)
    calls.end_scan(NOT_ENDED)
    assert ids(calls, states=(ENDED,)) == ""


@pytest.mark.parametrize(
    ("type_", "fields", "expected"),
    [
        ("suspect", {"reason": "worker_exited", "owner": "w"}, (SUSPECT, "w", "worker_exited")),
        ("orphaned", {"owner": "w", "reason": "worker_exited"}, (ORPHAN, "", "")),
        ("released", {"owner": "w"}, (ORPHAN, "", "")),
        ("claimed", {"owner": "w2"}, (LIVE, "w2", "")),
        ("ended", {"reason": "caller_hangup"}, (ENDED, "w", "caller_hangup")),
        ("expired", {"reason": "heartbeat_timeout"}, (ENDED, "w", "heartbeat_timeout")),
        ("fenced", {"owner": "w2"}, (LIVE, "w", "")),
    ],
)
def test_events_change_a_call(type_: str, fields: dict[str, str], expected: tuple[str, str, str]) -> None:
    calls = known(a_record("a", owner="w"))
    assert calls.apply(an_event(type_, **fields), 2.0) is False
    call = calls.calls["a"]
    assert (call.state, call.owner, call.reason) == expected


def test_a_deleted_call_is_gone_and_a_gap_asks_for_all() -> None:
    calls = known(a_record("a"))
    assert calls.apply(an_event("gap", None, reason="overrun"), 2.0) is True
    assert calls.apply(an_event("store.down", None), 2.0) is False
    calls.apply(an_event("deleted"), 2.0)
    assert not calls.calls


def test_a_call_read_by_itself_keeps_its_state_unless_it_has_ended() -> None:
    calls = known(a_record("a", owner="w"), state=SUSPECT)
    calls.listed(a_record("a", owner="w", turn_count=9), 2.0)
    assert (calls.calls["a"].state, calls.calls["a"].turns) == (SUSPECT, 9)
    calls.listed(a_record("a", status="ended", ended_reason="operator"), 3.0)
    assert (calls.calls["a"].state, calls.calls["a"].reason) == (ENDED, "operator")


def test_no_more_calls_than_can_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_CALLS", 2)
    calls = known(a_record("a"), a_record("b"), a_record("c"))
    assert (ids(calls), calls.full) == ("a b", True)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "b a c"),
        ("twilio", "a"),
        ("TWILIO sales", "a"),
        ("app=sales", "b a"),
        ("w-2", "c"),
        ("on_hold", "b"),
        ("twilio support", ""),
    ],
)
def test_a_filter_has_words_of_which_all_must_be_there(text: str, found: str) -> None:
    calls = known(
        a_record("a", 10, provider="twilio", owner="w-1", labels={"app": "sales"}),
        a_record("b", 20, provider="sip", status="on_hold", labels={"app": "sales"}),
        a_record("c", 5, owner="w-2", labels={"app": "support"}),
    )
    assert ids(calls, text) == found


@pytest.mark.parametrize(
    ("sort", "order"),
    [("age", "b a c"), ("turns", "c a b"), ("id", "a b c"), ("provider", "b a c"), ("owner", "c b a")],
)
def test_orders(sort: str, order: str) -> None:
    calls = known(
        a_record("a", 10, turn_count=2, provider="y", owner="3"),
        a_record("b", 20, turn_count=1, provider="x", owner="2"),
        a_record("c", 5, turn_count=9, provider="z", owner="1"),
    )
    assert ids(calls, sort=sort) == order
    assert ids(calls, sort=sort, reverse=True) == " ".join(reversed(order.split()))


def test_suspects_come_first_by_state() -> None:
    calls = known(a_record("live"), a_record("suspect"), a_record("orphan"))
    calls.apply(an_event("suspect", "suspect"), 2.0)
    calls.apply(an_event("orphaned", "orphan"), 2.0)
    assert ids(calls, sort="state") == "suspect orphan live"
    assert ids(calls, states=(ORPHAN,)) == "orphan"


def test_counts_by_provider_leave_ended_calls_out() -> None:
    calls = known(a_record("a", provider="sip"), a_record("b", provider="twilio"), a_record("c", provider="sip"))
    calls.apply(an_event("ended", "b"), 2.0)
    assert calls.by(lambda call: call.provider) == [("sip", 2)]
