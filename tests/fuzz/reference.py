"""JSON as the standard library reads it, strictly, and how to compare with it."""

from __future__ import annotations

import json
import math
from typing import Any, Final

MAX_DEPTH: Final = 64
"""The deepest nesting of a message that the protocol allows."""


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
        return json.loads(text.decode(), parse_constant=_refuse)
    except ValueError as error:  # a UnicodeDecodeError too, and an integer of more than 4,300 digits
        raise NotJson(str(error)) from error
    except RecursionError as error:
        raise TooDeep from error


def names(text: bytes) -> list[str]:
    """The names of an object's members, repeated ones as often as they are there."""
    objects: list[list[tuple[str, Any]]] = []

    def keep(members: list[tuple[str, Any]]) -> dict[str, Any]:
        objects.append(members)
        return dict(members)

    json.loads(text, object_pairs_hook=keep)
    return [name for name, _ in objects[-1]]


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def canonical(value: Any) -> str:
    """A text that is equal for equal values, and distinguishes 1, 1.0 and true."""
    return json.dumps(value, sort_keys=True)


def passes_limits(value: Any) -> bool:
    """Whether a value is within the protocol's limits: depth, finite doubles, no lone surrogates."""
    level, depth = [value], 0
    while level:
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                below += [*node, *node.values()]
            elif isinstance(node, list):
                below += node
            elif (isinstance(node, str) and not _is_text(node)) or (
                isinstance(node, float) and not math.isfinite(node)
            ):
                return False
        depth += any(isinstance(node, dict | list) for node in level)
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
