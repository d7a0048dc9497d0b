"""The end of a session, and its heartbeats, over the wire, against a real daemon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.calls import MUTATIONS, contents, load, new_id, refused, session, turn
from support.daemon import Daemon
from support.wire import Wire

# -- the end ------------------------------------------------------------------------------------------------------


def test_an_end_is_said_with_its_reason_and_is_final(wire: Wire, sid: str) -> None:
    version = wire.call("session.end", session_id=sid, reason="caller_hangup", detail={"cause": 16})["version"]
    again = wire.call("session.end", session_id=sid, reason="other", detail=None)
    assert again == {"version": version}
    after = load(wire, sid)
    assert (after["session"]["status"], after["version"]) == ("ended", version)
    assert (after["ended_reason"], after["ended_detail"]) == ("caller_hangup", {"cause": 16})


@pytest.mark.parametrize(
    "end",
    [
        lambda wire, sid: wire.call("session.end", session_id=sid),
        lambda wire, sid: wire.call("session.update", session_id=sid, set={"status": "ended"}),
        lambda wire, sid: wire.call("session.save", session={"id": sid, "status": "ended"}),
    ],
    ids=["end", "update", "save"],
)
def test_a_call_ended_by_its_worker_takes_everything_but_beats(
    wire: Wire, sid: str, end: Callable[[Wire, str], Any]
) -> None:
    end(wire, sid)
    assert load(wire, sid)["ended_reason"] == "completed"
    data = refused(wire, "session_ended", "session.heartbeat", session_id=sid)
    assert data["reason"] == "completed"
    assert data["ended_at"] == session(wire, sid)["updated_at"]
    wire.call("session.add_turn", session_id=sid, turn=turn("user", "late"))
    wire.call("session.amend_turn", session_id=sid, set={"content": "very late"})
    wire.call("session.record_interruption", session_id=sid)
    wire.call("session.update", session_id=sid, set={"summary": "short"})
    after = load(wire, sid)
    assert (after["session"]["status"], after["ended_reason"]) == ("ended", "completed")
    assert after["session"]["history"][-1]["content"] == "very late"
    assert after["session"]["summary"] == "short"
    assert refused(wire, "session_ended", "session.heartbeat", session_id=sid) == data


@pytest.mark.parametrize("status", ["active", None, "", "Ended"])
def test_a_late_status_update_of_an_ended_session_is_refused(wire: Wire, sid: str, status: str | None) -> None:
    wire.call("session.end", session_id=sid, reason="caller_hangup", detail={"cause": 16})
    before = wire.call("session.load", session_id=sid)
    patch = {"status": status, "summary": "short"}
    data = refused(wire, "session_ended", "session.update", session_id=sid, set=patch)
    assert data["reason"] == "caller_hangup"
    assert wire.call("session.load", session_id=sid) == before
    wire.call("session.update", session_id=sid, set={"status": "ended", "summary": "short"})
    after = load(wire, sid)
    assert (after["ended_reason"], after["ended_detail"]) == ("caller_hangup", {"cause": 16})
    assert after["session"]["summary"] == "short"


def test_a_save_with_another_status_revives_what_a_worker_ended(wire: Wire, sid: str) -> None:
    wire.call("session.end", session_id=sid, reason="too_early", detail=1)
    wire.call("session.save", session={"id": sid, "status": "active"})
    after = load(wire, sid)
    assert after["session"]["status"] == "active"
    assert after.keys().isdisjoint({"ended_reason", "ended_detail"})
    assert wire.call("session.heartbeat", session_id=sid) == {}
    assert sid in wire.call("session.list_active", limit=10_000)["session_ids"]


def test_a_detail_has_its_limit(wire: Wire, sid: str) -> None:
    data = refused(wire, "invalid_params", "session.end", session_id=sid, detail="x" * 1023)
    assert data["path"] == "$.params.detail"
    wire.call("session.end", session_id=sid, detail="x" * 1022)
    assert load(wire, sid)["ended_detail"] == "x" * 1022


def test_a_delete_leaves_nothing(wire: Wire, sid: str) -> None:
    wire.call("server.flush")
    assert wire.call("session.delete", session_id=sid) == {}
    refused(wire, "not_found", "session.delete", session_id=sid)
    refused(wire, "not_found", "session.load", session_id=sid)
    refused(wire, "not_found", "session.heartbeat", session_id=sid)
    wire.call("server.flush")
    refused(wire, "not_found", "session.load", session_id=sid)
    assert sid not in wire.call("session.list_active", scope="all", limit=10_000)["session_ids"]


@pytest.mark.system
def test_a_silent_session_is_reaped_and_takes_nothing_more() -> None:
    with (
        Daemon("--set", "reaper.grace_s=0.1", "--set", "reaper.tick_s=0.01") as daemon,
        Wire(daemon.socket) as wire,
    ):
        wire.call(
            "session.save", session={"id": "silent", "history": [turn("user", "hi")]}, heartbeat_timeout_s=0.1
        )
        wire.call("session.save", session={"id": "old"}, max_duration_s=0.1)
        wire.call("session.save", session={"id": "alive"})
        while wire.call("session.list", status="ended")["sessions"] == []:
            pass
        while len(wire.call("session.list", status="ended")["sessions"]) < 2:
            pass
        for sid, reason in {"silent": "heartbeat_timeout", "old": "max_duration"}.items():
            before = wire.document(sid)
            assert load(wire, sid)["ended_reason"] == reason
            for method, params in MUTATIONS.items():
                if method != "session.end":
                    assert refused(wire, "session_ended", method, session_id=sid, **params)["reason"] == reason
            refused(wire, "session_ended", "session.heartbeat", session_id=sid)
            refused(wire, "session_ended", "session.save", session={"id": sid, "status": "active"})
            assert wire.call("session.end", session_id=sid) == {"version": load(wire, sid)["version"]}
            assert wire.document(sid) == before
        assert contents(wire, "silent") == ["hi"]
        assert wire.call("session.list_active")["session_ids"] == ["alive"]


# -- heartbeats ---------------------------------------------------------------------------------------------------


def test_a_beat_raises_updated_at_and_not_the_version(wire: Wire, sid: str) -> None:
    before = load(wire, sid)
    wire.call("session.heartbeat", session_id=sid)
    after = load(wire, sid)
    assert after["session"]["updated_at"] > before["session"]["updated_at"]
    assert after["version"] == before["version"]


def test_a_heartbeat_of_an_unknown_session_is_not_found(wire: Wire) -> None:
    refused(wire, "not_found", "session.heartbeat", session_id=new_id())


def test_beats_of_several_say_which_got_none(wire: Wire) -> None:
    live = [new_id() for _ in range(3)]
    over, nobody = new_id(), new_id()
    for session_id in (*live, over):
        wire.call("session.save", session={"id": session_id})
    wire.call("session.end", session_id=over)
    before = [session(wire, session_id)["updated_at"] for session_id in live]
    result = wire.call("session.heartbeat", session_ids=[live[0], over, live[1], nobody, live[2]])
    assert result == {"missing": [nobody], "ended": [over], "fenced": []}
    after = [session(wire, session_id)["updated_at"] for session_id in live]
    assert all(late > early for late, early in zip(after, before, strict=True))
    assert wire.call("session.heartbeat", session_ids=[]) == {"missing": [], "ended": [], "fenced": []}
