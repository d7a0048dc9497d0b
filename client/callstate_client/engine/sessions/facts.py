"""What is known of a session beside its document: who holds it, how it ended, what it may cost.

Kept beside the document and never in it, so that another program that rewrites the document (the Go package) can't
drop it. One frozen struct: a change puts another one in its place (`Session.change_facts`), so that a change is
undone by putting the old one back, and the journal takes it as it is. Not in here is what changes with every turn
and beat (version, counters, last sign of life), what is known of the store, and what is derived.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct


class Facts(Struct, frozen=True, array_like=True, gc=False):
    """One state of a session's facts. The order of the members is that of the journal: new ones go to the end."""

    epoch: int = 0
    """Raised with each change of owner."""
    owner: str = ""
    """The worker that holds it; empty for none."""
    instance: str = ""
    """Which store of that worker: only it keeps the epoch. Empty where it did not say."""
    orphan: str = ""
    """Why it has no owner any more; empty for one that has an owner, or never had one."""
    raised: tuple[int, int] = (-1, -1)
    """The epoch it was raised to when it was merged with the store's state, and the one before, which its owner was
    given and still goes by."""
    labels: dict[str, str] = {}
    """What workers select calls by. Replaced, never changed."""
    heartbeat_timeout_s: float | None = None
    """Silence after which it is suspected; None until it is first watched."""
    max_duration_s: float | None = None
    """Its greatest age; None for no limit."""
    claimed_us: int = 0
    """When its present holder claimed it; 0 for one that created it, and once that hold has been counted."""
    handovers: int = 0
    """How often in a row it was claimed and held for less than a minute; see handovers.py."""
    crashes: int = 0
    """How many of those claimers died."""
    ended_reason: str = ""
    ended_detail: str = ""
    """What the worker said beside the reason, as JSON."""
    ended_us: int = 0
    """Microseconds since 1970; 0 while it lives."""
    reaped: bool = False
    """The daemon ended it, no worker did."""
    status_before: str = ""
    """The status a reaped session had: it gets it back when somebody claims it in time."""


NO_FACTS: Final = Facts()
"""Of a session that nothing is known of but its document."""

NOT_ENDED: Final[Mapping[str, Any]] = {"ended_reason": "", "ended_detail": "", "ended_us": 0, "reaped": False}
"""What `Session.change_facts` takes for a session that lives again."""
