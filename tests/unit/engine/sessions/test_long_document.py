"""Long documents of a store, read in steps: the same as when read at once, however they are written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from callstate_client.engine.sessions import long_document
from callstate_client.engine.sessions.long_document import PIECE_BYTES
from callstate_client.engine.sessions.long_members import MEMBERS_A_STEP
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.store_form import session_in_steps
from callstate_client.engine.sessions.stored import StoredSession
from callstate_client.errors import UnreadableError
from callstate_client.model import go_json
from callstate_client.model.go_json import GO_DEPTH, decode_any

TIME = "2026-01-01T00:00:00Z"
MANY = 4000
"""Turns of half a megabyte."""


def turns(number: int = MANY, content: str = "x" * 60) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": f"{content}{i}", "timestamp": TIME, "duration_ms": i} for i in range(number)
    ]


def written(*members: str, history: Any = None, separators: tuple[str, str] = (",", ":"), **others: Any) -> bytes:
    """A document with its members in an order."""
    values = {
        "id": "a", "created_at": TIME, "status": "active", "metrics": {"turn_count": 7},
        "history": turns() if history is None else history, **others,
    }  # fmt: skip
    return json.dumps({name: values[name] for name in members}, separators=separators, ensure_ascii=False).encode()


OURS = ("id", "created_at", "recovery_data", "status", "metrics", "history")
GOS = ("id", "created_at", "status", "history", "metrics", "recovery_data")
LONG_DATA = {str(number): [number, {"menu": ["a", {}]}] for number in range(12_000)}
RECOVERY = {"node": "menu", "history": [{}, {"metrics": {}}], "text": '"history":[{},"metrics":{'}


def read(document: bytes) -> tuple[Session, int]:
    """The session, and in how many steps it was read."""
    steps, number = session_in_steps("a", StoredSession(document, None), "here"), 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value, number
        number += 1


def read_at_once(document: bytes, monkeypatch: pytest.MonkeyPatch) -> Session:
    with monkeypatch.context() as patched:
        patched.setattr(long_document, "LONG_BYTES", len(document))
        session, steps = read(document)
    assert steps == 0
    return session


DOCUMENTS = {
    "ours": written(*OURS, recovery_data={"node": "menu"}),
    "Go's": written(*GOS, recovery_data={"node": "menu"}),
    "with another history": written(*OURS, recovery_data=RECOVERY),
    "Go's, with another history": written(*GOS, recovery_data=RECOVERY),
    "long texts": written(*OURS, history=turns(8, '{"a":[{' * 9000), recovery_data={}),
    "quotes": written(*OURS, history=turns(400, '"\\' * 300), recovery_data={}),
    "not ASCII": written(*OURS, history=turns(content="é😀"), recovery_data={}),
    "odd names": written(*OURS, history=[{"Role": "user", "x": [1, {}], "content": "y" * 100}] * MANY,
                          recovery_data={}),
    "with spaces": written(*OURS, separators=(", ", ": "), recovery_data={}),
    "indented": json.dumps(json.loads(written(*GOS, recovery_data={})), indent=4).encode(),
    "history first": written("history", "id", "status"),
    "names escaped": written(*OURS, recovery_data={}).replace(b'"history"', b'"h\\u0069story"'),
    "names in upper case": written(*OURS, recovery_data={}).replace(b'"history"', b'"HISTORY"'),
    "two histories": written(*OURS, recovery_data={})[:-1] + b',"history":null}',
    "a second one in upper case": written(*OURS, recovery_data={})[:-1] + b',"HISTORY":[]}',
    "two long histories": written(*OURS, recovery_data={})[:-1] + b"," + written("history")[1:],
    "behind long data": written(*OURS, recovery_data=LONG_DATA),
    "before long data": written(*GOS, recovery_data=LONG_DATA),
    "before long data of another's": written(*GOS, "more", recovery_data={}, more=LONG_DATA),
    "long data": written("id", "status", "recovery_data", recovery_data=LONG_DATA),
    "a long string": written(*OURS, history=[], recovery_data={"x": "\n" * 300_000}),
    "a long turn": written(*OURS, history=turns(1, "\n" * 300_000), recovery_data={}),
    "a long turn with others": written(*OURS, history=[{"role": "u", "x": LONG_DATA}, *turns(9)], recovery_data={}),
    "a long turn in upper case": written(*OURS, history=[{"CONTENT": "\n" * 300_000}], recovery_data={}),
    "only spaces": written(*OURS, history=[], recovery_data={})[:-2] + b" " * 300_000 + b"]}",
}  # fmt: skip


CANONICAL = (
    "ours",
    "Go's",
    "with another history",
    "Go's, with another history",
    "quotes",
    "not ASCII",
    "odd names",
)
"""Their histories stay as they are, byte by byte."""


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_read_in_steps_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    document = DOCUMENTS[name]
    session, steps = read(document)
    expected = read_at_once(document, monkeypatch).doc
    doc = session.doc
    assert json.loads(doc.to_json(0)) == json.loads(expected.to_json(0))
    assert doc.turn_count == expected.turn_count
    if name in CANONICAL:
        assert doc.to_json(0) == expected.to_json(0)
        assert doc.history_bytes == expected.history_bytes
    assert steps > len(document) // PIECE_BYTES
    assert sum(doc.counts) == doc.turn_count
    assert max(map(len, doc.chunks), default=0) <= PIECE_BYTES + 300 or "long" in name


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ((b'"duration_ms":3000', b'"duration_ms":"long"'), r"history\[3000\].duration_ms"),
        ((b'2026-01-01T00:00:00Z","duration_ms":3000', b'soon","duration_ms":3000'), r"history\[3000\].timestamp"),
        ((b'"duration_ms":3000}', b'"duration_ms":3000'), "not a session document"),
        ((b'"duration_ms":3000},', b'"duration_ms":3000}},'), "not a session document"),
        ((b'"duration_ms":3000},', b'"duration_ms":3000},,'), "not a session document"),
        ((b'"duration_ms":3000},', b'"duration_ms":3000},7,'), "not a session document"),
        ((b"xxx3000", b"xxx\xff3000"), "utf-8"),
        ((b'"status":"active"', b'"status":5'), "status"),
    ],
)
@pytest.mark.parametrize("order", [OURS, GOS], ids=["ours", "Go's"])
def test_a_damaged_document_is_unreadable(order: tuple[str, ...], damage: tuple[bytes, bytes], what: str) -> None:
    document = written(*order, recovery_data={})
    assert document.count(damage[0]) == 1
    with pytest.raises(UnreadableError, match=what):
        read(document.replace(*damage))


def test_a_document_that_was_not_read_is_unreadable_with_its_length() -> None:
    with pytest.raises(UnreadableError, match="40000000 bytes"):
        read_session = session_in_steps("a", StoredSession(b"", None, unread_bytes=40_000_000), "here")
        next(read_session)


MEMBERS = ",".join(f'"n\\u00{65 + number % 9:02x}{number}":[{number},"x"]' for number in range(30_000)).encode()
"""Unknown members, with escapes in their names."""
AGAIN = b',"first":{"a":[2]},"nA0":"again","first":3'

MANY_MEMBERS = {
    "of the session": b'{"id":"a","first":1,%b,"status":"active"}' % (MEMBERS + AGAIN),
    "of the session, with a long history": b'{"id":"a","first":1,%b,"history":[%b]}'
    % (MEMBERS + AGAIN, b",".join([b"{}"] * 100_000)),
    "of the metrics": b'{"id":"a","metrics":{"turn_count":3,"first":1,%b,"TURN_COUNT":4},"status":"active"}'
    % (MEMBERS + AGAIN),
    "of a turn": b'{"id":"a","history":[{"role":"user","first":1,%b}]}' % (MEMBERS + AGAIN),
    "of a turn, in upper case": b'{"id":"a","history":[{"role":"x","first":1,%b,"ROLE":"user"},{"role":"agent"}]}'
    % (MEMBERS + AGAIN),
    "known ones again": b'{"id":"b","Status":7,%b,"ID":"a","status":"active"}' % MEMBERS,
}


@pytest.mark.parametrize("name", MANY_MEMBERS)
def test_very_many_members_are_read_some_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    document = MANY_MEMBERS[name]
    doc = read(document)[0].doc
    expected = read_at_once(document, monkeypatch).doc
    assert json.loads(doc.to_json(0)) == json.loads(expected.to_json(0))
    sizes: list[int] = []

    def counted(text: bytes) -> Any:
        sizes.append(text.count(b","))
        return decode_any(text)

    monkeypatch.setattr(go_json, "decode_any", counted)
    assert read(document)[1] > 2 * 30_000 // MEMBERS_A_STEP
    assert max(sizes) < 3 * MEMBERS_A_STEP


@pytest.mark.parametrize("number", [0, 15_000, 29_999])
@pytest.mark.parametrize("wrong", [b"[1,]", b"tru", b'"\\ud800"', b'{"a" 1}', b"1e999"])
def test_one_wrong_member_of_very_many_is_found(number: int, wrong: bytes) -> None:
    document = b'{"id":"a",%b,"status":"active"}' % MEMBERS
    value = b'[%d,"x"]' % number
    assert document.count(b":" + value) == 1
    with pytest.raises(UnreadableError):
        read(document.replace(b":" + value, b":" + wrong))


@pytest.mark.parametrize("inside", [b"", b"7", b'"[]"', b'"%b"' % (b"x" * 5000), b'7,"[[",7'])
@pytest.mark.parametrize(
    ("around", "outer"),
    [
        (b'{"id":"a","recovery_data":{"x":%b},"history":[{}]}', 2),
        (b'{"id":"a","x":%b,"history":[{}]}', 1),
        (b'{"id":"a","history":[{"x":%b}]}', 3),
        (b'{"id":"a","metrics":{"x":%b}}', 2),
    ],
)
def test_long_values_may_be_as_deep_as_others(around: bytes, outer: int, inside: bytes) -> None:
    long = b",".join([b'"yyyyyyyyy"'] * 20_000)

    def nested(depth: int) -> bytes:
        deep = depth - outer - 1
        return around % (b"[%b,%b%b%b]" % (long, b"[" * deep, inside, b"]" * deep))

    read(nested(GO_DEPTH))
    with pytest.raises(UnreadableError, match="nested deeper"):
        read(nested(GO_DEPTH + 1))
