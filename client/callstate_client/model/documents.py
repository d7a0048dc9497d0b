"""Documents as stores have them: everything that Go's encoding/json writes from the package's types, read as by Go.

There is one reader for everything that reads a store: the daemon, RedisStore and SqliteStore. A document that it
can't read is `unreadable` everywhere. Values that are passed through stay bytes: integers of any size, floats as
they were written, nesting as deep as Go's. What clients send is validated elsewhere (engine/sessions/validation),
more strictly.

The usual document, with defined members only, is decoded in one pass. If that fails, it is read member by member:
it may have unknown members, names in another case, or deep nesting; or it is not a document.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from callstate_client.errors import DocumentError, InvalidParamsError
from callstate_client.model import go_json
from callstate_client.model.go_json import Int64, fold
from callstate_client.model.metrics import Counters, StrictCounters
from callstate_client.model.times import ZERO_TIME, is_time


class TurnDoc(Struct, gc=False):
    """The defined members of a turn. A missing one has Go's zero value."""

    role: str = ""
    content: str = ""
    timestamp: str = ZERO_TIME
    duration_ms: Int64 = 0


class _OnlyTurn(TurnDoc, forbid_unknown_fields=True, gc=False):
    """The usual turn, which has no other members."""


class HeadDoc(Struct):
    """The defined members of a session, except history, metrics and recovery data."""

    id: str = ""
    created_at: str = ZERO_TIME
    updated_at: str = ZERO_TIME
    call_id: str = ""
    provider: str = ""
    direction: str = ""
    from_: str = msgspec.field(name="from", default="")
    to: str = ""
    status: str = ""


class _OnlyHead(HeadDoc, forbid_unknown_fields=True):
    """The usual session, its history and recovery data still bytes."""

    history: Raw | UnsetType = UNSET
    metrics: StrictCounters | None = None
    recovery_data: Raw | UnsetType = UNSET


class PlainDocument(HeadDoc, forbid_unknown_fields=True):
    """The usual session as a client decodes it in one pass: its history still bytes, its recovery data a value."""

    history: Raw = Raw(b"null")
    metrics: StrictCounters | None = None
    recovery_data: Any = None


class Parts(Struct):
    """The parts of a document.

    Args:
        head: the defined members that are not listed below.
        history: the turns, joined by commas, without brackets.
        turn_count: their number.
        metrics: the counters.
        metrics_extra: the other members of the metrics, as JSON.
        recovery_data: as JSON; None if there is none, or it is empty.
        extra: the other members of the session, as JSON.
        has_history: whether there is a member `history`, be it null.
    """

    head: HeadDoc
    history: bytes
    turn_count: int
    metrics: Counters
    metrics_extra: dict[str, bytes]
    recovery_data: bytes | None
    extra: dict[str, bytes]
    has_history: bool


SESSION_NAMES: Final = frozenset(_OnlyHead.__struct_encode_fields__)
TURN_NAMES: Final = frozenset(TurnDoc.__struct_encode_fields__)
METRICS_NAMES: Final = frozenset(Counters.__struct_encode_fields__)

HEAD_NAMES: Final = frozenset(HeadDoc.__struct_encode_fields__)
_NULL: Final = b"null"

_only_head = msgspec.json.Decoder(_OnlyHead).decode
_head = msgspec.json.Decoder(HeadDoc).decode
_metrics = msgspec.json.Decoder(Counters).decode
_only_turn = msgspec.json.Decoder(_OnlyTurn).decode
_only_turns = msgspec.json.Decoder(list[_OnlyTurn]).decode
_turn = msgspec.json.Decoder(TurnDoc).decode
_raw_members = msgspec.json.Decoder(dict[str, Raw]).decode


def shadowed(names: Collection[str], known: frozenset[str]) -> str | None:
    """The first of these names that Go takes for a defined one although it is spelled differently, or None."""
    if known.issuperset(names):  # as nearly always
        return None
    return next((name for name in names if name not in known and fold(name) in known), None)


def refuse_shadows(names: Collection[str], known: frozenset[str], path: str) -> None:
    """Check that Go, which matches names regardless of case, takes none of these members for a defined one.

    Raises:
        InvalidParamsError: it would.
    """
    name = shadowed(names, known)
    if name is not None:
        place, ours = f"{path}.{name}", go_json.fold(name)
        raise InvalidParamsError(f"`{name}` at {place} is another spelling of `{ours}`", path=place, expected=ours)


def not_object(path: str) -> InvalidParamsError:
    """The error for recovery data that is not a JSON object, which is the only type that Go reads."""
    return InvalidParamsError(f"Expected object or null at {path}", path=path, expected="object or null")


def read_stored(document: bytes, session_id: str) -> Parts:
    """Read a document from a store.

    Args:
        document: its bytes.
        session_id: the id of its key.

    Raises:
        DocumentError: it can't be read, or is another session's.
    """
    parts = read(document)
    if parts.head.id != go_json.coerced(session_id):
        raise DocumentError(f"the document under {session_id!r} is another session's: {parts.head.id!r:.80}")
    if parts.recovery_data is not None and parts.recovery_data[:1] != b"{":
        raise DocumentError("not a session document: Expected `object | null` - at `$.recovery_data`")
    return parts


def read(document: bytes) -> Parts:
    """Read a document from anywhere; recovery data may be any JSON value, as older versions accepted.

    Raises:
        DocumentError: it can't be read.
    """
    try:
        document.decode()  # msgspec does not check the UTF-8 of values that stay bytes
        try:
            only = _only_head(document)
        except (msgspec.MsgspecError, RecursionError):
            parts = _unusual(document)
        else:
            parts = _usual(only)
        _check_times(parts.head)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DocumentError(f"not a session document: {error}") from error
    return parts


