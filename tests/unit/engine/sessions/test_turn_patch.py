"""A long patch of a turn is judged and applied in steps as it is at once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw

from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.head import head_of
from callstate_client.engine.sessions.json_steps import PIECE_BYTES
from callstate_client.engine.sessions.steps import finished
from callstate_client.engine.sessions.turn_patch import amended_turn, changes_in_steps
from callstate_client.engine.sessions.turn_search import find_turn
from callstate_client.errors import WireError
from callstate_client.model import documents

LONG = "\n" * 100_000
TURN = {
    "role": "agent", "content": "hello", "timestamp": "2026-01-01T00:00:00Z", "duration_ms": 1,
    "tool": {"name": "menu", "input": {"x": 1}},
}  # fmt: skip

PATCHES: dict[str, Any] = {
    "a text": {"content": LONG},
    "a text and others": {"content": LONG, "role": "user", "duration_ms": 7, "seen": [1, {"x": None}]},
    "a removal": {"content": LONG, "tool": None, "none": None},
    "a null of ours": {"more": LONG, "content": None},
    "a nested text": {"tool": {"input": {"x": LONG, "y": None}}},
    "an array": {"tool": [LONG, LONG]},
    "a long name": {LONG: "x"},
    "not ASCII": {"content": "\u00e9" * 100_000},
    "no escapes": {"content": "x" * 100_000},
}
WRONG: dict[str, Any] = {
    "a role": {"content": LONG, "role": 7},
    "a long role": {"role": LONG},
    "another spelling": {"content": LONG, "Role": "user"},
    "a time": {"content": LONG, "timestamp": "soon"},
    "a number": {"x": [LONG, 2**63]},
    "no object": [LONG],
    "an object for a text": {"content": {"x": LONG}},
}


def a_document() -> Document:
    doc = Document(head_of(documents.read(b'{"id":"a"}')), 0)
    doc.append(json.dumps(TURN).encode(), 1)
    return doc


def patch_of(value: Any) -> Raw:
    return Raw(json.dumps(value).encode())


@pytest.mark.parametrize("name", PATCHES)
def test_the_turn_is_the_same(name: str) -> None:
    doc, patch = a_document(), patch_of(PATCHES[name])
    place = find_turn(doc, None)
    changes = finished(changes_in_steps(patch, "$.set"))
    assert json.loads(amended_turn(place.text, changes, "$.set")) == json.loads(
        amended_turn(place.text, patch, "$.set")
    )


@pytest.mark.parametrize("name", WRONG)
def test_it_is_refused_for_the_same_reason(name: str) -> None:
    doc, patch = a_document(), patch_of(WRONG[name])
    with pytest.raises(WireError) as at_once:
        amended_turn(find_turn(doc, None).text, patch, "$.set")
    with pytest.raises(WireError) as in_steps:
        finished(changes_in_steps(patch, "$.set"))
    assert type(in_steps.value) is type(at_once.value)
    assert in_steps.value.data == at_once.value.data


def test_a_long_text_takes_many_steps() -> None:
    assert sum(1 for _ in changes_in_steps(patch_of({"content": LONG * 4}), "$.set")) > 800_000 // PIECE_BYTES
