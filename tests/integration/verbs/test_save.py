"""What a save does, and what a load gives, over the wire, against a real daemon."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.calls import contents, load, new_id, refused, session, turn
from support.documents import GO_DOCUMENTS, go_document
from support.wire import Wire

# -- save ---------------------------------------------------------------------------------------------------------


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


# -- load ---------------------------------------------------------------------------------------------------------


def test_load_gives_all_none_or_the_last_turns(wire: Wire) -> None:
    sid = new_id()
    wire.call("session.save", session={"id": sid})
    for number in range(100):
        wire.call("session.add_turn", session_id=sid, turn=turn("user", str(number)))
    whole = load(wire, sid)
    for history in ("all", 100, 2**63 - 1):
        assert load(wire, sid, history=history) == whole
    assert (whole["history_from"], whole["turn_count"]) == (0, 100)
    for count in (0, 1, 31, 32, 33, 99):
        part = load(wire, sid, history=count)
        assert part["session"]["history"] == whole["session"]["history"][100 - count :]
        assert (part["history_from"], part["turn_count"]) == (100 - count, 100)
    none = load(wire, sid, history="none")
    assert "history" not in none["session"]
    assert (none["history_from"], none["turn_count"]) == (0, 100)
