"""Sessions that are no longer in memory, over the wire, against a real daemon."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.calls import load, new_id, refused, turn
from support.daemon import Daemon
from support.wire import Wire, request


@pytest.fixture(scope="module")
def forgetful() -> Iterator[Daemon]:
    """A daemon that evicts an ended session as soon as the store has it."""
    with Daemon("--set", "reaper.retention_s=0", "--set", "reaper.tick_s=0.01") as running:
        yield running


@pytest.fixture
def cold(forgetful: Daemon) -> Iterator[tuple[Wire, str]]:
    """A session that only the store has, ended with a reason, with labels."""
    sid = new_id()
    with Wire(forgetful.socket) as wire:
        history = [
            turn("user", "hi", timestamp="2026-05-01T12:00:00.123456789Z"),
            turn("agent", "hello", x=[1, {}]),
        ]
        document = {"id": sid, "history": history, "recovery_data": {"k": "é"}, "extra": 1.5}
        wire.call("session.save", session=document, labels={"app": "sales"})
        wire.call("session.end", session_id=sid, reason="bye", detail={"cause": 16})
        evict(wire)
        yield wire, sid


def evict(wire: Wire) -> None:
    """Wait until the store has everything and no session is in memory."""
    wire.call("server.flush", timeout_s=20)
    while wire.call("server.stats")["sessions"]:
        pass


def test_an_evicted_session_is_read_from_the_store_with_all_its_data(cold: tuple[Wire, str]) -> None:
    wire, sid = cold
    assert wire.call("session.list")["sessions"] == []
    got = load(wire, sid)
    assert got["session"]["history"][0]["timestamp"] == "2026-05-01T12:00:00.123456789Z"
    assert got["session"]["history"][1] == turn("agent", "hello", x=[1, {}])
    assert (got["session"]["recovery_data"], got["session"]["extra"]) == ({"k": "é"}, 1.5)
    assert (got["labels"], got["ended_reason"], got["ended_detail"]) == ({"app": "sales"}, "bye", {"cause": 16})
    assert (got["turn_count"], got["epoch"]) == (2, 0)
    assert load(wire, sid) == got
    assert load(wire, sid, history=1)["session"]["history"] == got["session"]["history"][1:]
    data = refused(wire, "session_ended", "session.heartbeat", session_id=sid)
    assert data["reason"] == "bye"
    assert wire.call("session.heartbeat", session_ids=[sid, "nobody"]) == {
        "missing": ["nobody"],
        "ended": [sid],
        "fenced": [],
    }
    assert wire.call("session.end", session_id=sid) == {"version": got["version"]}


def test_create_only_sees_what_only_the_store_has(cold: tuple[Wire, str]) -> None:
    wire, sid = cold
    version = load(wire, sid)["version"]
    assert refused(wire, "conflict", "session.save", session={"id": sid}, if_version=0)["version"] == version
    assert (
        wire.call("session.save", session={"id": sid, "status": "ended"}, if_version=version)["version"] > version
    )
    assert load(wire, sid)["turn_count"] == 2  # a save without history keeps it, wherever it was


def test_a_late_turn_reaches_what_only_the_store_has(cold: tuple[Wire, str]) -> None:
    wire, sid = cold
    before = load(wire, sid)
    result = wire.call("session.add_turn", session_id=sid, turn=turn("user", "late"))
    assert result["turn_count"] == 3
    assert result["version"] > before["version"]
    evict(wire)
    after = load(wire, sid)
    assert after["session"]["history"][:2] == before["session"]["history"]
    assert after["session"]["history"][2]["content"] == "late"
    assert (after["ended_reason"], after["version"]) == ("bye", result["version"])


def test_a_delete_reaches_what_only_the_store_has(cold: tuple[Wire, str]) -> None:
    wire, sid = cold
    assert wire.call("session.delete", session_id=sid) == {}
    refused(wire, "not_found", "session.load", session_id=sid)
    wire.call("server.flush", timeout_s=20)
    refused(wire, "not_found", "session.load", session_id=sid)


def test_a_save_revives_what_only_the_store_has(cold: tuple[Wire, str]) -> None:
    wire, sid = cold
    wire.call("session.save", session={"id": sid, "status": "active"})
    after = load(wire, sid)
    assert (after["turn_count"], after["labels"]) == (2, {"app": "sales"})
    assert sid in wire.call("session.list_active")["session_ids"]
    wire.call("session.end", session_id=sid)
    evict(wire)


def test_requests_on_one_session_keep_their_order_across_a_read_through(cold: tuple[Wire, str]) -> None:
    wire, sid = cold
    lines = [request(0, "session.load", {"session_id": sid, "history": "none"})]
    for number in range(1, 100):
        params: dict[str, Any] = {"session_id": sid, "turn": turn("user", str(number))}
        lines.append(request(number, "session.add_turn", params))
    lines += [
        request(100, "session.save", {"session": {"id": sid, "status": "active"}}),
        request(101, "session.amend_turn", {"session_id": sid, "set": {"content": "last"}}),
        request(102, "session.end", {"session_id": sid, "reason": "again"}),
        request(103, "session.load", {"session_id": sid}),
        request(104, "server.ping", {}),
    ]
    wire.send(b"".join(lines))
    replies = {reply["id"]: reply["result"] for reply in (wire.reply() for _ in lines)}
    assert (replies[0]["turn_count"], replies[0]["ended_reason"]) == (2, "bye")
    assert [replies[number]["turn_count"] for number in range(1, 100)] == list(range(3, 102))
    versions = [replies[number]["version"] for number in range(103)]
    assert versions == sorted(set(versions))
    got = [said["content"] for said in replies[103]["session"]["history"]]
    assert got == ["hi", "hello", *map(str, range(1, 99)), "last"]
    assert replies[103]["ended_reason"] == "again"
    assert len(replies) == len(lines)


def test_a_session_that_is_nowhere_may_be_created_by_the_second_of_two_requests(forgetful: Daemon) -> None:
    """Both wait for the store; the first hears that there is none, the second makes it."""
    sid = new_id()
    with Wire(forgetful.socket) as wire:
        wire.send(
            request(1, "session.load", {"session_id": sid})
            + request(2, "session.save", {"session": {"id": sid, "status": "ended"}, "if_version": 0})
            + request(3, "session.load", {"session_id": sid, "history": "none"})
        )
        replies = {reply["id"]: reply for reply in (wire.reply() for _ in range(3))}
    assert replies[1]["error"]["data"]["kind"] == "not_found"
    assert replies[3]["result"]["version"] == replies[2]["result"]["version"]
