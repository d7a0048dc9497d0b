"""Validation of incoming documents and turns: types, bounds and encodings.

Whatever is accepted must be writable: nesting over 64, integers beyond signed 64 bits, lone surrogates and
times that Go can't read are refused here, also inside unknown members, which are passed through. The usual turn
has no unknown member and costs one typed decode, one with unknown scalars two; only nested values are checked
one by one.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from datetime import datetime
from itertools import chain
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from callstate_client.engine.sessions.decode_errors import params_error, undecodable
from callstate_client.engine.sessions.json_steps import without_long_strings
from callstate_client.errors import InvalidParamsError, ParseError, TooLargeError
from callstate_client.model import documents
from callstate_client.model.go_json import INT64_MAX, INT64_MIN, Int64, join_members
from callstate_client.model.metrics import Counters, StrictCounters
from callstate_client.model.times import YEAR_0, is_time, parse_time
from callstate_client.protocol.bounds import SessionId, Text, Word
from callstate_client.protocol.ids import MAX_NAME_BYTES, MAX_TEXT_BYTES
from callstate_client.protocol.params import MAX_DEPTH

HEAD_PARTS: Final = 10_000
"""Objects, arrays and members in one value of a head, such as `recovery_data`: each costs up to a microsecond."""

HEAD_NAMES: Final = 1_000
"""Members of a session, or of its metrics, that callstate does not know: each update reads and writes them all."""

METRICS_BYTES: Final = 64 * 1024
"""Bytes of those members of the metrics: each turn writes them all to the journal."""

LONG_BYTES: Final = 64 * 1024
"""Longer values are checked in steps: of a megabyte, each takes one to five milliseconds."""

MANY_QUOTES: Final = 20_000
"""Texts with more are not split at them."""

TURN_PARTS: Final = 10_000
"""Objects, arrays and members in one turn, or in some that are checked together."""

TURNS_PARTS: Final = 100_000
"""The same in the turns of one request: a line full of tool calls has half as many."""

T = TypeVar("T")

Time = Annotated[datetime, Meta(tz=True)]


class IncomingTurn(Struct):
    """A turn from a client. A member left out has Go's zero value."""

    role: Word = ""
    content: str = ""
    timestamp: Time | UnsetType = UNSET
    duration_ms: Int64 = 0
    response_ms: Any = UNSET
    """Counted in the metrics if it is a number of milliseconds; else passed through like an unknown member."""


_ZEROS: Final = {"role": b'""', "content": b'""', "duration_ms": b"0"}
_members = msgspec.json.Decoder(dict[str, Raw]).decode


class TurnTime(Struct):
    """A turn's timestamp as text."""

    timestamp: str | None = None


class PlainTurn(IncomingTurn, forbid_unknown_fields=True):
    """The usual turn, without unknown members."""

    response_ms: Int64 | UnsetType = UNSET


class HeadFields(Struct, kw_only=True):
    """A session from a client, its history and pass-through members still bytes."""

    id: SessionId
    created_at: Word | None = None
    updated_at: Word | None = None
    call_id: Text = ""
    provider: Word = ""
    direction: Word = ""
    from_: Text = msgspec.field(name="from", default="")
    to: Text = ""
    status: Word = "pending"
    history: Raw | UnsetType = UNSET
    recovery_data: Raw | UnsetType = UNSET


class IncomingHead(HeadFields, kw_only=True):
    """Any session, with or without unknown members."""

    metrics: Raw | UnsetType = UNSET


class PlainHead(HeadFields, kw_only=True, forbid_unknown_fields=True):
    """The usual session, without unknown members: one pass over the line is enough."""

    metrics: StrictCounters | UnsetType | None = UNSET


HEAD_MEMBERS: Final = frozenset(IncomingHead.__struct_encode_fields__)

# msgspec accepts more forms than Go ("2026-01-01 00:00:00z", "+0530"), so a turn's time is checked as text, too.
# Inside a JSON string the quotes would be escaped, so only members match; a name could evade the search only by
# escaping a letter that needs no escape.
_TIMESTAMP: Final = b'"timestamp"'
_STRICT_MEMBER: Final = re.compile(
    rb'"timestamp":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)"'
)
_strict_members = _STRICT_MEMBER.findall

