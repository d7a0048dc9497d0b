"""Merge patches of the document, and the rules of all mutations, over the wire, against a real daemon."""

from __future__ import annotations

from typing import Any

import pytest

from support.calls import MUTATIONS, load, new_id, refused, session, turn
from support.daemon import Daemon
from support.wire import Wire

# -- update -------------------------------------------------------------------------------------------------------


def test_an_update_is_a_merge_patch(wire: Wire, sid: str) -> None:
    before = session(wire, sid)
    patch = {"recovery_data": {"retries": None, "step": 4}, "campaign": None, "agent": {"x": [1]}, "to": "+1"}
    wire.call("session.update", session_id=sid, set=patch)
    after = session(wire, sid)
    assert after["recovery_data"] == {"node": "greeting", "step": 4}
    assert "campaign" not in after
    assert (after["agent"], after["to"]) == ({"x": [1]}, "+1")
    touched = {"recovery_data", "campaign", "agent", "to", "updated_at"}
    assert {n: v for n, v in after.items() if n not in touched} == {
        n: v for n, v in before.items() if n not in touched
    }


def test_null_gives_a_member_what_it_has_when_left_out(wire: Wire, sid: str) -> None:
    wire.call(
        "session.update",
        session_id=sid,
        set={"status": None, "provider": None, "metrics": None, "recovery_data": None, "created_at": None},
    )
    after = session(wire, sid)
    assert (after["status"], after["provider"], after["metrics"]["turn_count"]) == ("pending", "", 0)
    assert "recovery_data" not in after
    assert after["created_at"] > "2026"


@pytest.mark.parametrize("name", ["id", "history", "updated_at"])
@pytest.mark.parametrize("value", [None, "x", []])
def test_some_members_cant_be_patched(wire: Wire, sid: str, name: str, value: Any) -> None:
    before = wire.document(sid)
    data = refused(wire, "invalid_params", "session.update", session_id=sid, set={"to": "+1", name: value})
    assert data["path"] == f"$.params.set.{name}"
    assert wire.document(sid) == before


@pytest.mark.parametrize(
    ("patch", "path"),
    [
        ({"from": None, "provider": 1}, "$.params.set.provider"),
        ({"status": "x" * 65}, "$.params.set.status"),
        ({"metrics": {"turn_count": "2"}}, "$.params.set.metrics.turn_count"),
        ({"created_at": "today"}, "$.params.set.created_at"),
    ],
)
def test_the_result_of_an_update_must_be_a_valid_session(wire: Wire, sid: str, patch: Any, path: str) -> None:
    before = wire.document(sid)
    assert refused(wire, "invalid_params", "session.update", session_id=sid, set=patch)["path"] == path
    assert wire.document(sid) == before


def test_an_update_with_an_old_version_is_a_conflict(wire: Wire, sid: str) -> None:
    version = load(wire, sid)["version"]
    after = wire.call("session.update", session_id=sid, set={"to": "+1"}, if_version=version)["version"]
    data = refused(wire, "conflict", "session.update", session_id=sid, set={"to": "+2"}, if_version=version)
    assert data["version"] == after
    data = refused(wire, "conflict", "session.update", session_id=sid, set={"to": "+2"}, if_version=0)
    assert (data["version"], data["status"]) == (after, "active")
    wire.call("session.end", session_id=sid, reason="caller_hangup")
    data = refused(wire, "conflict", "session.update", session_id=sid, set={"to": "+2"}, if_version=0)
    assert (data["status"], data["reason"]) == ("ended", "caller_hangup")
    assert "ended_at" in data
    assert session(wire, sid)["to"] == "+1"


# -- the rules of all mutations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*MUTATIONS, "session.delete"])
def test_another_epoch_is_fenced_and_changes_nothing(wire: Wire, sid: str, method: str) -> None:
    before = wire.document(sid)
    params = MUTATIONS.get(method, {})
    assert refused(wire, "fenced", method, session_id=sid, epoch=1, **params)["epoch"] == 0
    refused(wire, "fenced", "session.save", session={"id": sid}, epoch=1)
    assert wire.document(sid) == before
    wire.call(method, session_id=sid, epoch=0, **params)


