"""Which hosts are dead: those whose lease counter stood still for long enough. Pure: the time is passed in.

Only what this observer has seen counts. Where it could not look, because the store did not answer or the daemon
itself stood still, every watch begins anew: the counters may have moved meanwhile.

Each host watches the next few in the order of their ids, the first one after the last, so that what a host reads
does not grow with their number. If those are all dead, it watches others behind them. A host that any other found
dead is dead here too, unless its counter was seen to move.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from callstate_sidecar.stores.hosts import Surroundings

WATCHED_HOSTS: Final = 3
"""Live hosts that each host watches: if it dies together with one of them, two others still watch that one."""

MOST_WATCHED_HOSTS: Final = 100
"""Maximum number of hosts to look at, including dead ones that nobody has room for. A request for so many takes
less than a millisecond."""


class _Seen(NamedTuple):
    """A counter, and when it was first seen to have this value, monotonic seconds."""

    counter: int
    since: float


class HostWatch:
    """The lease counters of the next hosts, and what others have found out about theirs.

    Args:
        host_id: this host, which is never dead.
        lease_s: how long a counter may stand still, seconds.
    """

    def __init__(self, host_id: str, lease_s: float) -> None:
        self._host_id = host_id
        self._lease_s = lease_s
        self._seen: dict[str, _Seen] = {}
        self._looked_at: float | None = None
        self._declared: frozenset[str] = frozenset()

    @property
    def ahead(self) -> int:
        """How many hosts to look at."""
        return min(MOST_WATCHED_HOSTS, WATCHED_HOSTS + sum(map(self._stands_still, self._seen)))

    def look(self, surroundings: Surroundings, now: float) -> list[str]:
        """Take note of the counters as they are.

        Args:
            surroundings: of this host.
            now: monotonic seconds.

        Returns:
            the watched hosts that are dead.
        """
        if self._looked_at is not None and now - self._looked_at > self._lease_s / 2:
            self._seen.clear()
        self._looked_at = now
        seen, moved = dict[str, _Seen](), {self._host_id}
        for host, counter in surroundings.counters.items():
            before = self._seen.get(host)
            if before is not None and before.counter == counter:
                seen[host] = before
            else:
                seen[host] = _Seen(counter, now)
                moved |= set() if before is None else {host}
        self._seen = seen
        self._declared = surroundings.dead - moved
        return [host for host in seen if self._stands_still(host)]

    def interrupted(self) -> None:
        """The counters could not be read: what moved meanwhile is not known."""
        self._seen.clear()
        self._declared = frozenset()

    def knows(self, host: str) -> bool:
        """Whether this host is watched here, or another host has found it dead."""
        return host in self._seen or host in self._declared or host == self._host_id

    def is_dead(self, host: str) -> bool:
        """Whether this host's counter stood still for the whole lease, as of the last look, here or at another
        host."""
        return host in self._declared or self._stands_still(host)

    def _stands_still(self, host: str) -> bool:
        seen = self._seen.get(host)
        if seen is None or self._looked_at is None or host == self._host_id:
            return False
        return self._looked_at - seen.since >= self._lease_s
