"""What a session is expected to be once it was saved, as plain values."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.head import Head
from callstate_client.engine.sessions.validation.turns import check_turns
from callstate_client.errors import DocumentError
from callstate_client.model import documents
from fuzz import reference
from support.go_reader import read_as_go

TIME: Final = "2026-01-01T00:00:00Z"
COUNTERS: Final = ("turn_count", "interruption_count", "user_speech_duration_ms", "agent_speech_duration_ms")
RESPONSES: Final = ("first_response_ms", "average_response_ms")
TEXTS: Final = ("provider", "direction", "from", "to")

_raw = msgspec.json.Decoder(msgspec.Raw).decode


def member(text: bytes) -> bytes | None:
    """A member of a request's params, as the envelope leaves it to a verb; None if the line is refused before."""
    try:
        text.decode()
        return bytes(_raw(text.replace(b"\n", b" ")))
    except (ValueError, RecursionError):
        return None


def document_of(head: Head) -> Document:
    """The document that a save of this head makes.

    Raises:
        InvalidParamsError, ParseError, TooLargeError: of its turns.
    """
    document = Document(head, head.updated_us)
    if head.history:
        turns = check_turns(b"[%b]" % head.history, "$.params.session.history")
        document.replace_history(head.history, len(turns))
    return document


def saved(value: dict[str, Any]) -> dict[str, Any]:
    """What a load returns after a save of this, without `updated_at`."""
    session = dict.fromkeys(TEXTS, "") | {"status": "pending"} | value
    session.pop("updated_at", None)
    session["created_at"] = session.get("created_at") or TIME
    session["history"] = session.get("history") or []
    metrics = dict.fromkeys(COUNTERS, 0) | (session.get("metrics") or {})
    session["metrics"] = {name: count for name, count in metrics.items() if count or name not in RESPONSES}
    for name in ("call_id", "recovery_data"):
        if not session.get(name):
            session.pop(name, None)
    return session


def check_document(document: Document, expected: dict[str, Any]) -> None:
    """Check what is kept: it has these values, and every reader of the store reads it."""
    text = document.to_json(document.updated_us)
    kept = reference.read(text)
    kept.pop("updated_at")
    assert reference.canonical(kept) == reference.canonical(expected), "it is not what was saved"
    read_as_go(text)
    try:
        documents.read_stored(text, kept["id"])
    except DocumentError as error:
        raise AssertionError(f"it can't be read back: {error}") from error
    stored, _ = document.for_store()
    assert reference.canonical(reference.read(stored)) == reference.canonical(reference.read(text)), "the store's"
