"""Cursors whose places are numbers that one run of the engine has given to its entries: they name that run.

After a restart the same numbers are those of other entries. A listing that goes on over it begins anew, so that it
leaves none out; what was on its earlier pages is listed again.
"""

from __future__ import annotations

import re
from typing import Final

from callstate_client.errors import InvalidParamsError

_RUN: Final = re.compile(r"([0-9A-Za-z-]+)@")
"""Before the place, in the cursors of a version that names it."""


def to_cursor(run: str, place: str) -> str:
    """The cursor of a place.

    Args:
        run: as the event stream of this run is named.
        place: in the verb's own form.
    """
    return f"{run}@{place}"


def parse_cursor(cursor: str, form: re.Pattern[str], run: str) -> re.Match[str] | None:
    """The place of a cursor; None: it is of another run.

    Raises:
        InvalidParamsError: its place does not have this form.
    """
    named = _RUN.match(cursor)
    place = form.fullmatch(cursor, 0 if named is None else named.end())
    if place is None:
        raise not_a_cursor()
    return place if named is not None and named[1] == run else None


def not_a_cursor() -> InvalidParamsError:
    """The error for what is none."""
    return InvalidParamsError(
        "not a cursor of this verb at $.params.cursor", path="$.params.cursor", expected="a next_cursor"
    )
