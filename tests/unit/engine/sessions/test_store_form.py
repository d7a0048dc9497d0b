"""A session's form in the store: what is written, and what is made of what is read."""

from __future__ import annotations

import json

import pytest

from callstate_client.engine.sessions.store_form import session_of, write_of
from callstate_client.engine.sessions.stored import StoredMeta, StoredSession
from callstate_client.errors import UnreadableError
from callstate_client.model.times import MAX_US
from support.core import HOST, kept
from support.documents import GO_DOCUMENTS, go_document
from support.sessions import full_session


def test_a_session_is_read_back_as_it_was_written() -> None:
    session = full_session()
    write = write_of(session, HOST)
    back = session_of("a", StoredSession(write.document, write.meta, write.beat_ms), HOST)
    assert back is not None
    assert kept(back) == kept(session)
    assert back.stored_version == session.version
    assert back.host is None
    assert not back.journaled


def test_an_ended_session_is_not_active_in_the_store() -> None:
    session = full_session()
    assert write_of(session, HOST).active is False
    session.doc.status = "on_hold"
    assert write_of(session, HOST).active is True


def test_a_session_of_another_host_names_that_host() -> None:
    write = write_of(full_session(), "other")
    back = session_of("a", StoredSession(write.document, write.meta), HOST)
    assert back is not None
    assert back.host == "other"


def test_the_status_before_is_stored_of_reaped_sessions_only() -> None:
    session = full_session()
    session.change_facts(status_before="on_hold")
    assert write_of(session, HOST).meta.status_before == "on_hold"
    session.change_facts(reaped=False)
    assert write_of(session, HOST).meta.status_before == ""


@pytest.mark.parametrize(
    ("foreign_stamp", "ended_at", "status"),
    [(b"", "", "on_hold"), (b"2:{}", "", "ended"), (b"", "2026-01-02T03:04:05Z", "ended")],
)
def test_a_session_that_was_revived_lives_before_its_document_says_so(
    foreign_stamp: bytes, ended_at: str, status: str
) -> None:
    write = write_of(full_session(), "other")
    meta = StoredMeta(host="other", epoch=1 << 20, version=9, status_before="on_hold", ended_at=ended_at)
    back = session_of("a", StoredSession(write.document, meta, foreign_stamp=foreign_stamp), HOST)
    assert back is not None
    assert (back.doc.status, back.facts.status_before) == (status, "")


@pytest.mark.parametrize("name", GO_DOCUMENTS)
def test_a_document_of_the_go_package_has_no_host_but_a_version(name: str) -> None:
    data = go_document(name)
    back = session_of("go-1", StoredSession(data, None, 0), HOST)
    assert back is not None
    assert back.host == ""
    # 0 means that there is none: a save that only creates would overwrite it
    assert back.version >= 1
    assert back.stored_version == back.version
    assert back.doc.turn_count == len(json.loads(data)["history"] or [])
    json.loads(back.doc.to_json(back.updated_us))


def test_another_write_of_the_go_package_has_a_later_version() -> None:
    data = go_document("plain")
    later = data.replace(b"10:00:03.5Z", b"10:00:03.500001Z")
    versions = [session_of("go-1", StoredSession(text, None), HOST) for text in (data, later)]
    assert versions[0] is not None
    assert versions[1] is not None
    assert versions[1].version > versions[0].version


def test_a_tombstone_is_no_session() -> None:
    assert session_of("a", StoredSession(None, StoredMeta(host=HOST, deleted=True)), HOST) is None


def test_a_document_that_is_no_session_is_unreadable() -> None:
    with pytest.raises(UnreadableError):
        session_of("a", StoredSession(b"[]", None), HOST)


def test_a_heartbeat_beyond_the_year_9999_is_bounded() -> None:
    back = session_of("a", StoredSession(b'{"id":"a"}', None, 10**18), HOST)
    assert back is not None
    assert back.beat_us == MAX_US
    json.loads(back.doc.to_json(back.updated_us))


@pytest.mark.parametrize("updated", ["0001-01-01T00:00:00Z", "0000-02-29T00:00:00Z", "1969-12-31T23:59:59.5+01:00"])
def test_a_time_before_1970_is_not_later_than_itself_without_a_heartbeat(updated: str) -> None:
    document = b'{"id":"a","updated_at":"%b"}' % updated.encode()
    back = session_of("a", StoredSession(document, None, 0), HOST)
    assert back is not None
    assert json.loads(back.doc.to_json(back.updated_us))["updated_at"] == updated
    beaten = session_of("a", StoredSession(document, None, 1000), HOST)
    assert beaten is not None
    assert json.loads(beaten.doc.to_json(beaten.updated_us))["updated_at"] == "1970-01-01T00:00:01Z"


def test_a_document_that_does_not_say_when_it_was_changed_has_the_zero_time() -> None:
    back = session_of("a", StoredSession(b'{"id":"a"}', None, 0), HOST)
    assert back is not None
    assert json.loads(back.doc.to_json(back.updated_us))["updated_at"] == "0001-01-01T00:00:00Z"


DELETED_US = 1_767_225_600_000_000  # 2026-01-01


@pytest.mark.parametrize(
    ("created", "found"),
    [
        ("2025-12-31T23:59:59Z", False),  # before the deletion: read before it, and written back
        ("2026-01-01T00:00:01Z", True),  # a new call under the id
        ("0001-01-01T00:00:00Z", True),  # not said
    ],
)
def test_a_document_written_back_over_a_deletion_stays_deleted(created: str, found: bool) -> None:
    document = b'{"id":"a","status":"active","created_at":"%b"}' % created.encode()
    stored = StoredSession(document, StoredMeta(host=HOST, version=DELETED_US), tombstone=DELETED_US)
    back = session_of("a", stored, HOST)
    assert (back is not None) is found
