"""`session.update`: a merge patch of a session's head, against the pseudocode of RFC 7396.

Input: the session's JSON, a newline, the patch.
"""

from __future__ import annotations

from msgspec import Raw

from callstate_client.engine.sessions.head import read_head
from callstate_client.engine.sessions.head_patch import checked_patch, patched_head
from callstate_client.errors import ParseError, WireError
from fuzz import reference
from fuzz.documents import TIME, check_document, document_of, member, saved

PATH = "$.params.set"


def check(data: bytes) -> None:
    """Save one session, and patch it."""
    first, _, second = data.partition(b"\n")
    session, patch = member(first), member(second)
    if session is None or patch is None:
        return
    try:
        document = document_of(read_head(session, "$", lambda _: TIME))
        changes, history = reference.read(patch), _history(session)
    except (WireError, reference.NotJson, reference.TooDeep):
        return
    before = reference.read(document.head_json(document.updated_us))
    try:
        head = patched_head(document, checked_patch(Raw(patch), PATH), PATH)
    except ParseError as refused:
        if reference.passes_limits(patch, above=2):
            raise AssertionError(f"JSON, refused as {refused}") from refused
        return
    except WireError:
        return
    expected = {"created_at": before["created_at"]} | reference.merged(before, changes) | {"history": history}
    document.take_head(head, document.updated_us)
    check_document(document, saved(expected))


def _history(session: bytes) -> object:
    return reference.read(session).get("history")
