"""Checks of what is to be sent, before anything is sent or changed locally.

The daemon checks everything again. The client checks what must fail at the caller and not later: ids, since one bad
id would fail all heartbeats of its message; queued changes, which may not be awaited; and values that JSON would
change without an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from callstate_client.errors import DocumentError, InvalidParamsError
from callstate_client.model import documents, free_values
from callstate_client.model.members import check_turn_names
from callstate_client.model.state import SessionState
from callstate_client.model.turn import Turn
from callstate_client.model.wellformed import check_names
from callstate_client.protocol.ids import (
    MAX_DETAIL_BYTES,
    MAX_LABEL_VALUE_BYTES,
    MAX_LABELS,
    MAX_NAME_BYTES,
    MAX_TEXT_BYTES,
    SESSION_ID_RULE,
    WORKER_ID_RULE,
    is_session_id,
    is_worker_id,
)
from callstate_client.protocol.params import MAX_DEPTH

SURELY_A_WORD: Final = MAX_NAME_BYTES // 4
"""Characters of a text that can't exceed MAX_NAME_BYTES in UTF-8."""

FREE_DEPTH: Final = MAX_DEPTH - 8
"""Deepest nesting of a value that is passed through. Messages add at most seven levels around one (message, result,
sessions, record, session, history, turn), so a value that is accepted fits into all of them."""

IDS_KEPT: Final = 4096
"""Ids whose validity is cached. A worker holds fewer calls, and sends requests for each again and again."""

_is_session_id = lru_cache(IDS_KEPT)(is_session_id)


def check_session_id(session_id: object) -> None:
    """Check a session id.

    Raises:
        InvalidParamsError: it is not valid.
    """
    if not isinstance(session_id, str) or not _is_session_id(session_id):
        raise InvalidParamsError(
            f"not a session id: {session_id!r:.80}", path="$.params.session_id", expected=SESSION_ID_RULE
        )


def check_worker_id(worker_id: object) -> None:
    """Check a worker id.

    Raises:
        InvalidParamsError: it is not valid.
    """
    if not isinstance(worker_id, str) or not is_worker_id(worker_id):
        raise InvalidParamsError(
            f"not a worker id: {worker_id!r:.80}", path="$.params.worker_id", expected=WORKER_ID_RULE
        )


def check_free(value: Any, place: str) -> None:
    """Check a value that is passed through: the daemon must be able to keep it as it is.

    Args:
        value: the value to send.
        place: its name in the error.

    Raises:
        DocumentError: JSON would change it, it is nested deeper than FREE_DEPTH, or has an integer beyond 64 bits.
    """
    free_values.check_free(value, place, FREE_DEPTH, int64=True)


def wrong(path: str, expected: str) -> InvalidParamsError:
    """The error for an invalid param."""
    return InvalidParamsError(f"expected {expected} at {path}", path=path, expected=expected)


def check_word(text: str | None, path: str, least: int = 0) -> None:
    """Check the length of a short string; None passes.

    Args:
        text: the string.
        path: its place in the request.
        least: the fewest bytes allowed.

    Raises:
        InvalidParamsError: it has less than `least` bytes or more than MAX_NAME_BYTES.
    """
    if text is not None and not least <= _size(text, path) <= MAX_NAME_BYTES:
        raise wrong(path, f"{least} to {MAX_NAME_BYTES} bytes")


def check_text(text: str, path: str) -> None:
    """Check the length of a text of the head.

    Raises:
        InvalidParamsError: it has more than MAX_TEXT_BYTES.
    """
    if _size(text, path) > MAX_TEXT_BYTES:
        raise wrong(path, f"at most {MAX_TEXT_BYTES} bytes")


def _size(text: str, path: str) -> int:
    """Of a text in UTF-8, bytes."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise wrong(path, "a text without lone surrogates") from None


def checked_labels(labels: Mapping[Any, Any]) -> dict[str, str]:
    """Labels as they are sent.

    Raises:
        InvalidParamsError: they exceed a limit, or are not strings.
    """
    checked: dict[str, str] = {}
    for name, value in dict(labels).items():
        path = f"$.params.labels.{name}"
        if not isinstance(name, str) or not isinstance(value, str):
            raise wrong(path, "str")
        check_word(name, path, least=1)
        if _size(value, path) > MAX_LABEL_VALUE_BYTES:
            raise wrong(path, f"at most {MAX_LABEL_VALUE_BYTES} bytes")
        checked[str.__str__(name)] = str.__str__(value)
    if len(checked) > MAX_LABELS:
        raise wrong("$.params.labels", f"at most {MAX_LABELS}")
    return checked


def checked_seconds(value: Any, path: str, most: int) -> float:
    """A timeout in seconds as it is sent.

    Raises:
        InvalidParamsError: it is not a number above 0, of `most` at most.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise wrong(path, f"seconds above 0, at most {most}")
    return float(value) if isinstance(value, float) else int(value)


def check_waits(**seconds: float) -> None:
    """Check how long a client is to wait, each duration under the name of its argument.

    Raises:
        ValueError: one is negative, or not a number.
    """
    for name, value in seconds.items():
        if not value >= 0:  # false of NaN too
            raise ValueError(f"{name} is {value}: expected 0 seconds or more")


def check_detail(detail: bytes) -> None:
    """Check the detail of an end, as JSON.

    Raises:
        InvalidParamsError: it is too long.
    """
    if len(detail) > MAX_DETAIL_BYTES:
        raise wrong("$.params.detail", f"at most {MAX_DETAIL_BYTES} bytes")


def check_turn(turn: Turn) -> None:
    """Check a turn before it is sent. The usual turn needs no check."""
    if len(turn.role) > SURELY_A_WORD:
        check_word(turn.role, "$.params.turn.role")
    if turn.has_extra:
        check_extra(turn.extra)


def check_extra(extra: dict[str, Any]) -> None:
    """Check the extra members of a turn.

    Raises:
        DocumentError: as `check_free`; or one has the name of a defined member, in upper or lower case.
    """
    check_names(extra, documents.TURN_NAMES, "a turn")
    check_free(extra, "a turn")
    check_turn_names(extra)


def check_state(state: SessionState) -> None:
    """Check a state before it is saved; its turns are checked when they are encoded.

    Raises:
        DocumentError: it was loaded in part, or has a value that can't be saved.
    """
    if state.history_from:
        raise DocumentError(
            f"{state.id} was loaded in part (from turn {state.history_from} on): saving it would drop the turns"
            " before; load it whole, or use update() and add_turn()"
        )
    check_session_id(state.id)
    state.check_names()
    if state.recovery_data is not None:
        check_free(state.recovery_data, "recovery_data")
    if state.extra:
        check_free(state.extra, "the session")
    if state.metrics.extra:
        check_free(state.metrics.extra, "the metrics")
