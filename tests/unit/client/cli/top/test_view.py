"""What `callstate top` draws, at the widths of terminals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from rich.cells import cell_len

from callstate_client import MemoryStore, Record, SessionState
from callstate_client.cli.top.feed import Feed
from callstate_client.cli.top.sessions import SUSPECT, Call
from callstate_client.cli.top.view import Columns, figures_text, head_text, list_title

AT = datetime(2026, 5, 1, 12, tzinfo=UTC)
TWILIO_ID = "CA" + "0123456789abcdef" * 2


def a_call(session_id: str = TWILIO_ID) -> Call:
    return Call(
        session_id, state=SUSPECT, status="active", reason="worker_exited", provider="twilio",
        owner="host-7-4711-9f2c",
        from_="+442079460123", to="+15550100", turns=12, created_at=AT - timedelta(seconds=125), updated_at=AT,
    )  # fmt: skip


def test_at_80_columns_a_twilio_id_is_whole_and_the_owner_and_state_are_there() -> None:
    columns = Columns(78, 34, show_numbers=False)
    line = columns.line(a_call(), AT).plain
    assert cell_len(line) <= 78
    assert line.split()[:3] == [TWILIO_ID, "suspect", "host-7-4711-9f2c"]
    assert columns.heading().plain.split() == ["ID", "STATE", "OWNER", "TURNS", "SIGN"]


@pytest.mark.parametrize("width", [1, 20, 40, 60, 78, 100, 120, 200])
def test_lines_fit_every_width(width: int) -> None:
    columns = Columns(width, 34, show_numbers=True)
    assert cell_len(columns.line(a_call(), AT).plain) == cell_len(columns.heading().plain)
    assert cell_len(columns.heading().plain) <= max(width, 30)


def test_numbers_are_masked_unless_they_are_asked_for() -> None:
    masked = Columns(200, 34, show_numbers=False).line(a_call(), AT).plain
    assert "***23" in masked
    assert "***00" in masked
    assert "9460123" not in masked
    assert "+442079460123" in Columns(200, 34, show_numbers=True).line(a_call(), AT).plain


def test_text_from_callers_does_not_control_the_terminal() -> None:
    call = a_call("a")
    call.provider = "x\x1b[2J\n"
    assert "\x1b" not in Columns(200, 34, show_numbers=False).line(call, AT).plain


def test_the_head_of_a_call() -> None:
    state = SessionState("c1", provider="sip", from_="+442079460123", status="active", created_at=AT, updated_at=AT)
    record = Record(state, owner="w", labels={"app": "sales"}, turn_count=3)
    text = head_text(record, AT + timedelta(seconds=5), show_numbers=False).plain
    assert text.splitlines()[0] == "c1  active  held by w"
    assert "from ***23" in text
    assert "last sign 5s ago" in text
    assert "app sales" in text


def test_the_title_says_what_is_left_out() -> None:
    calls = [a_call("a")]
    assert list_title(calls, 1, states="all", sort="age", text="", full=False) == "1 calls: all, by age"
    assert list_title(calls, 9, states="live", sort="id", text="x", full=True) == (
        "1 of 9 calls (and more): live, by id, with “x”"
    )


async def test_the_figures() -> None:
    feed = Feed(MemoryStore(), 1.0, lambda: 0.0, lambda: None)
    assert figures_text(feed, AT, 0.0).plain == "callstated  connecting"
    feed.info = {"version": "9.9", "started_at": "2026-05-01T11:59:00Z", "store": "redis", "host_id": "h"}
    feed.figures.observe(
        {
            "sessions": {"active": 5, "ended": 1}, "suspects": 2, "orphans": 1, "store": "down", "dirty": 4,
            "store_error": "connection refused", "journal": "failing", "dirty_bytes": 2048, "oldest_dirty_s": 12.5,
            "reaped": 3, "reaped_by_reason": {"worker_exited": 3}, "draining": True, "requests": {},
        },
        1.0, 0.0004,
    )  # fmt: skip
    text = figures_text(feed, AT, 1.0).plain
    for part in (
        "callstated 9.9  up 1m00s", "draining: new calls are refused", "2 live  2 suspect  1 orphan  1 ended",
        "redis down", "4 dirty, 2.05 kB", "connection refused", "journal failing", "3 reaped (worker_exited 3)",
        "ping 0.40 ms",
    ):  # fmt: skip
        assert part in text
    feed.problem = "gone"
    feed.answered_at_s = 1.0
    assert "no answer for 4 s; trying again" in figures_text(feed, AT, 5.0).plain
