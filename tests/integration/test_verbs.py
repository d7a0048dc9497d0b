"""What each method does, over the wire, against a real daemon."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.daemon import Daemon
from support.documents import GO_DOCUMENTS, go_document
from support.wire import Refused, Wire, request

_serial = itertools.count()


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon() as running:
        yield running


@pytest.fixture
def wire(daemon: Daemon) -> Iterator[Wire]:
    with Wire(daemon.socket) as connection:
        yield connection


@pytest.fixture
def sid(wire: Wire) -> str:
    """A session with two turns."""
    session_id = new_id()
    wire.call(
        "session.save",
        session={
            "id": session_id,
            "provider": "twilio",
            "status": "active",
            "history": [turn("agent", "Hello?"), turn("user", "Hi.")],
            "metrics": {"turn_count": 2},
            "recovery_data": {"node": "greeting", "retries": 2},
            "campaign": "spring",
        },
        labels={"app": "sales"},
    )
    return session_id


def new_id() -> str:
    return f"call-{next(_serial)}"


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, "timestamp": "2026-05-01T12:00:00Z", "duration_ms": 100, **more}


def load(wire: Wire, session_id: str, **params: Any) -> dict[str, Any]:
    result: dict[str, Any] = wire.call("session.load", session_id=session_id, **params)
    return result


def session(wire: Wire, session_id: str) -> dict[str, Any]:
    result: dict[str, Any] = load(wire, session_id)["session"]
    return result


def contents(wire: Wire, session_id: str) -> list[str]:
    return [said["content"] for said in session(wire, session_id)["history"]]


def refused(wire: Wire, kind: str, method: str, **params: Any) -> dict[str, Any]:
    """Asserts that a request is refused so; gives the error's data."""
    with pytest.raises(Refused) as caught:
        wire.call(method, **params)
    assert caught.value.kind == kind, caught.value
    return caught.value.data


# -- save -----------------------------------------------------------------------------------------------------


def test_create_only_conflicts_with_what_exists_and_says_its_version(wire: Wire) -> None:
    sid = new_id()
    version = wire.call("session.save", session={"id": sid}, if_version=0)["version"]
    assert refused(wire, "conflict", "session.save", session={"id": sid}, if_version=0)["version"] == version


def test_create_only_is_possible_again_after_a_delete(wire: Wire) -> None:
    sid = new_id()
    wire.call("session.save", session={"id": sid}, if_version=0)
    wire.call("server.flush")
    wire.call("session.delete", session_id=sid)
    wire.call("session.save", session={"id": sid, "provider": "sip"}, if_version=0)
    wire.call("server.flush")
    assert session(wire, sid)["provider"] == "sip"


def test_a_save_with_the_present_version_is_taken_once(wire: Wire, sid: str) -> None:
    version = load(wire, sid)["version"]
    after = wire.call("session.save", session={"id": sid}, if_version=version)["version"]
    assert after > version
    assert refused(wire, "conflict", "session.save", session={"id": sid}, if_version=version)["version"] == after


def test_a_version_of_a_session_that_does_not_exist_is_a_conflict(wire: Wire) -> None:
    assert refused(wire, "conflict", "session.save", session={"id": new_id()}, if_version=5)["version"] == 0


def test_a_save_with_an_epoch_of_a_session_that_does_not_exist_is_not_found(wire: Wire) -> None:
    refused(wire, "not_found", "session.save", session={"id": new_id()}, epoch=0)


def test_a_save_without_history_keeps_it(wire: Wire, sid: str) -> None:
    wire.call("session.save", session={"id": sid, "status": "on_hold"})
    after = load(wire, sid)
    assert [said["content"] for said in after["session"]["history"]] == ["Hello?", "Hi."]
    assert (after["session"]["status"], after["turn_count"]) == ("on_hold", 2)


