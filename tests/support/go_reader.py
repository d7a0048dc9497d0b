"""A reader of stored documents that follows the rules of Go's encoding/json, independent of ours.

Into the structs of the Go package: members by name without regard to case, in the order of the text, so that the
last one counts; unknown ones ignored; null leaves a field as it is; white space anywhere between tokens. Anything
else is an error, as of Unmarshal: other types, numbers that are no integers or too large, text behind the document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

Members = list[tuple[str, Any]]
Reader = Callable[[Any, Any], Any]

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_ZERO_TIME = "0001-01-01T00:00:00Z"


class _Object(Members):
    """A JSON object with all its members, repeated ones too."""


class _Number(str):
    """A JSON number as it is written."""

    __slots__ = ()


def _text(_: Any, value: Any) -> str:
    if type(value) is not str:
        raise TypeError(f"not a string: {value!r}")
    return value


def _int64(_: Any, value: Any) -> int:
    if type(value) is not _Number or not re.fullmatch(r"-?\d+", value) or not -(2**63) <= int(value) < 2**63:
        raise TypeError(f"not an int64: {value!r}")
    return int(value)


def _time(_: Any, value: Any) -> str:
    if not _TIME.fullmatch(_text(None, value)):
        raise ValueError(f"not a time: {value!r}")
    return str(value)


def _any(value: Any) -> Any:
    """Into `any`: the last of members with exactly the same name counts."""
    if type(value) is _Object:
        return {name: _any(member) for name, member in value}
    if type(value) is list:
        return [_any(item) for item in value]
    return float(value) if type(value) is _Number else value


def _map(before: dict[str, Any] | None, value: Any) -> dict[str, Any]:
    if type(value) is not _Object:
        raise TypeError(f"not an object: {value!r}")
    return (before or {}) | _any(value)


def _struct(fields: dict[str, tuple[Reader, Any]]) -> Reader:
    folded = {name.casefold(): name for name in fields}

    def read(before: dict[str, Any] | None, value: Any) -> dict[str, Any]:
        if type(value) is not _Object:
            raise TypeError(f"not an object: {value!r}")
        into = dict(before) if before else {name: zero for name, (_, zero) in fields.items()}
        for name, member in value:
            field = name if name in fields else folded.get(name.casefold())
            if field is not None and member is not None:
                into[field] = fields[field][0](into[field], member)
        return into

    return read


def _turns(_: Any, value: Any) -> list[Any]:
    if type(value) is not list:
        raise TypeError(f"not an array: {value!r}")
    return [_turn(None, _Object() if turn is None else turn) for turn in value]


_turn = _struct({
    "role": (_text, ""), "content": (_text, ""), "timestamp": (_time, _ZERO_TIME), "duration_ms": (_int64, 0),
})  # fmt: skip
_metrics = _struct(
    dict.fromkeys(
        (
            "turn_count", "interruption_count", "user_speech_duration_ms", "agent_speech_duration_ms",
            "first_response_ms", "average_response_ms",
        ),
        (_int64, 0),
    )
)  # fmt: skip
_session = _struct({
    **dict.fromkeys(("id", "call_id", "provider", "direction", "from", "to", "status"), (_text, "")),
    **dict.fromkeys(("created_at", "updated_at"), (_time, _ZERO_TIME)),
    "history": (_turns, []), "metrics": (_metrics, _metrics(None, _Object())), "recovery_data": (_map, None),
})  # fmt: skip


def read_as_go(document: bytes) -> dict[str, Any]:
    """The session as the Go package loads it: every field of its structs, and nothing else.

    Raises:
        ValueError, TypeError: Unmarshal fails.
    """
    value = json.loads(
        document.decode(errors="replace"), object_pairs_hook=_Object, parse_int=_Number, parse_float=_Number,
        parse_constant=_refuse,
    )  # fmt: skip
    found: dict[str, Any] = _session(None, value)
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"no JSON: {name}")
