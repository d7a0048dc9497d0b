"""Points in time: RFC 3339 text as Go's encoding/json and callstate write it, datetimes, and integer microseconds.

Documents carry text, which may be finer than a datetime (Go writes nanoseconds) and earlier (Go has a year 0). Code
that computes with times uses microseconds since 1970 (`format_us`, `parse_us`); workers see datetimes.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from time import time_ns
from typing import Any, Final, overload

ZERO_TIME: Final = "0001-01-01T00:00:00Z"
"""Go's zero time.Time: the value of a field that was not set."""

YEAR_0: Final = "0000-"
"""Go's calendar has it, datetimes don't. Accepted from a store, but not from clients."""

MIN_US: Final = -62_135_596_800_000_000
"""0001-01-01T00:00:00Z in microseconds since 1970: the earliest time of a datetime."""

MAX_US: Final = 253_402_300_799_999_999
"""9999-12-31T23:59:59.999999Z, the latest."""

_FIRST: Final = datetime(1, 1, 1, tzinfo=UTC)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

# Go's time.Time.UnmarshalJSON accepts this, so only this may be written where Go reads (RFC 3339, 5.6). Of a
# fraction it takes nine digits and skips the others (time.parseNanoseconds).
_STRICT = re.compile(
    r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?"
    r"(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
)


def now() -> datetime:
    """The present time in UTC."""
    return datetime.now(UTC)


@lru_cache(maxsize=64)
def _second(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat()[:19]


def format_us(at_us: int) -> str:
    """RFC 3339 text of microseconds since 1970.

    The text of the whole second is cached, since most calls are for the present second.
    """
    seconds, fraction = divmod(at_us, 1_000_000)
    return f"{_second(seconds)}.{fraction:06d}Z" if fraction else f"{_second(seconds)}Z"


def now_text() -> str:
    """The present time as RFC 3339 text, as `format_time(now())`."""
    return format_us(time_ns() // 1000)


def format_time(at: datetime) -> str:
    """RFC 3339 in UTC with `Z`.

    Raises:
        ValueError: the datetime has no timezone, so which moment it means is unknown.
    """
    if at.tzinfo is None:
        raise ValueError("a datetime without a timezone names no moment; give it one, such as datetime.now(UTC)")
    try:
        if at.tzinfo is not UTC:
            at = at.astimezone(UTC)
    except OverflowError:  # in year 1 or 9999, with an offset that leads out of it
        return at.isoformat()
    return at.isoformat().removesuffix("+00:00") + "Z"


def parse_time(text: str) -> datetime:
    """The datetime of RFC 3339 text, truncated to microseconds.

    Go has a year 0, a datetime does not: all of it becomes the first moment of year 1.

    Raises:
        ValueError: not RFC 3339 as Go reads it.
    """
    if _STRICT.fullmatch(text) is None:
        raise ValueError("not an RFC 3339 time")  # not the text: errors end up in logs
    if text.startswith(YEAR_0):
        datetime.fromisoformat("0004" + text[4:])  # a leap year too: raises if there is no such day
        return _FIRST
    return datetime.fromisoformat(text)


def parse_us(text: str) -> int:
    """Microseconds since 1970 of RFC 3339 text; negative before 1970.

    Text whose offset leads out of the years 1 to 9999 is clamped to `MIN_US` or `MAX_US`.

    Raises:
        ValueError: not RFC 3339 as Go reads it.
    """
    delta = parse_time(text) - _EPOCH
    at_us = (delta.days * 86400 + delta.seconds) * 1_000_000 + delta.microseconds
    return max(MIN_US, min(at_us, MAX_US))


MAX_UTC_CHARS: Final = len("2026-01-01T00:00:00.123456789Z")
"""The longest time in UTC."""

MAX_TIME_CHARS: Final = 64
"""No time is longer, and a cache must not keep longer texts that clients send."""


def is_time(text: str) -> bool:
    """Whether this is RFC 3339 as Go reads it."""
    if text[19:20] == "." and text[-1] == "Z" and len(text) <= MAX_UTC_CHARS:  # as callstate and Go write them
        fraction = text[20:-1]
        return fraction.isdigit() and fraction.isascii() and _is_time(text[:19] + "Z")
    return len(text) <= MAX_TIME_CHARS and _is_time(text)


@lru_cache(maxsize=4096)  # most are of the seconds that have just passed, or of a document that is saved again
def _is_time(text: str) -> bool:
    try:
        parse_time(text)
    except ValueError:
        return False
    return True


class Instant:
    """Descriptor of a point in time that is stored as text and parsed when read.

    A datetime has microseconds and Go writes nanoseconds: what is not assigned is written back unchanged.
    The text is in the slot named like the field with an underscore before it.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._slot = "_" + name

    @overload
    def __get__(self, instance: None, owner: type) -> Instant: ...
    @overload
    def __get__(self, instance: object, owner: type) -> datetime: ...
    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        return parse_time(getattr(instance, self._slot))

    def __set__(self, instance: Any, value: datetime) -> None:
        setattr(instance, self._slot, format_time(value))