@pytest.mark.parametrize("empty", [None, []])
def test_a_save_with_an_empty_history_empties_it(wire: Wire, sid: str, empty: list[Any] | None) -> None:
    wire.call("session.save", session={"id": sid, "history": empty})
    assert (session(wire, sid)["history"], load(wire, sid)["turn_count"]) == ([], 0)


def test_a_longer_history_appends_and_another_one_replaces(wire: Wire, sid: str) -> None:
    said = session(wire, sid)["history"]
    wire.call("session.save", session={"id": sid, "history": [*said, turn("agent", "How can I help?")]})
    assert contents(wire, sid) == ["Hello?", "Hi.", "How can I help?"]
    wire.call("session.save", session={"id": sid, "history": [turn("agent", "Hello!"), *said[1:]]})
    assert contents(wire, sid) == ["Hello!", "Hi."]
    wire.call("session.save", session={"id": sid, "history": said[:1]})
    assert contents(wire, sid) == ["Hello?"]


def test_a_bad_turn_behind_the_kept_history_is_named_by_its_place(wire: Wire, sid: str) -> None:
    said = session(wire, sid)["history"]
    data = refused(wire, "invalid_params", "session.save", session={"id": sid, "history": [*said, {}, {"role": 5}]})
    assert data["path"] == "$.params.session.history[3].role"
    assert contents(wire, sid) == ["Hello?", "Hi."]


def test_a_save_replaces_the_head_and_keeps_what_is_beside_it(wire: Wire, sid: str) -> None:
    before = load(wire, sid)
    wire.call("session.save", session={"id": sid, "to": "+15550100"})
    after = load(wire, sid)
    assert after["labels"] == {"app": "sales"}
    head = after["session"]
    assert (head["to"], head["provider"], head["status"]) == ("+15550100", "", "pending")
    assert "recovery_data" not in head
    assert "campaign" not in head
    assert head["created_at"] == before["session"]["created_at"]


def test_a_save_sets_updated_at_whatever_the_document_says(wire: Wire) -> None:
    sid = new_id()
    saved = wire.call("session.save", session={"id": sid, "updated_at": "2001-01-01T00:00:00Z"})
    assert session(wire, sid)["updated_at"] == saved["updated_at"] > "2026"


@pytest.mark.parametrize("name", GO_DOCUMENTS)
def test_documents_that_go_writes_come_back_as_they_were(wire: Wire, name: str) -> None:
    sid = new_id()
    document = json.loads(go_document(name, sid.encode()))
    wire.call("session.save", session=document)
    back = session(wire, sid)
    assert back | {"updated_at": None} == document | {"updated_at": None, "history": document["history"] or []}


@pytest.mark.parametrize("status", ["ringing", "", "ENDED", "é" * 32])
def test_any_short_word_is_a_status_and_only_ended_is_not_active(wire: Wire, status: str) -> None:
    sid = new_id()
    wire.call("session.save", session={"id": sid, "status": status})
    assert session(wire, sid)["status"] == status
    assert sid in wire.call("session.list_active", limit=10_000)["session_ids"]
    wire.call("session.end", session_id=sid)
    assert sid not in wire.call("session.list_active", limit=10_000)["session_ids"]


@pytest.mark.parametrize("name", ["status", "provider", "direction"])
def test_words_have_64_bytes_at_most(wire: Wire, name: str) -> None:
    wire.call("session.save", session={"id": new_id(), name: "x" * 64})
    for long in ("x" * 65, "é" * 33):
        data = refused(wire, "invalid_params", "session.save", session={"id": new_id(), name: long})
        assert data["path"] == f"$.params.session.{name}"


def test_labels_are_replaced_as_a_whole_and_may_be_emptied(wire: Wire, sid: str) -> None:
    wire.call("session.save", session={"id": sid}, labels={"lang": "en", "tier": ""})
    assert load(wire, sid)["labels"] == {"lang": "en", "tier": ""}
    wire.call("session.save", session={"id": sid}, labels={})
    assert load(wire, sid)["labels"] == {}


