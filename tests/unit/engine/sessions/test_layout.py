"""Documents in the store: a patch makes exactly the document that a whole write would."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.head import read_head
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.store_form import write_of
from callstate_client.engine.sessions.turn_search import find_turn
from callstate_client.engine.sessions.writes import Patch, Whole
from support.clock import START_US
from support.core import HOST, TIME
from support.patches import length_of

TURN = b'{"role":"user","content":"%b"}'


def a_session(turns: int) -> Session:
    head = read_head(b'{"id":"a","status":"active","recovery_data":{"node":"greet"}}', "$", lambda _: TIME)
    session = Session("a", Document(head, START_US))
    for number in range(turns):
        session.doc.append(TURN % b"%d" % number, 1)
    session.next_version(START_US)
    return session


def written(session: Session, stored: bytes = b"") -> bytes:
    """The store's document after the session's next write, which the session learns."""
    write = write_of(session, HOST)
    document = write.apply(stored) if isinstance(write, Patch) else write.document
    assert document is not None
    assert write.result is not None
    assert len(document) == length_of(write.result)
    assert json.loads(document) == json.loads(session.doc.to_json(session.doc.updated_us))
    session.in_store = write.result
    session.stored_version = session.version
    return document


def a_turn_later(session: Session, turn: bytes = TURN % b"next") -> None:
    session.doc.append(turn, 1)
    session.doc.updated_us += 1_234_567
    session.next_version(START_US)


@pytest.mark.parametrize("turns", [0, 1, 40, 300])
def test_a_turn_is_written_for_what_it_adds(turns: int) -> None:
    session = a_session(turns)
    stored = written(session)
    for _ in range(70):  # chunks of the history are folded meanwhile
        a_turn_later(session)
        write = write_of(session, HOST)
        assert isinstance(write, Patch)
        assert write.size == len(write.head) + len(write.turns) < 400
        stored = written(session, stored)


def test_unchanged_fields_are_not_sent() -> None:
    session = a_session(3)
    written(session)
    a_turn_later(session)
    write = write_of(session, HOST)
    assert isinstance(write, Patch)
    assert b"greet" not in write.head + write.turns


@pytest.mark.parametrize("status", ["pending", "transferring", "x" * 20])
def test_a_head_that_fits_its_room_is_written_in_place(status: str) -> None:
    session = a_session(3)
    stored = written(session)
    session.doc.status = status
    assert isinstance(write_of(session, HOST), Patch)
    written(session, stored)


def amended(session: Session) -> None:
    session.doc.replace_turn(find_turn(session.doc, -1), TURN % b"amended")


def saved_anew(session: Session) -> None:
    session.doc.replace_history(b",".join(session.doc.chunks), 3)


def outgrown(session: Session) -> None:
    session.doc.status = "x" * 200


def ended(session: Session) -> None:
    session.doc.status = "ended"


def recalled(session: Session) -> None:
    session.doc.call_id = "CA2"


def unverified(session: Session) -> None:
    session.base = session.based_on_this()


@pytest.mark.parametrize("change", [amended, saved_anew, outgrown, ended, recalled, unverified])
def test_a_change_that_does_not_fit_is_written_whole(change: object) -> None:
    session = a_session(3)
    written(session)
    change(session)  # type: ignore[operator]
    session.next_version(START_US)
    assert isinstance(write_of(session, HOST), Whole)
    written(session)


def test_a_change_that_was_undone_is_not_in_a_patch() -> None:
    session = a_session(3)
    stored = written(session)
    mark = session.mark()
    amended(session)
    a_turn_later(session)
    session.restore(mark)
    a_turn_later(session, TURN % b"kept")
    assert isinstance(write_of(session, HOST), Patch)
    assert b'"kept"' in written(session, stored)


STEPS = st.lists(
    st.tuples(st.sampled_from(["turn", "turns", "amend", "status", "fields", "write"]), st.integers(0, 400)),
    max_size=30,
)


@given(STEPS)
def test_any_changes_in_any_order(steps: list[tuple[str, int]]) -> None:
    session = a_session(0)
    stored = written(session)
    for step, size in steps:
        if step == "turn":
            a_turn_later(session, TURN % (b"t" * size))
        elif step == "turns":
            session.doc.append(b",".join([TURN % (b"m" * size)] * 3), 3)
        elif step == "amend" and session.doc.turn_count:
            session.doc.replace_turn(find_turn(session.doc, size % session.doc.turn_count), TURN % (b"a" * size))
        elif step == "status":
            session.doc.status = "s" * (1 + size % 60)
        elif step == "fields":
            session.doc.fields = b'"id":"a","created_at":"2026-01-01T00:00:00Z","recovery_data":{"x":"%b"}' % (
                b"r" * (size % 100)
            )
        else:
            session.next_version(START_US)
            stored = written(session, stored)
    session.next_version(START_US)
    written(session, stored)
