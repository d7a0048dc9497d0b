"""Finding turns in a history: by index, as the last one of a role, and in steps."""

from __future__ import annotations

import pytest

from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.head import head_of
from callstate_client.engine.sessions.turn_search import find_turn, without_role
from callstate_client.errors import ConflictError
from callstate_client.model import documents

EMPTY = b'{"id":"a"}'


def roles(*chunks: str) -> Document:
    """A document with turns of these roles, a letter a turn."""
    doc = Document(head_of(documents.read(EMPTY)), 0)
    for chunk in chunks:
        doc.append(b",".join(b'{"role":"%b"}' % role.encode() for role in chunk), len(chunk))
    return doc


@pytest.mark.parametrize(
    ("index", "role", "found"),
    [(None, "a", 3), (None, "u", 5), (None, "s", 0), (-1, "u", 5), (3, "a", 3), (-6, "s", 0), (0, None, 0)],
)
def test_a_turn_is_found_by_index_and_role(index: int | None, role: str | None, found: int) -> None:
    assert find_turn(roles("sau", "a", "uu"), index, role).index == found


@pytest.mark.parametrize(("index", "role"), [(6, None), (-7, None), (None, "tool"), (0, "u"), (-1, "a"), (9, "u")])
def test_a_turn_that_is_not_there_is_a_conflict(index: int | None, role: str | None) -> None:
    with pytest.raises(ConflictError):
        find_turn(roles("sau", "a", "uu"), index, role)


@pytest.mark.parametrize("role", [None, "agent"])
def test_amending_without_a_turn_is_a_conflict(role: str | None) -> None:
    with pytest.raises(ConflictError):
        find_turn(roles(), None, role)


def test_a_role_that_no_turn_has_is_looked_for_in_steps_and_once() -> None:
    doc = roles(*["u" * 200] * 20)
    steps = without_role(doc, "nobody")
    for _ in doc.chunks:
        next(steps)
    with pytest.raises(StopIteration) as ended:
        next(steps)
    without = ended.value.value
    assert without == doc.chunks
    with pytest.raises(ConflictError):
        find_turn(doc, None, "nobody", without)
    doc.append(b'{"role":"nobody"}', 1)
    assert find_turn(doc, None, "nobody", without).index == 4000
