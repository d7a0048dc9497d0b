"""Listings and the verbs of the server, over the wire, against a real daemon."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.calls import load, new_id, refused, session
from support.daemon import Daemon
from support.wire import Wire

# -- listings: a daemon of their own, because those that other tests left would be listed too ---------------------


@pytest.fixture(scope="module")
def listed() -> Iterator[Daemon]:
    """Nine sessions: s0 to s8."""
    with Daemon() as running:
        with Wire(running.socket) as wire:
            for number in range(9):
                wire.call(
                    "session.save",
                    session={
                        "id": f"s{number}",
                        "provider": ("twilio", "sip")[number % 2],
                        "status": ("active", "on_hold", "pending")[number % 3],
                        "call_id": f"CA{number}",
                    },
                    labels={"app": ("sales", "support")[number % 2], "n": str(number)},
                )
            for number in (7, 8):
                wire.call("session.end", session_id=f"s{number}")
        yield running


def ids(result: dict[str, Any]) -> list[str]:
    return [listed["session"]["id"] for listed in result["sessions"]]


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        ({}, "012345678"),
        ({"status": "active"}, "036"),
        ({"status": "ended"}, "78"),
        ({"status": "none such"}, ""),
        ({"provider": "sip"}, "1357"),
        ({"call_id": "CA4"}, "4"),
        ({"owner": "somebody"}, ""),
        ({"labels": {"app": "sales"}}, "02468"),
        ({"labels": {"app": "sales", "n": "4"}}, "4"),
        ({"labels": {"app": "sales", "n": "5"}}, ""),
        ({"labels": {}}, "012345678"),
        ({"status": "active", "provider": "twilio", "labels": {"app": "sales"}}, "06"),
        ({"ended_since": "2026-01-01T00:00:00Z"}, "78"),
        ({"ended_since": "0001-01-01T00:00:00Z"}, "78"),
        ({"ended_since": "9999-12-31T23:59:59Z"}, ""),
    ],
    ids=str,
)
def test_list_gives_what_fits_all_conditions(listed: Daemon, conditions: dict[str, Any], found: str) -> None:
    with Wire(listed.socket) as wire:
        assert ids(wire.call("session.list", **conditions)) == [f"s{digit}" for digit in found]


def test_ended_since_includes_the_very_moment(listed: Daemon) -> None:
    with Wire(listed.socket) as wire:
        moment = session(wire, "s8")["updated_at"]
        assert ids(wire.call("session.list", ended_since=moment)) == ["s8"]


def test_list_shows_sessions_as_a_load_without_history(listed: Daemon) -> None:
    with Wire(listed.socket) as wire:
        for shown in wire.call("session.list")["sessions"]:
            assert shown == load(wire, shown["session"]["id"], history="none")


@pytest.mark.parametrize("limit", range(1, 10))
@pytest.mark.parametrize(
    ("method", "params", "found"),
    [
        ("session.list", {}, "012345678"),
        ("session.list", {"provider": "twilio"}, "02468"),
        ("session.list_active", {}, "0123456"),
        ("session.list_active", {"scope": "all"}, "0123456"),
    ],
    ids=str,
)
def test_pages_joined_are_the_whole(
    listed: Daemon, method: str, params: dict[str, Any], found: str, limit: int
) -> None:
    pages: list[list[str]] = []
    with Wire(listed.socket) as wire:
        cursor: dict[str, str] = {}
        while True:
            result = wire.call(method, limit=limit, **params, **cursor)
            pages.append(result["session_ids"] if method == "session.list_active" else ids(result))
            if "next_cursor" not in result:
                break
            cursor = {"cursor": result["next_cursor"]}
    assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
    assert 0 < len(pages[-1]) <= limit
    assert [session_id for page in pages for session_id in page] == [f"s{digit}" for digit in found]


# -- server -------------------------------------------------------------------------------------------------------


def test_requests_and_errors_are_counted(wire: Wire) -> None:
    before = wire.call("server.stats")
    wire.call("server.ping")
    wire.send(b'{"jsonrpc":"2.0","method":"server.ping"}\n')
    refused(wire, "not_found", "session.load", session_id=new_id())
    refused(wire, "method_not_found", "session.none")
    assert wire.refusal(b"no")["data"]["kind"] == "parse_error"
    after = wire.call("server.stats")

    def grown(group: str, name: str) -> int:
        count: int = after[group].get(name, 0) - before[group].get(name, 0)
        return count

    assert (grown("requests", "server.ping"), grown("requests", "session.load")) == (2, 1)
    assert [grown("errors", kind) for kind in ("not_found", "method_not_found", "parse_error")] == [1, 1, 1]
    assert "session.none" not in after["requests"]


def test_sessions_are_counted_by_status_as_it_changes() -> None:
    with Daemon() as daemon, Wire(daemon.socket) as wire:

        def counts() -> dict[str, int]:
            sessions: dict[str, int] = wire.call("server.stats")["sessions"]
            return sessions

        for number in range(3):
            wire.call("session.save", session={"id": f"s{number}", "status": "active"})
        assert counts() == {"active": 3}
        wire.call("session.update", session_id="s0", set={"status": "on_hold"})
        wire.call("session.end", session_id="s1")
        assert counts() == {"active": 1, "on_hold": 1, "ended": 1}
        wire.call("session.delete", session_id="s2")
        assert counts() == {"on_hold": 1, "ended": 1}


def test_a_flush_leaves_nothing_dirty(wire: Wire, sid: str) -> None:
    assert wire.call("server.flush", session_ids=[sid, new_id()], timeout_s=20) == {"flushed": 2, "unflushed": 0}
    wire.call("server.flush", timeout_s=20)
    assert wire.call("server.stats")["dirty"] == 0
