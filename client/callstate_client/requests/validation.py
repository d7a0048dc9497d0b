"""What the client refuses before it sends: what the daemon would refuse without being able to say whose it was."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import is_dataclass
from functools import lru_cache
from typing import Any, Final

import msgspec

from callstate_client.errors import DocumentError, InvalidParamsError
from callstate_client.model import documents
from callstate_client.model.go_json import (
    INT64_MAX,
    INT64_MIN,
)
from callstate_client.model.state import SessionState
from callstate_client.model.turn import Turn, check_turn_names
from callstate_client.model.wellformed import check_names
from callstate_client.protocol.ids import (
    MAX_DETAIL_BYTES,
    MAX_LABEL_VALUE_BYTES,
    MAX_LABELS,
    MAX_NAME_BYTES,
    MAX_SECONDS,
    SESSION_ID_RULE,
    WORKER_ID_RULE,
    is_session_id,
    is_worker_id,
)
from callstate_client.protocol.params import (
    MAX_DEPTH,
)

SURELY_A_WORD: Final = MAX_NAME_BYTES // 4
"""Characters that are within the bounds of a word in any script."""

FREE_DEPTH: Final = MAX_DEPTH - 8
"""Deepest nesting of a value that is passed through. The most that any message puts around one is seven
(message, result, sessions, record, session, history, turn), so what is taken once fits wherever it goes."""


IDS_KEPT: Final = 4096
"""Ids known to be good or bad. A worker holds fewer calls and asks about each of them again and again."""

_is_session_id = lru_cache(IDS_KEPT)(is_session_id)


def check_session_id(session_id: object) -> None:
    """Refuse what is no session id: one bad id would spoil the heartbeats that leave together with it.

    Raises:
        InvalidParamsError: it is none.
    """
    if not isinstance(session_id, str) or not _is_session_id(session_id):
        raise InvalidParamsError(
            f"not a session id: {session_id!r:.80}", path="$.params.session_id", expected=SESSION_ID_RULE
        )


def check_worker_id(worker_id: object) -> None:
    """Refuse what is no worker id, also while there is no daemon to say so.

    Raises:
        InvalidParamsError: it is none.
    """
    if not isinstance(worker_id, str) or not is_worker_id(worker_id):
        raise InvalidParamsError(
            f"not a worker id: {worker_id!r:.80}", path="$.params.worker_id", expected=WORKER_ID_RULE
        )


def check_free(value: Any, place: str) -> None:
    """Refuse what JSON, or the daemon, can't keep as it is in a member that is passed through.

    Structs of msgspec and dataclasses are taken, for who wrote the type reads with it again; tuples come back as
    lists.

    Args:
        value: what shall be sent.
        place: what to call it in the error.

    Raises:
        DocumentError: nested too deep, an integer beyond 64 bits, NaN or infinity (they would become null), or what
            would come back as something else: bytes, sets, datetimes, decimals, keys that are no strings …
    """
    # the deepest first, so what contains itself is soon known to be too deep
    todo: list[tuple[Iterable[Any], int]] = [((value,), 1)]
    while todo:
        nodes, depth = todo.pop()
        for node in nodes:
            kind = type(node)
            if kind is str or kind is bool or node is None:
                continue
            why = None
            if isinstance(node, dict | list | tuple):
                if depth > FREE_DEPTH:
                    raise DocumentError(f"{place} is nested deeper than {FREE_DEPTH}")
                if isinstance(node, dict) and not all(isinstance(key, str) for key in node):
                    why = "has a key that is no string"
                todo.append((node.values() if isinstance(node, dict) else node, depth + 1))
            elif is_struct(node):
                todo.append(((struct_members(node),), depth))
            else:
                why = _why_not(node)
            if why is not None:
                raise DocumentError(f"{_place_of(node, value, place)} {why}")


def _why_not(node: Any) -> str | None:
    """What keeps a single value from being sent; None for nothing."""
    if isinstance(node, float):
        return None if math.isfinite(node) else f"is {node}, which JSON can't say"
    if isinstance(node, int):
        return None if INT64_MIN <= node <= INT64_MAX else "is an integer beyond 64 bits"
    if isinstance(node, str | msgspec.Raw):
        return None
    return f"is of type {type(node).__name__}, which JSON would change"


def _place_of(wanted: Any, value: Any, place: str) -> str:
    """Where in a value something is, which is not nested too deep: `recovery_data.items[2].at`."""
    todo = [(value, place)]
    seen: set[int] = set()
    while todo:
        node, where = todo.pop()
        if node is wanted:
            return where
        if id(node) in seen:  # it may contain itself
            continue
        seen.add(id(node))
        if is_struct(node):
            node = struct_members(node)
        if isinstance(node, dict):
            todo += [(inner, f"{where}.{key}") for key, inner in node.items()]
        elif isinstance(node, list | tuple):
            todo += [(inner, f"{where}[{index}]") for index, inner in enumerate(node)]
    return place


def is_struct(value: object) -> bool:
    """Whether this is of a type of the caller's own that msgspec writes and reads: a Struct or a dataclass."""
    return isinstance(value, msgspec.Struct) or (is_dataclass(value) and not isinstance(value, type))