# The same for one turn, in half the time: the text between `"timestamp"` and the closing quote, each digit made 0.
_DIGITS_TO_0: Final = bytes.maketrans(b"123456789", b"000000000")
_STRICT_TIMES: Final = frozenset(
    b':"0000-00-00T00:00:00%b%b' % (b"." + b"0" * digits if digits else b"", zone)
    for digits in range(10)
    for zone in (b"Z", b"+00:00", b"-00:00")
)

_NO_MARKS: Final = bytes(set(range(256)) - set(b"{[:,"))

_LONG: Final = b"0" * 19
"""The fewest digits of an integer beyond 64 bits."""

_BACKSLASH: Final = ord("\\")
"""Searched for before an escape: one byte is found ten times as fast as several, and few turns have any."""

_strict_turn = msgspec.json.Decoder(PlainTurn).decode
_strict_turns = msgspec.json.Decoder(list[PlainTurn]).decode
_lenient_turns = msgspec.json.Decoder(list[IncomingTurn]).decode
_plain_turns = msgspec.json.Decoder(list[dict[str, Int64 | float | str | bool | None]]).decode
_raw_list = msgspec.json.Decoder(list[Raw]).decode
_times = msgspec.json.Decoder(list[TurnTime]).decode
_raw_members = msgspec.json.Decoder(dict[str, Raw]).decode
_head = msgspec.json.Decoder(IncomingHead).decode
_metrics = msgspec.json.Decoder(Counters | None).decode
_any = msgspec.json.decode


def check_parts(data: bytes | Raw, path: str, most: int) -> None:
    """Refuse JSON of too many objects, arrays and members, before it is decoded.

    Raises:
        TooLargeError: there are more than `most`.
    """
    text = bytes(data)
    if len(text) <= most or _parts(_bare(text)) <= most:
        return
    # of the beginning first, as removing strings takes long: most of what is refused has too many there
    if count_parts(text[: 16 * most]) > most or count_parts(text) > most:
        raise TooLargeError(f"more than {most} objects, arrays and members at {path}")


def count_parts(text: bytes) -> int:
    """How many objects, arrays and members there are in a JSON text, which may be cut off; ten numbers of an array
    count as one."""
    return _parts(_without_strings(text))


def _bare(text: bytes) -> bytes:
    """A JSON text without its strings, where they are found at once; else the text as it is."""
    if len(text) < LONG_BYTES or _BACKSLASH in text or text.count(b'"') > MANY_QUOTES:
        return text
    return b"".join(text.split(b'"')[::2])


def _without_strings(text: bytes) -> bytes:
    """A JSON text, perhaps cut off, without its strings."""
    if _BACKSLASH in text:  # only strings have any: an escaped quote ends none
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(text.split(b'"')[::2])


def _parts(text: bytes) -> int:
    """As `count_parts`, at most, as some of these characters may be text."""
    marks = text.translate(None, _NO_MARKS)  # in one pass: there are few of them
    commas = marks.count(b",")
    return len(marks) - commas + commas // 10


