"""Turns from a client: validated, decoded, and completed with the members they lack.

The usual turn has no unknown member and costs one typed decode, one with unknown scalars two; only nested values
are checked one by one.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from callstate_client.engine.sessions.decode_errors import params_error, undecodable
from callstate_client.engine.sessions.steps import finished
from callstate_client.engine.sessions.validation.parts import BACKSLASH, DIGITS_TO_0, parts_in_steps
from callstate_client.engine.sessions.validation.texts import check_bytes
from callstate_client.engine.sessions.validation.values import LONG_BYTES, json_in_steps, shortened_in_steps
from callstate_client.errors import InvalidParamsError, ParseError
from callstate_client.model import documents
from callstate_client.model.go_json import Int64
from callstate_client.model.times import YEAR_0, is_time
from callstate_client.protocol.bounds import Word

TURN_PARTS: Final = 10_000
"""Objects, arrays and members in one turn, or in some that are checked together."""

TURNS_PARTS: Final = 100_000
"""The same in the turns of one request: a line full of tool calls has half as many."""

Time = Annotated[datetime, Meta(tz=True)]


class IncomingTurn(Struct):
    """A turn from a client. A member left out has Go's zero value."""

    role: Word = ""
    content: str = ""
    timestamp: Time | UnsetType = UNSET
    duration_ms: Int64 = 0
    response_ms: Any = UNSET
    """Counted in the metrics if it is a number of milliseconds; else passed through like an unknown member."""


class StrictTime:
    """A timestamp as Go reads it."""

    @classmethod
    def checked(cls, _: type, text: str) -> StrictTime:
        """The decoder's hook. It is called for each timestamp of a turn that has several, as Go reads them all.

        Raises:
            ValueError: it has another form, or the year 0.
        """
        if text.startswith(YEAR_0) or not is_time(text):
            raise ValueError("not an RFC 3339 time")
        return cls()


class TurnTime(Struct):
    """A turn's timestamp."""

    timestamp: StrictTime | None = None


class PlainTurn(IncomingTurn, forbid_unknown_fields=True):
    """The usual turn, without unknown members."""

    response_ms: Int64 | UnsetType = UNSET


# msgspec accepts more forms than Go ("2026-01-01 00:00:00z", "+0530"), so a turn's time is checked as text, too.
# Inside a JSON string the quotes would be escaped, so only members match; a name could evade the search only by
# escaping a letter that needs no escape.
_TIMESTAMP: Final = b'"timestamp"'
_STRICT_MEMBER: Final = re.compile(
    rb'"timestamp":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)"'
)
_strict_members = _STRICT_MEMBER.findall

# The same for one turn, in half the time: the text between `"timestamp"` and the closing quote, each digit made 0.
_STRICT_TIMES: Final = frozenset(
    b':"0000-00-00T00:00:00%b%b' % (b"." + b"0" * digits if digits else b"", zone)
    for digits in range(10)
    for zone in (b"Z", b"+00:00", b"-00:00")
)

_strict_turn = msgspec.json.Decoder(PlainTurn).decode
_strict_turns = msgspec.json.Decoder(list[PlainTurn]).decode
_lenient_turns = msgspec.json.Decoder(list[IncomingTurn]).decode
_plain_turns = msgspec.json.Decoder(list[dict[str, Int64 | float | str | bool | None]]).decode
_raw_list = msgspec.json.Decoder(list[Raw]).decode
_check_times = msgspec.json.Decoder(list[TurnTime], dec_hook=StrictTime.checked).decode
_members = msgspec.json.Decoder(dict[str, Raw]).decode

_ZEROS: Final = {"role": b'""', "content": b'""', "duration_ms": b"0"}
"""The members that each turn has, and what they are if a client leaves them out."""


def check_turns(array: bytes, path: str, depth: int = 3) -> list[IncomingTurn]:
    """Like `turns_in_steps`, in one go."""
    return finished(turns_in_steps(array, path, depth))


def usual_turns(array: bytes) -> list[IncomingTurn] | None:
    """Validate and decode a short array of turns in the form that most clients send; None if one of them is
    unusual or invalid, which takes `check_turns` to tell."""
    try:
        turns = _strict_turns(array)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    for turn in turns:
        if not turn.role.isascii():  # it may have more bytes than characters
            return None
    return turns if _times_are_strict(array) else None  # type: ignore[return-value]  # as below


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
        yield from parts_in_steps(array, path, TURN_PARTS)
        try:
            members = _plain_turns(array)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # nested or invalid: check each value
            members = yield from json_in_steps(array, path, depth, TURN_PARTS)
        for index, names in enumerate(members):
            documents.refuse_shadows(names, documents.TURN_NAMES, f"{path}[{index}]")
    if is_long:
        yield
    if not _times_are_strict(array):
        try:
            _check_times(array)
        except msgspec.ValidationError as error:
            raise params_error(error, path) from error
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
    return value.translate(DIGITS_TO_0) in _STRICT_TIMES and turn.rfind(_TIMESTAMP) == at


def _has_escape(data: bytes, escape: bytes) -> bool:
    return BACKSLASH in data and escape in data


def check_turn(data: bytes, path: str) -> IncomingTurn:
    """Like `turn_in_steps`, in one go."""
    usual = _usual_turn(data) if len(data) <= LONG_BYTES else None
    return finished(turn_in_steps(data, path)) if usual is None else usual


def _usual_turn(data: bytes) -> IncomingTurn | None:
    """Validate and decode a turn in the form that most clients send; None if it is unusual or invalid."""
    if data.isascii() and not _has_escape(data, b"\\u") and _time_is_strict(data):
        try:
            return _strict_turn(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
    return None


def turn_in_steps(data: bytes, path: str) -> Generator[None, None, IncomingTurn]:
    """Validate and decode one turn, in steps if it is long; errors have its path without an index.

    Returns:
        the turn, perhaps without long texts.
    """
    if len(data) > LONG_BYTES:
        data = yield from shortened_in_steps(data, path)
    usual = _usual_turn(data)
    if usual is not None:
        return usual
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
