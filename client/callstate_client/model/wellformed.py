"""Normalizing what callers pass: text without lone surrogates, durations in whole milliseconds."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any, Final

from callstate_client.errors import DocumentError
from callstate_client.model.metrics import RESPONSE_MS

LONGEST_MS: Final = 2**63 - 1
"""Longest duration, milliseconds: Go's int64."""


def well_formed(text: str) -> str:
    """The text with each lone surrogate replaced by U+FFFD, as Go does, and each pair by its character."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def as_text(value: object, name: str) -> str:
    """A text as a plain str, even if it is of a subclass, such as an enum's or numpy's.

    Raises:
        DocumentError: it is not a str.
    """
    if type(value) is str:
        return value if value.isascii() else well_formed(value)
    if not isinstance(value, str):
        raise DocumentError(f"{name} must be a string, not {type(value).__name__}")
    return well_formed(str.__str__(value))


def whole_ms(value: Any) -> int:
    """A duration in milliseconds as an int; any real number is rounded.

    Raises:
        DocumentError: it is not a number, negative, not finite or too large.
    """
    if type(value) is int:
        whole = value
    elif isinstance(value, bool | str | bytes) or not (hasattr(value, "__index__") or hasattr(value, "__float__")):
        raise DocumentError(f"a duration must be a number of milliseconds, not {type(value).__name__}")
    else:
        whole = _rounded(value)
    if not 0 <= whole <= LONGEST_MS:
        raise DocumentError(f"a duration must be 0 to 2^63 - 1 milliseconds, not {whole}")
    return whole


def _rounded(value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        pass
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise DocumentError(f"a duration must be a number of milliseconds: {error}") from error
    if not math.isfinite(number):
        raise DocumentError(f"a duration must be a number of milliseconds, not {number}")
    return round(number)


def cleaned(value: Any) -> Any:
    """A JSON value with `well_formed` applied to each text in it; a copy only if something changes.

    Raises:
        DocumentError: it is nested too deeply, or contains itself.
    """
    try:
        return _cleaned(value)
    except RecursionError:
        raise DocumentError("a value is nested too deeply, or contains itself") from None


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, dict):
        items = [(_cleaned(name), _cleaned(inner)) for name, inner in value.items()]
        kept = all(name is old and inner is value[old] for (name, inner), old in zip(items, value, strict=True))
        return value if kept else dict(items)
    if isinstance(value, list | tuple):
        inners = [_cleaned(inner) for inner in value]
        return value if all(map(operator.is_, inners, value)) else inners
    return value


def check_names(extra: Iterable[Any], own: frozenset[str], of: str) -> None:
    """Check the names of extra members.

    Args:
        extra: the names.
        own: the names of defined members, which are not allowed.
        of: what the members belong to, for the error.

    Raises:
        DocumentError: a name is not allowed, or not a string.
    """
    for name in extra:
        if not isinstance(name, str):
            raise DocumentError(f"names of members of {of} must be strings, not {type(name).__name__}")
        if name in own:
            raise DocumentError(f"`{name}` is a member of {of} of its own: pass it by its name, not in extra")


def turn_extra(extra: dict[str, Any] | None, response_ms: Any) -> dict[str, Any] | None:
    """A turn's further members, with its response time if there is one.

    Args:
        extra: the others.
        response_ms: milliseconds; None for none.

    Raises:
        DocumentError: it is not a number of milliseconds.
    """
    return extra if response_ms is None else {**(extra or {}), RESPONSE_MS: whole_ms(response_ms)}


def turn_values(role: object, content: object, duration_ms: Any) -> tuple[str, str, int]:
    """A turn's values, normalized.

    Raises:
        DocumentError: one of them is invalid.
    """
    if (
        type(role) is str and type(content) is str and type(duration_ms) is int
        and 0 <= duration_ms <= LONGEST_MS and role.isascii() and content.isascii()
    ):  # fmt: skip
        return role, content, duration_ms  # as nearly all are
    return as_text(role, "a turn's role"), as_text(content, "a turn's content"), whole_ms(duration_ms)
