"""What time does to the sessions of a MemoryStore, and when. Pure: no clock is asked.

live          silent for its timeout          -> suspect
suspect       silent for the grace            -> ended, reaped
live, suspect older than its max_duration_s   -> ended, reaped
ended         its retention is over           -> forgotten
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from callstate_client.engine_kept import Kept

SILENT: Final = "heartbeat_timeout"
EXITED: Final = "worker_exited"
OVERTIME: Final = "max_duration"
POISONED: Final = "poisoned"
RELEASED: Final = "released"
DISCONNECTED: Final = "disconnected"


@dataclass(slots=True, frozen=True)
class Spans:
    """How long things take, seconds.

    Args:
        heartbeat_timeout_s: silence after which a session without a timeout of its own is suspected.
        grace_s: how long a suspect may still come back.
        retention_s: how long an ended session is kept.
        reconnect_grace_s: how long a worker that lives may be without a view before its sessions are orphans.
        max_handovers: so many claimers a call may kill, each within a minute of its claim; 0: any number.
    """

    heartbeat_timeout_s: float = 30.0
    grace_s: float = 30.0
    retention_s: float = 300.0
    reconnect_grace_s: float = 5.0
    max_handovers: int = 3


class Fate(Enum):
    """What time does."""

    SUSPECT = "suspect"
    REAP = "reap"
    REAP_OVERTIME = "reap_overtime"
    FORGET = "forget"


def next_fate(kept: Kept, spans: Spans) -> tuple[float, Fate]:
    """When time does something to this session if nobody else does before, monotonic seconds; and what."""
    if kept.ended:
        return kept.ended_mono + spans.retention_s, Fate.FORGET
    if kept.suspicion:
        silence, fate = kept.suspect_at + spans.grace_s, Fate.REAP
    else:
        silence, fate = kept.alive_at + kept.awaited_s, Fate.SUSPECT
    if kept.max_duration_s is not None and (overtime := kept.born_at + kept.max_duration_s) <= silence:
        return overtime, Fate.REAP_OVERTIME
    return silence, fate
