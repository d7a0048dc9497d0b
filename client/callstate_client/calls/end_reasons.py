"""Which exceptions end the call that they leave the block of, and by what word."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from callstate_client.protocol.ids import MAX_NAME_BYTES

__all__ = ["EndOn", "end_classes", "end_reason", "ended_by"]

EndOn = type[BaseException] | Iterable[type[BaseException]]
"""Exceptions that mean the call is over: one class, or several."""

_WORD_START: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def end_reason(error: BaseException) -> str:
    """The word for a call that an exception ended: its `reason`, else its class's name in snake case, cut to the
    bytes that a reason may have."""
    reason = getattr(error, "reason", None)
    word = reason if isinstance(reason, str) and reason else _WORD_START.sub("_", type(error).__name__).lower()
    return word.encode(errors="replace")[:MAX_NAME_BYTES].decode(errors="ignore")


def end_classes(end_on: EndOn) -> tuple[type[BaseException], ...]:
    """The classes as one tuple.

    Raises:
        TypeError: there is something else among them.
    """
    classes = (end_on,) if isinstance(end_on, type) else tuple(end_on)
    for cls in classes:
        given: object = cls  # by callers whom no type checker has seen
        if not (isinstance(given, type) and issubclass(given, BaseException)):
            raise TypeError(f"end_on takes exception classes, not {cls!r}")
    return classes


def ended_by(error: BaseException, classes: tuple[type[BaseException], ...]) -> BaseException | None:
    """The exception that says the call is over: this one, or one within the group that it is; None for none.

    One of a group is enough, whatever else is in it: that the caller has hung up stays true when, as usual then,
    another task of the group fails for it.
    """
    if isinstance(error, classes):
        return error
    if not isinstance(error, BaseExceptionGroup):
        return None
    for inner in error.exceptions:
        found = ended_by(inner, classes)
        if found is not None:
            return found
    return None
