"""What a store that several hosts share offers them: leases, and taking over each other's sessions.

Only Redis does; the other stores have one host. Every method raises StoreError, nothing else.

- A **lease** is a counter that the daemon of a host raises. Who sees it stand still for long enough knows that the
  host is dead; who sees another daemon raise it knows that two have the same host id.
- Hosts watch each other in a **ring**: each the next few. What one finds dead is noted for all.
- **Taking** a session is a compare-and-set of its meta: it succeeds only where the session still has the host and
  epoch that were seen, so only one of several hosts gets it. It raises the epoch's term, and so fences off what the
  former host writes from then on.
- The **set of a host's sessions** is a hint: it may name too many or too few. Meta is decisive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final, NamedTuple, Protocol

from callstate_client.engine.sessions.stored import StoredSession

TERM_BITS: Final = 20
"""An epoch is term * 2^20 + n: a claim on the same host raises n, one across hosts the term."""


def next_term(epoch: int) -> int:
    """The first epoch of the next term."""
    return ((epoch >> TERM_BITS) + 1) << TERM_BITS


def is_later_term(epoch: int, other: int) -> bool:
    """Whether a session with this epoch has been another host's since it had the other one."""
    return epoch >> TERM_BITS > other >> TERM_BITS


class LeaseReply(NamedTuple):
    """A lease as the store has it.

    Args:
        instance: the daemon that holds it; the caller's own where it was raised just now.
        counter: its counter.
        age_ms: how long before it was last raised, by the store's clock; None: never, as far as the store knows.
    """

    instance: str
    counter: int
    age_ms: int | None


class Surroundings(NamedTuple):
    """What a host sees of the others.

    Args:
        counters: the lease counters of some of them, 0 for none.
        dead: those that any host has found dead of late.
    """

    counters: Mapping[str, int]
    dead: frozenset[str]


class Take(NamedTuple):
    """A session to be taken over.

    Args:
        session_id: its id.
        host: the host that it was seen to belong to.
        epoch: the epoch that it was seen to have.
        owner: the worker that claims it; empty makes it an orphan.
        force: also where it has an owner that is alive: it is stolen, or its host is dead.
        revive: also where its host has reaped it: it lives again, with the status it had.
    """

    session_id: str
    host: str
    epoch: int
    owner: str
    force: bool
    revive: bool = False


class TakeOutcome(Enum):
    """What came of a Take."""

    TAKEN = "taken"
    HELD = "held"
    """Refused: it has an owner, and is no suspect."""
    CHANGED = "changed"
    """Refused: it has another host or epoch by now, or has ended, or is gone. Read it again."""


class Taken(NamedTuple):
    """The result of a Take.

    Args:
        outcome: whether it was taken.
        stored: where it was: the session with its new host and epoch, and the owner and state from before.
    """

    outcome: TakeOutcome
    stored: StoredSession | None = None


class Possession(NamedTuple):
    """Whose a session is, by its meta."""

    host: str
    epoch: int
    state: str


class HostRegistry(Protocol):
    """The hosts that share a store."""

    async def raise_lease(self, instance: str, instead_of: LeaseReply | None = None) -> LeaseReply:
        """Raise this host's lease, unless another daemon holds it.

        Args:
            instance: this daemon.
            instead_of: take it from this daemon if the counter still is what was seen.
        """
        ...

    async def lease_holder(self) -> str:
        """The daemon that has this host's lease; empty for none."""
        ...

    async def look_around(self, ahead: int) -> Surroundings:
        """What this host watches: so many hosts that come after it in the order of their ids, the first one after
        the last; and the hosts that were found dead."""
        ...

    async def note_dead(self, host: str, for_s: float) -> None:
        """A host was found dead, which all others are to know for so many seconds, unless it raises its lease."""
        ...

    async def add_hosts(self, hosts: Sequence[str]) -> None:
        """Hosts that were seen in the meta of sessions have to be watched too."""
        ...

    async def forget_host(self, host: str) -> None:
        """A dead host has no sessions any more."""
        ...

    async def sessions_of(self, host: str, cursor: str) -> tuple[list[str], str]:
        """A page of the set of a host's sessions, and the next cursor, empty after the last."""
        ...

    async def possessions(self, session_ids: Sequence[str]) -> list[Possession | None]:
        """Whose these sessions are, in order; None where no host's."""
        ...

    async def remove_from_set(self, host: str, session_ids: Sequence[str]) -> None:
        """These are not in the host's set any more, as meta says that they are not its own."""
        ...

    async def take(self, takes: Sequence[Take]) -> list[Taken]:
        """Take these sessions over, each by itself; the results in order."""
        ...

    async def taken_away(self) -> list[str]:
        """Some of the sessions that other hosts have taken from this one; a hint, meta is decisive."""
        ...

    async def note_lost(self, session_ids: Sequence[str]) -> None:
        """This host knows that these were taken away."""
        ...

    async def begin_duty(self, name: str, instance: str, hold_s: float) -> bool:
        """Whether this daemon is the one to do something that one host does for all, for so many seconds."""
        ...