def finished(steps: Generator[None, None, T]) -> T:
    """Do all steps at once; returns the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def check_json(data: bytes | Raw, path: str, depth: int, most: int = HEAD_PARTS) -> Any:
    """Check every value of a member that is passed through.

    Args:
        data: the member's JSON.
        path: its path, for the error.
        depth: its nesting depth in the message.
        most: objects, arrays and members in it.

    Returns:
        the decoded value.
    """
    text = bytes(data)
    check_parts(text, path, most)
    return _checked(text, _decoded(text, path), path, depth)


def json_in_steps(data: bytes | Raw, path: str, depth: int, most: int = HEAD_PARTS) -> Generator[None, None, Any]:
    """As `check_json`, in steps if it is long."""
    text = bytes(data)
    if len(text) <= LONG_BYTES:
        return check_json(text, path, depth, most)
    check_parts(text, path, most)
    yield
    value = _decoded(text, path)
    yield
    return _checked(_bare(text), value, path, depth)


def shortened_in_steps(data: bytes | Raw, path: str) -> Generator[None, None, bytes]:
    """A JSON text with something shorter for its long strings, which are checked, if decoding them takes long.

    Raises:
        ParseError: one of them, or the text, is not UTF-8 or not JSON.
    """
    text = bytes(data)
    if len(text) <= LONG_BYTES or (text.isascii() and _BACKSLASH not in text):
        return text
    try:
        return (yield from without_long_strings(text))
    except ValueError as error:
        raise undecodable(error, path) from error


def _decoded(text: bytes, path: str) -> Any:
    try:
        return _any(text)
    except msgspec.ValidationError as error:  # a number out of range
        raise params_error(error, path) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise undecodable(error, path) from error


def _checked(text: bytes, value: Any, path: str, depth: int) -> Any:
    """Check a decoded value; `text`: its JSON, perhaps without the strings."""
    containers = text.count(b"{") + text.count(b"[")  # at most: some may be text
    has_long = _LONG in text.translate(_DIGITS_TO_0)
    if containers > MAX_DEPTH - depth or has_long:  # else too few to be nested too deep, and no number that long
        _check_nodes(value, path, depth, integers=has_long)
    return value


def _check_nodes(value: Any, path: str, depth: int, *, integers: bool) -> None:
    """Check nesting and, if asked, integers, level by level."""
    level = [value]
    while level:
        if integers and any(type(node) is int and not INT64_MIN <= node <= INT64_MAX for node in level):
            raise InvalidParamsError(f"an integer beyond 64 bits at {path}", path=path, expected="int64")
        containers = [node for node in level if type(node) is dict or type(node) is list]
        if containers and depth >= MAX_DEPTH:
            raise ParseError(f"nested deeper than {MAX_DEPTH} at {path}", path=path)
        below = chain.from_iterable(node.values() if type(node) is dict else node for node in containers)
        level = list(below) if integers else [node for node in below if type(node) is dict or type(node) is list]
        depth += 1


def check_members(members: dict[str, Raw], path: str, depth: int) -> None:
    """As `check_json`, for members that are passed through, at the path and depth of their object."""
    if len(members) > 1:  # all at once, as there may be thousands
        try:
            check_json(join_members(members), path, depth - 1)
        except (InvalidParamsError, ParseError):
            pass  # each by itself, for the path
        else:
            return
    for name, value in members.items():
        check_json(value, f"{path}.{name}", depth)


def members_in_steps(members: dict[str, Raw], path: str, depth: int) -> Generator[None]:
    """As `check_members`, in steps."""
    short: dict[str, Raw] = {}
    for name, value in members.items():
        short[name] = Raw((yield from shortened_in_steps(value, f"{path}.{name}")))
    members = short
    if len(members) > 1:
        try:
            yield from json_in_steps(join_members(members), path, depth - 1)
        except (InvalidParamsError, ParseError):
            yield
        else:
            return
    for name, value in members.items():
        yield from json_in_steps(value, f"{path}.{name}", depth)


def check_turns(array: bytes, path: str, depth: int = 3) -> list[IncomingTurn]:
    """As `turns_in_steps`, at once."""
    return finished(turns_in_steps(array, path, depth))


def turns_in_steps(array: bytes, path: str, depth: int = 3) -> Generator[None, None, list[IncomingTurn]]:
    """Validate and decode the turns of a JSON array, in steps if it is long.

    Raises:
        InvalidParamsError, ParseError: a turn is invalid; the error has its path.
    """
    turns: list[IncomingTurn]
    members: list[dict[str, Any]]
    is_long = len(array) > LONG_BYTES
    try:
        turns = _strict_turns(array)  # type: ignore[assignment]  # lists are invariant; this one is not added to
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        if is_long:
            yield
        try:
            turns = _lenient_turns(array)
        except msgspec.ValidationError as error:
            raise params_error(error, path) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise undecodable(error, path) from error
        if is_long:
            yield
        check_parts(array, path, TURN_PARTS)
        try:
            members = _plain_turns(array)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # nested or invalid: check each value
            members = yield from json_in_steps(array, path, depth, TURN_PARTS)
        for index, names in enumerate(members):
            documents.refuse_shadows(names, documents.TURN_NAMES, f"{path}[{index}]")
    if is_long:
        yield
    if not _times_are_strict(array):
        for index, turn_time in enumerate(_times(array)):
            check_time(turn_time.timestamp, f"{path}[{index}].timestamp")
    if not array.isascii() or _has_escape(array, b"\\u"):  # a role may have more bytes than characters
        for index, turn in enumerate(turns):
            check_bytes(turn.role, f"{path}[{index}].role")
    return turns


def _times_are_strict(turns: bytes) -> bool:
    """Whether every `timestamp` in this JSON certainly has the form that Go reads."""
    return not _has_escape(turns, b"\\u00") and len(_strict_members(turns)) == turns.count(_TIMESTAMP)


def _time_is_strict(turn: bytes) -> bool:
    """The same of one turn without `\\u` in it."""
    at = turn.find(_TIMESTAMP)
    if at < 0:
        return True
    value = turn[at + len(_TIMESTAMP) : turn.find(b'"', at + len(_TIMESTAMP) + 2)]
    return value.translate(_DIGITS_TO_0) in _STRICT_TIMES and turn.rfind(_TIMESTAMP) == at


def _has_escape(data: bytes, escape: bytes) -> bool:
    return _BACKSLASH in data and escape in data


def check_turn(data: bytes, path: str) -> IncomingTurn:
    """As `turn_in_steps`, at once."""
    return finished(turn_in_steps(data, path))


def turn_in_steps(data: bytes, path: str) -> Generator[None, None, IncomingTurn]:
    """Validate and decode one turn, in steps if it is long; errors have its path without an index.

    Returns:
        the turn, perhaps without long texts.
    """
    if len(data) > LONG_BYTES:
        data = yield from shortened_in_steps(data, path)
    if data.isascii() and not _has_escape(data, b"\\u") and _time_is_strict(data):
        try:
            return _strict_turn(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass  # unusual or invalid: checked in full below
    if len(data) > LONG_BYTES:
        yield
    try:
        return (yield from turns_in_steps(b"[%b]" % data, path))[0]
    except (InvalidParamsError, ParseError) as error:
        place = str(error.data.get("path", path)).replace(f"{path}[0]", path)
        raise type(error)(
            error.message.replace(f"{path}[0]", path), path=place, expected=error.data.get("expected")
        ) from error


def is_whole(turn: IncomingTurn) -> bool:
    """Whether it certainly has all members of a turn; zero values need a closer look."""
    return bool(turn.role and turn.content and turn.duration_ms) and turn.timestamp is not UNSET


def completed(turns: bytes, now: str) -> bytes:
    """The turns (comma-joined, no brackets) completed with the members they lack, as none is optional in Go.

    Args:
        turns: validated.
        now: the timestamp for those that have none.
    """
    parts = []
    for part in _raw_list(b"[%b]" % turns):
        names = _members(part)
        missing = [b'"%b":%b' % (name.encode(), zero) for name, zero in _ZEROS.items() if name not in names]
        if "timestamp" not in names:
            missing.append(b'"timestamp":"%b"' % now.encode())
        text = bytes(part)
        if missing:
            text = b"{%b}" % b",".join([inside for inside in (text[1:-1].strip(), *missing) if inside])
        parts.append(text)
    return b",".join(parts)


def check_bytes(text: str, path: str, most: int = MAX_NAME_BYTES) -> None:
    """Refuse a text of more bytes than this; its type already limits it to as many characters."""
    if not text.isascii() and len(text.encode()) > most:
        raise InvalidParamsError(f"longer than {most} bytes at {path}", path=path, expected=f"at most {most} bytes")


def check_time(text: str | None, path: str) -> None:
    """Refuse anything but an RFC 3339 time or None."""
    if text is not None:
        try:
            if text.startswith(YEAR_0):
                raise ValueError("year 0")
            parse_time(text)
        except ValueError as error:
            raise InvalidParamsError(f"{error} at {path}", path=path, expected="RFC 3339 time") from error


def check_head(data: bytes | Raw, path: str) -> tuple[IncomingHead, dict[str, Raw]]:
    """Validate a session's head; returns it with its unknown members. The history is not read.

    Raises:
        InvalidParamsError, ParseError: something is invalid; the error has its path.
    """
    head, members = _members_of_head(data, path)
    check_fields(head, path)
    extra = _unknown(members, path)
    if extra:
        check_members(extra, path, 3)
    return head, extra


def head_in_steps(data: bytes | Raw, path: str) -> Generator[None, None, tuple[IncomingHead, dict[str, Raw]]]:
    """As `check_head`, in steps."""
    head, members = _members_of_head(data, path)
    yield
    yield from fields_in_steps(head, path)
    extra = _unknown(members, path)
    yield from members_in_steps(extra, path, 3)
    return head, extra


def _members_of_head(data: bytes | Raw, path: str) -> tuple[IncomingHead, dict[str, Raw]]:
    """A head by its types, and all of its members as JSON."""
    try:
        head = _head(data)
        history = b"" if head.history is UNSET else bytes(head.history)
        if len(data) - len(history) > HEAD_PARTS:
            check_parts(bytes(data).replace(history, b"", 1), path, HEAD_PARTS)
        return head, _raw_members(data)
    except msgspec.ValidationError as error:
        raise params_error(error, path) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise undecodable(error, path) from error


def _unknown(members: dict[str, Raw], path: str) -> dict[str, Raw]:
    """The members of a head that callstate does not define."""
    extra = {name: value for name, value in members.items() if name not in HEAD_MEMBERS}
    _check_number(extra, path)
    documents.refuse_shadows(members, HEAD_MEMBERS, path)
    return extra


def _check_number(extra: dict[str, Raw], path: str) -> None:
    if len(extra) > HEAD_NAMES:
        raise TooLargeError(f"more than {HEAD_NAMES} unknown members at {path}")


def check_fields(head: HeadFields, path: str) -> None:
    """Check what the types of a head leave open.

    Raises:
        InvalidParamsError, ParseError: something is invalid; the error has its path.
    """
    _check_texts(head, path)
    if head.recovery_data is not UNSET:
        _check_recovery(check_json(head.recovery_data, f"{path}.recovery_data", 3), path)


def fields_in_steps(head: HeadFields, path: str) -> Generator[None]:
    """As `check_fields`, in steps if it is long."""
    _check_texts(head, path)
    if head.recovery_data is not UNSET:
        place = f"{path}.recovery_data"
        short = yield from shortened_in_steps(head.recovery_data, place)
        _check_recovery((yield from json_in_steps(short, place, 3)), path)


def _check_recovery(value: Any, path: str) -> None:
    if not (value is None or isinstance(value, dict)):
        raise documents.not_object(f"{path}.recovery_data")


def _check_texts(head: HeadFields, path: str) -> None:
    for name, at in (("created_at", head.created_at), ("updated_at", head.updated_at)):
        if at is not None and (at.startswith(YEAR_0) or not is_time(at)):
            check_time(at, f"{path}.{name}")
    if not (head.provider.isascii() and head.direction.isascii() and head.status.isascii()):
        check_bytes(head.provider, f"{path}.provider")
        check_bytes(head.direction, f"{path}.direction")
        check_bytes(head.status, f"{path}.status")
    if not (head.call_id.isascii() and head.from_.isascii() and head.to.isascii()):
        check_bytes(head.call_id, f"{path}.call_id", MAX_TEXT_BYTES)
        check_bytes(head.from_, f"{path}.from", MAX_TEXT_BYTES)
        check_bytes(head.to, f"{path}.to", MAX_TEXT_BYTES)


def check_metrics(data: Raw | UnsetType, path: str) -> tuple[Counters, dict[str, Raw]]:
    """Validate metrics; returns them with their unknown members. If left out or null, all are zero."""
    if data is UNSET:
        return Counters(), {}
    try:
        metrics = _metrics(data)
        if metrics is None:
            return Counters(), {}
        members = _raw_members(data)
    except msgspec.ValidationError as error:
        raise params_error(error, path) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise undecodable(error, path) from error
    extra = {name: value for name, value in members.items() if name not in documents.METRICS_NAMES}
    _check_number(extra, path)
    if len(data) > METRICS_BYTES and sum(map(len, extra)) + sum(map(len, extra.values())) > METRICS_BYTES:
        raise TooLargeError(f"more than {METRICS_BYTES} bytes of unknown members at {path}")
    documents.refuse_shadows(members, documents.METRICS_NAMES, path)
    if extra:
        check_members(extra, path, 4)
    return metrics, extra