@pytest.mark.parametrize("method", MUTATIONS)
def test_of_a_session_that_does_not_exist_is_not_found(wire: Wire, method: str) -> None:
    refused(wire, "not_found", method, session_id=new_id(), **MUTATIONS[method])


@pytest.mark.parametrize("method", MUTATIONS)
def test_a_repeated_op_gets_the_first_result_and_is_done_once(wire: Wire, sid: str, method: str) -> None:
    first = wire.call(method, session_id=sid, op="w1-1", **MUTATIONS[method])
    after = wire.document(sid)
    assert wire.call(method, session_id=sid, op="w1-1", **MUTATIONS[method]) == first
    assert wire.document(sid) == after
    wire.call("session.add_turn", session_id=sid, turn=turn("user", "later"))
    assert wire.call(method, session_id=sid, op="w1-1", **MUTATIONS[method]) == first


def test_a_repeated_save_gets_the_first_result_though_it_was_create_only(wire: Wire) -> None:
    sid = new_id()
    first = wire.call("session.save", session={"id": sid}, if_version=0, op="w1-1")
    wire.call("session.add_turn", session_id=sid, turn={})
    assert wire.call("session.save", session={"id": sid, "history": []}, if_version=0, op="w1-1") == first
    assert load(wire, sid)["turn_count"] == 1


def test_the_last_16_ops_are_kept(wire: Wire, sid: str) -> None:
    def add(op: int) -> int:
        count: int = wire.call("session.add_turn", session_id=sid, turn={}, op=f"w-{op}")["turn_count"]
        return count

    assert [add(op) for op in range(17)] == list(range(3, 20))
    assert [add(op) for op in range(1, 17)] == list(range(4, 20))  # repeats
    assert add(0) == 20  # forgotten: done again


@pytest.mark.parametrize("op", ["", "x" * 65, "é" * 33])
def test_an_op_has_1_to_64_bytes(wire: Wire, sid: str, op: str) -> None:
    assert refused(wire, "invalid_params", "session.record_interruption", session_id=sid, op=op)["path"] == (
        "$.params.op"
    )


def test_a_refused_mutation_leaves_its_op_free(wire: Wire, sid: str) -> None:
    refused(wire, "invalid_params", "session.add_turn", session_id=sid, turn={"role": 5}, op="w1-1")
    assert wire.call("session.add_turn", session_id=sid, turn={}, op="w1-1")["turn_count"] == 3


@pytest.mark.system
def test_versions_ops_and_sessions_outlive_the_daemon() -> None:
    with Daemon() as daemon:
        with Wire(daemon.socket) as wire:
            wire.call("session.save", session={"id": "a", "status": "active"}, labels={"app": "sales"}, op="s")
            turned = wire.call("session.add_turn", session_id="a", turn=turn("user", "hi"), op="t")
            wire.call("session.save", session={"id": "b"})
            ended = wire.call("session.end", session_id="b", reason="bye", detail=[1], op="e")
            wire.call("session.save", session={"id": "c"})
            wire.call("session.delete", session_id="c")
            before = [load(wire, session_id) for session_id in "ab"]
        daemon.kill()
        daemon.start()
        with Wire(daemon.socket) as wire:
            assert [load(wire, session_id) for session_id in "ab"] == before
            refused(wire, "not_found", "session.load", session_id="c")
            assert wire.call("session.add_turn", session_id="a", turn=turn("user", "hi"), op="t") == turned
            assert wire.call("session.end", session_id="b", reason="bye", op="e") == ended
            assert wire.call("session.add_turn", session_id="a", turn={})["version"] > turned["version"]
            assert load(wire, "a")["turn_count"] == 2
