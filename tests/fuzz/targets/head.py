"""A session as `session.save` takes it: a save followed by a load returns what the standard json module reads.

Input: the session's JSON.
"""

from __future__ import annotations

import msgspec

from callstate_client.engine.sessions.head import Head, read_head
from callstate_client.engine.sessions.validation.heads import PlainHead
from callstate_client.errors import ParseError, WireError
from fuzz import reference
from fuzz.documents import TIME, check_document, document_of, member, saved

PATH = "$.params.session"
_plain = msgspec.json.Decoder(PlainHead).decode


def check(data: bytes) -> None:
    """Save one session, decoded in one pass and member by member."""
    text = member(data)
    if text is None:
        return
    try:
        head = read_head(text, PATH, lambda _: TIME)
        document = document_of(head)
    except WireError as refused:
        if isinstance(refused, ParseError):
            _check_refusal(text, refused)
        head = None
    else:
        check_document(document, saved(reference.read(text)))
    usual = _usual(text)
    assert usual is None or head is None or usual == head, "both ways of decoding give the same"
    assert usual is None or head is not None or _history_is_bad(usual), "refused, but only member by member"


def _usual(text: bytes) -> Head | None:
    """The head as most requests are decoded; None if this one is not."""
    try:
        return read_head(_plain(text), PATH, lambda _: TIME)
    except (WireError, msgspec.MsgspecError, RecursionError):
        return None


def _history_is_bad(head: Head) -> bool:
    try:
        document_of(head)
    except WireError:
        return True
    return False


def _check_refusal(text: bytes, refused: ParseError) -> None:
    try:
        reference.read(text)
    except (reference.NotJson, reference.TooDeep):
        return
    # the session is the third level of its message
    assert not reference.passes_limits(text, above=2), f"JSON, refused as {refused}"