def struct_members(value: Any) -> dict[str, Any]:
    """The JSON members of such a value; those that its type leaves out as defaults are there too."""
    members: dict[str, Any] = dict(msgspec.to_builtins(value))
    if isinstance(value, msgspec.Struct):
        for name, encoded in zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True):
            inner = getattr(value, name)
            if is_struct(inner):
                members[encoded] = struct_members(inner)
            elif encoded not in members and inner is not msgspec.UNSET:
                members[encoded] = msgspec.to_builtins(inner)
    return members


def wrong(path: str, expected: str) -> InvalidParamsError:
    """The error for a param that is not what belongs there."""
    return InvalidParamsError(f"expected {expected} at {path}", path=path, expected=expected)


def check_word(text: str | None, path: str, least: int = 0) -> None:
    """A word of at most 64 bytes.

    Raises:
        InvalidParamsError: it is longer, or empty where that is none.
    """
    if text is not None and not least <= len(text.encode()) <= MAX_NAME_BYTES:
        raise wrong(path, f"{least} to {MAX_NAME_BYTES} bytes")


def check_labels(labels: dict[Any, Any]) -> None:
    """Labels within their bounds.

    Raises:
        InvalidParamsError: they are not, or no texts.
    """
    if len(labels) > MAX_LABELS:
        raise wrong("$.params.labels", f"at most {MAX_LABELS}")
    for name, value in labels.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise wrong(f"$.params.labels.{name}", "str")
        check_word(name, f"$.params.labels.{name}", least=1)
        if len(value.encode()) > MAX_LABEL_VALUE_BYTES:
            raise wrong(f"$.params.labels.{name}", f"at most {MAX_LABEL_VALUE_BYTES} bytes")


def check_seconds(value: Any, path: str) -> None:
    """A timeout, seconds.

    Raises:
        InvalidParamsError: no number, or none above 0 and up to ten years.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_SECONDS:
        raise wrong(path, f"seconds above 0, at most {MAX_SECONDS}")


def check_detail(detail: bytes) -> None:
    """What is said beside the reason of an end.

    Raises:
        InvalidParamsError: it is too long.
    """
    if len(detail) > MAX_DETAIL_BYTES:
        raise wrong("$.params.detail", f"at most {MAX_DETAIL_BYTES} bytes")


def check_turn(turn: Turn) -> None:
    """Refuse a turn that can't be sent. The usual one has nothing to look at."""
    if len(turn.role) > SURELY_A_WORD:
        check_word(turn.role, "$.params.turn.role")
    if turn.has_extra:
        check_extra(turn.extra)


def check_extra(extra: dict[str, Any]) -> None:
    """Refuse further members of a turn that can't be kept.

    Raises:
        DocumentError: as `check_free`; or one has the name of a turn's own, in any case.
    """
    check_names(extra, documents.TURN_NAMES, "a turn")
    check_free(extra, "a turn")
    check_turn_names(extra)


def check_state(state: SessionState) -> None:
    """Refuse a state that can't be saved; its turns are checked when they are written.

    Raises:
        DocumentError: it was loaded in part, or holds what can't be kept.
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
