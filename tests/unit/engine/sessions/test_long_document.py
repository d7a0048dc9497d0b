"""Long documents of a store, read in steps: the same as when read at once, however they are written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from callstate_client.engine.sessions import long_document
from callstate_client.engine.sessions.long_document import PIECE_BYTES
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.store_form import session_in_steps
from callstate_client.engine.sessions.stored import StoredSession
from callstate_client.errors import UnreadableError

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
    "ours": (written(*OURS, recovery_data={"node": "menu"}), True),
    "Go's": (written(*GOS, recovery_data={"node": "menu"}), True),
    "with another history": (written(*OURS, recovery_data=RECOVERY), True),
    "Go's, with another history": (written(*GOS, recovery_data=RECOVERY), True),
    "long texts": (written(*OURS, history=turns(8, '{"a":[{' * 9000), recovery_data={}), True),
    "quotes": (written(*OURS, history=turns(400, '"\\' * 300), recovery_data={}), True),
    "not ASCII": (written(*OURS, history=turns(content="é😀"), recovery_data={}), True),
    "odd names": (written(*OURS, history=[{"Role": "user", "x": [1, {}], "content": "y" * 100}] * MANY,
                          recovery_data={}), True),
    "with spaces": (written(*OURS, separators=(", ", ": "), recovery_data={}), False),
    "two histories": (written(*OURS, recovery_data={})[:-1] + b',"history":null}', False),
    "a second one in upper case": (written(*OURS, recovery_data={})[:-1] + b',"HISTORY":[]}', False),
    "history first": (written("history", "id", "status"), False),
    "no turns": (written(*OURS, history=[], recovery_data={"x": "y" * 300_000}), False),
    "no history": (written("id", "status", "recovery_data", recovery_data={"x": "y" * 300_000}), False),
}  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_read_in_steps_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    document, in_steps = DOCUMENTS[name]
    session, steps = read(document)
    expected = read_at_once(document, monkeypatch).doc
    doc = session.doc
    assert doc.to_json(0) == expected.to_json(0)
    assert (doc.turn_count, doc.history_bytes) == (expected.turn_count, expected.history_bytes)
    if in_steps:
        assert steps > len(document) // PIECE_BYTES
        assert sum(doc.counts) == doc.turn_count
        assert max(map(len, doc.chunks)) <= PIECE_BYTES + 300 or name == "long texts"


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
