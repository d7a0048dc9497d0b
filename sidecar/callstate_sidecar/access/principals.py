"""Users and groups as `access.allow` and `access.operators` name them, looked up to ids.

    alice, 1000, @voice, @100

is two users and two groups, each by name and by id. Names are looked up once, when the configuration is read:
no request waits for a directory service, and a user who is renamed keeps what the id was given.
"""

from __future__ import annotations

import grp
import pwd
import re
from typing import Final, NamedTuple

from callstate_client.engine.user import MAX_ID, UNKNOWN, User
from callstate_sidecar.access.peer import overflow_id
from callstate_sidecar.config.errors import ConfigError

_GROUP: Final = "@"
_BETWEEN: Final = re.compile(r"[,\s]+")


class Principals(NamedTuple):
    """Some users: by their uids, or as members of groups."""

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    def has(self, user: User) -> bool:
        """Whether this user is one of them, or in one of the groups."""
        return (user.uid != UNKNOWN and user.uid in self.uids) or not self.gids.isdisjoint(user.groups)


NONE: Final = Principals()


def principals(text: str, key: str) -> Principals:
    """The users and groups in a list.

    Args:
        text: names and ids, between them commas or spaces; a group has an @ before it.
        key: the configuration's key for it, for errors.

    Raises:
        ConfigError: there is no such user or group.
    """
    uids, gids = set[int](), set[int]()
    for name in _BETWEEN.split(text.strip(" ,\t\n")) if text.strip(" ,\t\n") else ():
        if name.startswith(_GROUP):
            gids.add(_id(name.removeprefix(_GROUP), "group", key))
        else:
            uids.add(_id(name, "user", key))
    return Principals(frozenset(uids), frozenset(gids))


def _id(name: str, kind: str, key: str) -> int:
    if name.isascii() and name.isdigit():
        found = int(name)
    else:
        try:
            found = pwd.getpwnam(name).pw_uid if kind == "user" else grp.getgrnam(name).gr_gid
        except (KeyError, ValueError) as error:
            hint = "; a group is written @NAME" if kind == "user" else ""
            raise ConfigError(f"{key}: no such {kind}: {name!r}{hint}") from error
    if found > MAX_ID or found == overflow_id("uid" if kind == "user" else "gid"):
        raise ConfigError(f"{key}: {name!r} does not identify a single {kind}")
    return found
