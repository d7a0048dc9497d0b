"""msgspec's decode errors as wire errors: the path of the fault, and what was expected there."""

from __future__ import annotations

import re

import msgspec

from callstate_client.errors import InvalidParamsError, ParseError
from callstate_client.protocol.params import MAX_DEPTH

_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `(?P<place>.*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `(?P<name>.*)`")
_MISSING = re.compile(r"missing required field `(?P<name>.*)`")
_WANTED = re.compile(r"Expected (?P<expected>.*?)(?:, got .*)?$", re.DOTALL)


def params_error(error: msgspec.ValidationError, path: str = "$.params") -> InvalidParamsError:
    """The wire error for a failed decode: the path from the message's root, and what was expected."""
    match = _PLACE.match(str(error))
    what, place = (match["what"], match["place"]) if match else (str(error), None)
    where = path + place[1:] if place else path
    wanted = _WANTED.search(what)
    expected = wanted["expected"].replace("`", "") if wanted else None
    unknown = _UNKNOWN.search(what)
    if unknown:  # reported by its path, like every other fault
        where, expected = f"{where}.{unknown['name']}", "no such member"
    missing = _MISSING.search(what)
    if missing:
        where, expected = f"{where}.{missing['name']}", "this member"
    if expected is None:
        expected = "RFC 3339 time" if "RFC3339" in what or "RFC 3339" in what else "a number of at most 64 bits"
    return InvalidParamsError(f"{what} at {where}", path=where, expected=expected)


def undecodable(error: Exception, path: str) -> ParseError:
    """The wire error for JSON that can't be decoded: malformed, or nested too deep for the decoder."""
    what = f"nested deeper than {MAX_DEPTH}" if isinstance(error, RecursionError) else str(error)
    return ParseError(f"{what} at {path}", path=path)
