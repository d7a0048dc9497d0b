"""JSON as the standard library reads it, strictly, and how to compare with it."""

from __future__ import annotations

import json
import math
from typing import Any, Final

MAX_DEPTH: Final = 64
"""The deepest nesting of a message that the protocol allows."""


MAX_DIGITS: Final = 4300
"""Python's limit for the conversion of integers."""


class NotJson(Exception):  # noqa: N818 - an outcome
    """The standard library refuses the text too."""


class TooDeep(Exception):  # noqa: N818 - an outcome
    """It is nested too deeply for the standard library's reader: there is nothing to compare with."""


def read(text: bytes) -> Any:
    """The value of a JSON text in UTF-8; of repeated names the last.

    Raises:
        NotJson: it is not JSON, or not UTF-8.
        TooDeep: the standard library can't say.
    """
    try:
        return json.loads(text.decode(), parse_constant=_refuse, parse_int=_integer)
    except ValueError as error:  # a UnicodeDecodeError too
        raise NotJson(str(error)) from error
    except RecursionError as error:
        raise TooDeep from error


def names(text: bytes) -> list[str]:
    """The names of a JSON object's members, repeated ones as often as they are there."""
    return [name for name, _ in _read_all(text)]


def _read_all(text: bytes) -> Any:
    """As `read`, with each object as the list of its members: of repeated names every value is there."""
    return json.loads(text, object_pairs_hook=list, parse_int=_integer)


def _integer(digits: str) -> Any:
    """An integer; one that is too long for Python's as a text, which differs from all other values."""
    return int(digits) if len(digits) < MAX_DIGITS else f"the integer {digits}"


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def canonical(value: Any) -> str:
    """A text that is equal for equal values, and distinguishes 1, 1.0 and true."""
    return json.dumps(value, sort_keys=True)


def passes_limits(text: bytes, above: int = 0) -> bool:
    """Whether a JSON text is within the protocol's limits: depth, finite doubles, no lone surrogates.

    Args:
        text: what `read` reads.
        above: how many levels of the message it is in.
    """
    level, depth = [_read_all(text)], above
    while level:
        below: list[Any] = []
        for node in level:
            if isinstance(node, list):
                for each in node:
                    below += each if isinstance(each, tuple) else (each,)  # a member's name and value
            elif (isinstance(node, str) and not _is_text(node)) or (
                isinstance(node, float) and not math.isfinite(node)
            ):
                return False
        depth += any(isinstance(node, list) for node in level)
        if depth > MAX_DEPTH:
            return False
        level = below
    return True


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def merged(target: Any, patch: Any) -> Any:
    """A merge patch applied: the pseudocode of RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result
