"""Which hosts are dead: those whose lease counter stood still for long enough. Pure: the time is passed in.

Only what this observer has seen counts. Where it could not look, because the store did not answer or the daemon
itself stood still, every watch begins anew: the counters may have moved meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class _Seen(NamedTuple):
    """A counter, and when it was first seen to have this value, monotonic seconds."""

    counter: int
    since: float


class HostWatch:
    """The lease counters of the other hosts.

    Args:
        host_id: this host, which is never dead.
        lease_s: how long a counter may stand still, seconds.
    """

    def __init__(self, host_id: str, lease_s: float) -> None:
        self._host_id = host_id
        self._lease_s = lease_s
        self._seen: dict[str, _Seen] = {}
        self._looked_at: float | None = None

    def look(self, counters: Mapping[str, int], now: float) -> list[str]:
        """Take note of the counters as they are.

        Args:
            counters: by host; 0 for one that has none.
            now: monotonic seconds.

        Returns:
            the hosts that are dead.
        """
        if self._looked_at is not None and now - self._looked_at > self._lease_s / 2:
            self._seen.clear()
        self._looked_at = now
        seen: dict[str, _Seen] = {}
        for host, counter in counters.items():
            before = self._seen.get(host)
            unmoved = before is not None and before.counter == counter
            seen[host] = before if before is not None and unmoved else _Seen(counter, now)
        self._seen = seen
        return [host for host in seen if self.is_dead(host)]

    def interrupted(self) -> None:
        """The counters could not be read: what moved meanwhile is not known."""
        self._seen.clear()

    def knows(self, host: str) -> bool:
        """Whether this host is watched."""
        return host in self._seen or host == self._host_id

    def is_dead(self, host: str) -> bool:
        """Whether this host's counter stood still for the whole lease, as of the last look."""
        seen = self._seen.get(host)
        if seen is None or self._looked_at is None or host == self._host_id:
            return False
        return self._looked_at - seen.since >= self._lease_s
