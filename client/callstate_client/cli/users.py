"""Users as the command line shows them: by name, where this host has one."""

from __future__ import annotations

import grp
import pwd
from functools import lru_cache


@lru_cache(maxsize=256)
def _named(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def group_name(gid: int) -> str:
    """The name of a group, or its gid if it has none here."""
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OverflowError):
        return str(gid)


def user_name(uid: int | None) -> str:
    """The name of a user, or its uid if it has none here; empty if no user is known."""
    return "" if uid is None or uid < 0 else _named(uid)
