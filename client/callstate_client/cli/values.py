"""The values that options take; argparse prints the text of an ArgumentTypeError after the option's name."""

from __future__ import annotations

import math
import re
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final

from callstate_client.model.times import now, parse_time
from callstate_client.protocol.events import Cursor
from callstate_client.protocol.ids import SESSION_ID_RULE, is_session_id

_AGO: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def positive(text: str) -> float:
    """A number over 0."""
    value = _number(text)
    if not value > 0:
        raise ArgumentTypeError(f"expected a number above 0, not {text!r}")
    return value


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"expected a fraction from 0 to 1, not {text!r}")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ArgumentTypeError(f"expected a number, not {text!r}")
    return value


def count(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"expected a whole number, 1 or more, not {text!r}")
    return int(text)


def label(text: str) -> tuple[str, str]:
    """NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ArgumentTypeError(f"expected NAME=VALUE, not {text!r}")
    return name, value


def cursor(text: str) -> Cursor:
    """STREAM:SEQ, a place in the stream of events."""
    stream, _, seq = text.rpartition(":")
    if not (stream and seq.isascii() and seq.isdigit() and len(seq) <= 18):
        raise ArgumentTypeError(f"expected STREAM:SEQ, such as 9f2c61d07a3be458:17, not {text!r}")
    return Cursor(stream, int(seq))


def session_id(text: str) -> str:
    """A session's id."""
    if not is_session_id(text):
        raise ArgumentTypeError(f"expected {SESSION_ID_RULE}, not {text!r}")
    return text


def since(text: str) -> datetime:
    """An RFC 3339 time, or an age."""
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            return now() - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
        return parse_time(text)
    except (ValueError, OverflowError) as error:
        expected = "a time such as 2026-05-01T12:00:00Z or an age such as 10m"
        raise ArgumentTypeError(f"expected {expected}, not {text!r}") from error


def names_of(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """Some of these names, separated by commas."""

    def names(text: str) -> tuple[str, ...]:
        return tuple(_known(name.strip(), known) for name in text.split(","))

    return names


def sort_key_of(known: Iterable[str]) -> Callable[[str], tuple[str, bool]]:
    """One of these names, and whether a dash before it says to sort backwards."""

    def key(text: str) -> tuple[str, bool]:
        return _known(text.removeprefix("-"), known), text.startswith("-")

    return key


def _known(name: str, known: Iterable[str]) -> str:
    if name not in known:
        raise ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
    return name