def test_labels_have_limits(wire: Wire, sid: str) -> None:
    wire.call("session.save", session={"id": sid}, labels={f"l{n}": "x" for n in range(16)})
    most = {"n" * 64: "v" * 256}
    wire.call("session.save", session={"id": sid}, labels=most)
    for labels in ({f"l{n}": "x" for n in range(17)}, {"n" * 65: "v"}, {"n": "v" * 257}, {"": "v"}, {"é" * 33: ""}):
        data = refused(wire, "invalid_params", "session.save", session={"id": sid}, labels=labels)
        assert data["path"].startswith("$.params.labels")
    assert load(wire, sid)["labels"] == most


# -- load -----------------------------------------------------------------------------------------------------


def test_load_gives_all_none_or_the_last_turns(wire: Wire) -> None:
    sid = new_id()
    wire.call("session.save", session={"id": sid})
    for number in range(100):
        wire.call("session.add_turn", session_id=sid, turn=turn("user", str(number)))
    whole = load(wire, sid)
    assert whole == load(wire, sid, history="all") == load(wire, sid, history=100) == load(wire, sid, history=10**9)
    assert (whole["history_from"], whole["turn_count"]) == (0, 100)
    for count in (0, 1, 31, 32, 33, 99):
        part = load(wire, sid, history=count)
        assert part["session"]["history"] == whole["session"]["history"][100 - count :]
        assert (part["history_from"], part["turn_count"]) == (100 - count, 100)
    none = load(wire, sid, history="none")
    assert "history" not in none["session"]
    assert (none["history_from"], none["turn_count"]) == (0, 100)


# -- turns ----------------------------------------------------------------------------------------------------


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


def test_no_turns_is_no_error(wire: Wire, sid: str) -> None:
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


# -- update ---------------------------------------------------------------------------------------------------


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
def test_what_an_update_makes_must_be_a_session(wire: Wire, sid: str, patch: Any, path: str) -> None:
    before = wire.document(sid)
    assert refused(wire, "invalid_params", "session.update", session_id=sid, set=patch)["path"] == path
    assert wire.document(sid) == before


def test_an_update_with_an_old_version_is_a_conflict(wire: Wire, sid: str) -> None:
    version = load(wire, sid)["version"]
    after = wire.call("session.update", session_id=sid, set={"to": "+1"}, if_version=version)["version"]
    data = refused(wire, "conflict", "session.update", session_id=sid, set={"to": "+2"}, if_version=version)
    assert data["version"] == after
    refused(wire, "conflict", "session.update", session_id=sid, set={"to": "+2"}, if_version=0)
    assert session(wire, sid)["to"] == "+1"


# -- the rules of all mutations ---------------------------------------------------------------------------------

MUTATIONS: dict[str, dict[str, Any]] = {
    "session.add_turn": {"turn": {"role": "user", "content": "x"}},
    "session.amend_turn": {"set": {"content": "y"}},
    "session.record_interruption": {},
    "session.update": {"set": {"to": "+1"}},
    "session.end": {"reason": "done"},
}


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


# -- the end --------------------------------------------------------------------------------------------------


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
def test_what_a_worker_ended_is_completed_and_takes_all_but_beats(
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
def test_a_late_word_on_the_status_of_what_has_ended_is_refused(wire: Wire, sid: str, status: str | None) -> None:
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


# -- heartbeats -----------------------------------------------------------------------------------------------


def test_a_beat_raises_updated_at_and_not_the_version(wire: Wire, sid: str) -> None:
    before = load(wire, sid)
    wire.call("session.heartbeat", session_id=sid)
    after = load(wire, sid)
    assert after["session"]["updated_at"] > before["session"]["updated_at"]
    assert after["version"] == before["version"]


def test_a_beat_of_nobody_is_not_found(wire: Wire) -> None:
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


# -- listings: a daemon of their own, for what others left would be listed too ------------------------------------


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


# -- server ---------------------------------------------------------------------------------------------------


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


# -- what is no longer in memory --------------------------------------------------------------------------------


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
