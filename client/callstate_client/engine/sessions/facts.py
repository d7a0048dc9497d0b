"""The facts kept beside a session's document: its owner, how it ended, its timeouts.

They are never part of the document, so that another program that rewrites it (the Go package) can't drop them.
One frozen struct: a change replaces it (`Session.change_facts`), a rollback puts the old one back, and the journal
writes it unchanged. Not in here: what changes with every turn and heartbeat (version, counters, last sign of life),
what is known about the store, and what is derived.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from callstate_client.engine.user import UNKNOWN


class Facts(Struct, frozen=True, array_like=True, gc=False):
    """One state of a session's facts. The journal depends on the members' order: append new ones."""

    epoch: int = 0
    """Raised with each change of owner."""
    owner: str = ""
    """The worker that holds it; empty for none."""
    instance: str = ""
    """The store instance of that worker: only this one keeps the epoch. Empty if it gave none."""
    orphan: str = ""
    """Why it no longer has an owner; empty if it has one or never had."""
    raised: tuple[int, int] = (-1, -1)
    """The epoch to which a merge with the store's state raised it, and the previous one, which its owner was given
    and still uses."""
    labels: dict[str, str] = {}
    """By which workers select calls. Replaced, never changed in place."""
    heartbeat_timeout_s: float | None = None
    """Silence after which it is suspected; None until it is first watched."""
    max_duration_s: float | None = None
    """Its maximum age; None for no limit."""
    claimed_us: int = 0
    """When its present owner claimed it; 0 if the owner created it, and once the hold has been counted."""
    handovers: int = 0
    """How many times in a row it was claimed and held for less than a minute; see handovers.py."""
    crashes: int = 0
    """How many of those claimers died."""
    ended_reason: str = ""
    ended_detail: str = ""
    """What the worker gave in addition to the reason, as JSON."""
    ended_us: int = 0
    """Microseconds since 1970; 0 while it lives."""
    reaped: bool = False
    """The daemon ended it, not a worker."""
    status_before: str = ""
    """The status of a session before it was reaped, restored if it is claimed in time."""
    uid: int = UNKNOWN
    gid: int = UNKNOWN
    """The user and primary group that created it. UNKNOWN for one that the Go package wrote, or a daemon before
    there were users; then its first claimer's."""


NO_FACTS: Final = Facts()
"""For a session of which only the document is known."""

NOT_ENDED: Final[Mapping[str, Any]] = {"ended_reason": "", "ended_detail": "", "ended_us": 0, "reaped": False}
"""The arguments of `Session.change_facts` for a session that is revived."""
