"""How long the client waits: for replies, between attempts, and when it closes. Also the longest reply."""

from __future__ import annotations

import random
from typing import Final, NamedTuple

TIMEOUT_S: Final = 5.0
"""How long a call waits for its reply, seconds. The daemon answers within a millisecond unless it restarts."""

CLOSE_TIMEOUT_S: Final = 10.0
"""How long leaving a call, or closing a store, waits for outstanding acknowledgements, seconds: a restart of the
daemon takes one or two, and service managers send SIGKILL after thirty (Kubernetes) or ninety (systemd)."""

SHORTEST_HANDSHAKE_S: Final = 1.0
"""The least time a listening daemon gets for a handshake, seconds, even if connecting is tried only once."""

REPLY_BYTES: Final = 64 * 1024 * 1024
"""Longest reply line accepted, bytes: eight sessions of the largest size. callstated sends no longer ones."""


class Delays(NamedTuple):
    """Exponential delays: each twice the one before.

    Args:
        first_s: the first delay, seconds.
        longest_s: the upper bound, seconds.
        at_once: the first retry has no delay.
    """

    first_s: float
    longest_s: float
    at_once: bool = False

    def after_s(self, failures: int) -> float:
        """The delay after this many consecutive failures, 1 or more, without jitter; seconds."""
        return min(self.first_s * 2.0 ** min(failures - 1, 60), self.longest_s)


CONNECT: Final = Delays(0.01, 0.5, at_once=True)
"""Between attempts to connect: a daemon restarts in tens of milliseconds, and a failed local connect costs
microseconds, so delays can be short."""

DELIVER: Final = Delays(0.05, 2.0)
"""Between attempts to deliver a queued change to a daemon that answers with a retryable error."""

RESTART: Final = Delays(0.02, 0.5)
"""Between attempts to reach the daemon that follows one which is stopping. A stop may take ten seconds, for a slow
store; the next daemon may answer tens of milliseconds later."""

HEARTBEAT: Final = Delays(0.1, 1.0)
"""Between attempts to send a heartbeat: short compared with the third of a timeout between two heartbeats."""

RECOVER: Final = Delays(0.01, 0.5)
"""Between attempts to look for orphans while the daemon answers with a retryable error."""


class Backoff:
    """The delays between consecutive failures, jittered so that clients of one daemon don't retry in step."""

    def __init__(self, delays: Delays) -> None:
        self._delays = delays
        self._failures = 0

    def reset(self) -> None:
        """After a success: the next failure counts as the first."""
        self._failures = 0

    def pause_s(self) -> float:
        """How long to wait before the next attempt, seconds: half to all of the delay."""
        number = self._failures + (not self._delays.at_once)
        self._failures += 1
        return self._delays.after_s(number) * random.uniform(0.5, 1.0) if number else 0.0