def read_turns(turns: bytes, first: int = 0) -> tuple[bytes, int]:
    """Read some turns of a document (comma-joined, no brackets). Returns them, and their number.

    Args:
        turns: their bytes.
        first: the index of the first one in the history, for errors.

    Raises:
        DocumentError: they can't be read.
    """
    try:
        turns.decode()
        return _history(b"[%b]" % turns, first)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DocumentError(f"not a session document: {error}") from error


def _usual(only: _OnlyHead) -> Parts:
    given = _NULL if isinstance(only.history, UnsetType) else bytes(only.history)
    history, count = _history(given)
    recovery = None if isinstance(only.recovery_data, UnsetType) else _recovery(bytes(only.recovery_data))
    return Parts(only, history, count, only.metrics or Counters(), {}, recovery, {}, only.history is not UNSET)


def _unusual(document: bytes) -> Parts:
    """Read a document with unknown members, names in another case, or deep nesting."""
    members, extra = _members(document, SESSION_NAMES, "$")
    head = _typed(_head, {name: value for name, value in members.items() if name in HEAD_NAMES}, "$")
    metrics = Counters()
    metrics_extra: dict[str, bytes] = {}
    if members.get("metrics", _NULL) != _NULL:
        counters, metrics_extra = _members(members["metrics"], METRICS_NAMES, "$.metrics")
        metrics = _typed(_metrics, counters, "$.metrics")
    history, count = _history(members.get("history", _NULL))
    recovery = _recovery(members.get("recovery_data", _NULL))
    return Parts(head, history, count, metrics, metrics_extra, recovery, extra, "history" in members)


def _members(text: bytes, known: frozenset[str], place: str) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The members that Go takes for defined ones (the last one counts), and the others, which are checked."""
    if text[:1] != b"{":
        text = text.lstrip()
    if text[:1] != b"{":
        raise ValueError(f"Expected `object` - at `{place}`")
    try:
        pairs: Iterable[tuple[str, Raw | bytes]] = _raw_members(text).items()
        if shadowed([name for name, _ in pairs], known) is not None:
            pairs = go_json.members(text)  # in order, as the last one counts
    except RecursionError:
        go_json.decode(text)
        pairs = go_json.members(text)
    ours: dict[str, bytes] = {}
    extra: dict[str, bytes] = {}
    for name, value in pairs:
        if name in known:
            ours[name] = bytes(value)
        elif fold(name) in known:
            ours[fold(name)] = bytes(value)
        else:
            extra[name] = bytes(value)
            _check_value(extra[name], f"{place}.{name}")
    return ours, extra


def _check_value(value: bytes, place: str) -> None:
    """Check that Go can read a value that is passed through."""
    try:
        go_json.decode_any(value)
    except ValueError as error:
        raise ValueError(f"{error} - at `{place}`") from error


def _typed(decode: Any, members: dict[str, bytes], place: str) -> Any:
    try:
        return decode(go_json.join_members(members))
    except msgspec.ValidationError as error:
        raise ValueError(str(error).replace("at `$", f"at `{place}")) from error


def _recovery(value: bytes) -> bytes | None:
    """Recovery data, which Go omits if it is empty."""
    if value == _NULL:
        return None
    _check_value(value, "$.recovery_data")
    return None if value[:1] == b"{" and not value[1:-1].strip() else value


def _history(array: bytes, first: int = 0) -> tuple[bytes, int]:
    """The turns of a history, or of a part of it, without the brackets, and their number."""
    if array == _NULL:
        return b"", 0
    if array[:1] != b"[":
        raise ValueError("Expected `array | null` - at `$.history`")
    inside = array[1:-1].strip()
    try:
        turns: list[_OnlyTurn] = _only_turns(array)
    except (msgspec.MsgspecError, RecursionError):
        return _unusual_history(array, inside, first)
    for index, turn in enumerate(turns, first):
        if not is_time(turn.timestamp):
            raise ValueError(f"not an RFC 3339 time - at `$.history[{index}].timestamp`")
    return inside, len(turns)


def _unusual_history(array: bytes, inside: bytes, first: int) -> tuple[bytes, int]:
    parts = go_json.raw_list(array)
    turns = [_read_turn(part, f"$.history[{index}]") for index, part in enumerate(parts, first)]
    return (inside if turns == parts else b",".join(turns)), len(turns)


def _read_turn(part: bytes, place: str) -> bytes:
    """Check a turn. Returns its bytes, with the defined names where Go would take others for them."""
    members: dict[str, bytes] | None = None
    extra: dict[str, bytes] = {}
    try:
        turn: TurnDoc = _only_turn(part)
    except (msgspec.MsgspecError, RecursionError):
        members, extra = _members(part, TURN_NAMES, place)
        turn = _typed(_turn, members, place)
    if not is_time(turn.timestamp):
        raise ValueError(f"not an RFC 3339 time - at `{place}.timestamp`")
    if members is None or shadowed(go_json.raw_members(part), TURN_NAMES) is None:
        return part
    return go_json.join_members({**members, **extra})


def _check_times(head: HeadDoc) -> None:
    for name, text in (("created_at", head.created_at), ("updated_at", head.updated_at)):
        if not is_time(text):
            raise ValueError(f"not an RFC 3339 time - at `$.{name}`")
