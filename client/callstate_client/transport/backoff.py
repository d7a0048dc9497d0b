"""How long the client waits and how much it takes, whichever its front."""

from __future__ import annotations

import random
from typing import Final

TIMEOUT_S: Final = 5.0
"""How long a call waits for its reply; the daemon answers in well under a millisecond unless it restarts."""

CLOSE_TIMEOUT_S: Final = 10.0
"""How long leaving a call, or closing a store, waits for its last acknowledgements, seconds: a restart takes one or
two, and who stops a service sends SIGKILL after thirty (Kubernetes) or ninety (systemd)."""

REPLY_BYTES: Final = 64 * 1024 * 1024
"""Longest reply line taken: eight sessions of the largest size. A peer that sends more is no callstated."""

SHORTEST_GREETING_S: Final = 1.0
"""What a daemon that is there gets to answer a greeting at least, seconds, also where it is tried just once."""

FIRST_DELAY_S: Final = 0.01
MAX_DELAY_S: Final = 0.5
"""Backoff between attempts to connect: a daemon restarts in tens of milliseconds, and a local connect that
fails costs microseconds, so there is no reason to wait long."""


class Backoff:
    """Pauses between attempts: none before the first, then ever longer ones, jittered."""

    def __init__(self) -> None:
        self._delay_s = 0.0

    def reset(self) -> None:
        """It worked: the next failure is a first one."""
        self._delay_s = 0.0

    def pause_s(self) -> float:
        """How long to wait before the next attempt, seconds."""
        delay_s = self._delay_s
        self._delay_s = min(max(2 * delay_s, FIRST_DELAY_S), MAX_DELAY_S)
        return delay_s * random.uniform(0.5, 1.0)
