"""The rules of access, as functions of users and sessions: who may connect, who is an operator, who sees what.

- *Connecting*: whoever `access.allow` names, or everybody that the socket's mode lets in if it is empty.
- *Operators*: root, the daemon's own user, and whoever `access.operators` names. They may always connect.
- *Sessions*, by `access.share`: `all`: everybody sees and changes every session. `uid`: each user its own, those
  that it created. `group`: also those of creators whose primary group it is in. Operators: every session.
- *A session of which neither creator nor group is known* (the Go package wrote it, or a daemon before there were
  users, perhaps on another host) is everybody's, as it was before, until its first claimer makes it its own.
- *A user that is not known*, without a mapping in the daemon's user namespace, is never an operator and owns
  nothing. It sees what is everybody's or its group's, and creates sessions only where its group would own them: one
  that nobody owns would be everybody's.
- *What is an operator's alone* (draining, erasing, stealing and the like) is reserved as soon as sessions are not
  shared by all, or `access.operators` names somebody.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from callstate_client.engine.user import UNKNOWN, User
from callstate_sidecar.access.principals import NONE, Principals

ROOT: Final = 0

Share = Literal["uid", "group", "all"]


class Policy(Struct, frozen=True, kw_only=True):
    """The rules as configured.

    Args:
        share: who sees a session beside its creator and operators.
        allow: who may connect beside operators; None: everybody.
        operators: who is one beside root and the daemon's own user.
        own_uid: the daemon's.
    """

    share: Share = "all"
    allow: Principals | None = None
    operators: Principals = NONE
    own_uid: int = ROOT

    @property
    def restricts(self) -> bool:
        """Whether there is anything that somebody who may connect may not do."""
        return self.share != "all" or self.operators != NONE

    def admits(self, user: User) -> bool:
        """Whether this user may connect."""
        return self.allow is None or self.allow.has(user) or self.is_operator(user)

    def is_operator(self, user: User) -> bool:
        """Whether this user is an operator."""
        return user.uid != UNKNOWN and (user.uid in (ROOT, self.own_uid) or self.operators.has(user))

    def owns(self, user: User, uid: int, gid: int) -> bool:
        """Whether this user sees and changes the sessions of a creator without being an operator.

        Args:
            user: who asks.
            uid: of the creator.
            gid: its primary group.
        """
        if self.share == "all" or uid == gid == UNKNOWN:
            return True
        if uid == user.uid != UNKNOWN:
            return True
        return self.share == "group" and gid in user.groups

    def may_create(self, user: User) -> bool:
        """Whether a session that this user creates would have an owner."""
        is_known = (user.uid, user.gid) != (UNKNOWN, UNKNOWN)
        return self.share == "all" or (is_known and self.owns(user, user.uid, user.gid))
