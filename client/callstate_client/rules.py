"""What the daemon checks at its door beyond the types, for the engine that stands in for it."""

from __future__ import annotations

from callstate_client import ids
from callstate_client.errors import DocumentError, InvalidParamsError
from callstate_client.history import Turn
from callstate_client.model import SessionState


def wrong(path: str, expected: str) -> InvalidParamsError:
    """The error for a param that is not what belongs there."""
    return InvalidParamsError(f"expected {expected} at {path}", path=path, expected=expected)


def check_word(text: str | None, path: str, least: int = 0) -> None:
    """A word of at most 64 bytes."""
    if text is not None and not least <= len(text.encode()) <= ids.MAX_NAME_BYTES:
        raise wrong(path, f"{least} to {ids.MAX_NAME_BYTES} bytes")


def check_labels(labels: dict[str, str]) -> None:
    """Labels within their bounds."""
    if len(labels) > ids.MAX_LABELS:
        raise wrong("$.params.labels", f"at most {ids.MAX_LABELS}")
    for name, value in labels.items():
        check_word(name, f"$.params.labels.{name}", least=1)
        if len(value.encode()) > ids.MAX_LABEL_VALUE_BYTES:
            raise wrong(f"$.params.labels.{name}", f"at most {ids.MAX_LABEL_VALUE_BYTES} bytes")


def check_state(state: SessionState) -> None:
    """What the daemon checks at its door, beyond the types."""
    if not ids.is_session_id(state.id):
        raise wrong("$.params.session.id", ids.SESSION_ID_RULE)
    for name in ("provider", "direction", "status"):
        check_word(getattr(state, name), f"$.params.session.{name}")
    try:
        _ = state.created_at, state.updated_at
        for turn in state.history:
            check_turn(turn)
    except DocumentError as error:
        raise InvalidParamsError(str(error), path="$.params.session", expected="a session") from error
    except ValueError as error:
        raise wrong("$.params.session", "RFC 3339 times") from error


def check_turn(turn: Turn) -> None:
    """What the daemon checks of a turn, beyond the types."""
    check_word(turn.role, "$.params.turn.role")
    try:
        _ = turn.timestamp
    except ValueError as error:
        raise wrong("$.params.turn.timestamp", "RFC 3339 time") from error
