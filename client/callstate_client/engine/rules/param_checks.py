"""Checks of params that their types leave open: ids, labels and words within their bounds."""

from __future__ import annotations

from typing import Any

from callstate_client.errors import InvalidParamsError
from callstate_client.protocol.ids import (
    MAX_LABEL_VALUE_BYTES,
    MAX_LABELS,
    MAX_NAME_BYTES,
    SESSION_ID_RULE,
    WORKER_ID_RULE,
    is_session_id,
    is_worker_id,
)


def checked_id(session_id: str, path: str) -> str:
    """Return a session id if it is valid.

    Raises:
        InvalidParamsError: it is not.
    """
    if not is_session_id(session_id):
        raise InvalidParamsError(
            f"not a session id at {path}: expected {SESSION_ID_RULE}", path=path, expected=SESSION_ID_RULE
        )
    return session_id


def checked_labels(labels: dict[str, Any], path: str = "$.params.labels") -> dict[str, str]:
    """Return labels if they are strings within their bounds.

    Raises:
        InvalidParamsError: there are too many, or one is no string, or too long.
    """
    if len(labels) > MAX_LABELS:
        raise InvalidParamsError(
            f"more than {MAX_LABELS} labels at {path}", path=path, expected=f"at most {MAX_LABELS}"
        )
    for name, value in labels.items():
        if not isinstance(value, str):
            raise InvalidParamsError(f"Expected `str` at {path}.{name}", path=f"{path}.{name}", expected="str")
        if not 0 < len(name.encode()) <= MAX_NAME_BYTES or len(value.encode()) > MAX_LABEL_VALUE_BYTES:
            raise InvalidParamsError(
                f"a label too long at {path}.{name}",
                path=f"{path}.{name}",
                expected=f"a name of 1 to {MAX_NAME_BYTES} bytes, a value of at most {MAX_LABEL_VALUE_BYTES}",
            )
    return labels


def checked_word(text: str | None, path: str) -> str | None:
    """Return a word (an op, a reason) if it has 1 to 64 bytes, or None.

    Raises:
        InvalidParamsError: it is longer, or empty.
    """
    if text is None or (0 < len(text) <= MAX_NAME_BYTES and text.isascii()):
        return text
    if not 0 < len(text.encode()) <= MAX_NAME_BYTES:
        raise InvalidParamsError(
            f"expected 1 to {MAX_NAME_BYTES} bytes at {path}",
            path=path,
            expected=f"1 to {MAX_NAME_BYTES} bytes",
        )
    return text


def checked_worker(worker_id: str) -> str:
    """Return a worker id if it is valid.

    Raises:
        InvalidParamsError: it is not.
    """
    if not is_worker_id(worker_id):
        raise InvalidParamsError(
            f"not a worker id at $.params.worker_id: expected {WORKER_ID_RULE}",
            path="$.params.worker_id", expected=WORKER_ID_RULE,
        )  # fmt: skip
    return worker_id
