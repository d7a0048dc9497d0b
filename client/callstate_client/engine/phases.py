"""The phases of hot sessions (live, suspect, ended), and the transitions between them as data.

phase     which sessions are in it                            what happens when its span ends
LIVE      a session that has not ended, with an owner,        suspected
          without one yet, or an orphan
SUSPECT   one that was silent for its timeout, or whose       reaped
          owner's process has exited
ENDED     one that has ended, still hot                       evicted, once the store has it
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class Phase(Enum):
    """The phase of a session."""

    LIVE = "live"
    SUSPECT = "suspect"
    ENDED = "ended"


class Evidence(Enum):
    """An observation about a session."""

    LIFE = "life"
    """A heartbeat or a mutation that counts as a sign of life."""
    SILENCE = "silence"
    """Nothing for the span of its phase."""
    OVERTIME = "overtime"
    """Its maximal duration is reached."""
    EXIT = "process_exited"
    """The process of its owner has exited."""
    OWNER = "owner"
    """It was claimed; or it became an orphan, because its owner released it or is disconnected."""
    END = "end"
    """It was ended."""
    REVIVAL = "revival"
    """It was given another status again, or was claimed after it had been reaped."""


TRANSITIONS: Final[Mapping[tuple[Phase, Evidence], Phase | None]] = {
    (Phase.LIVE, Evidence.LIFE): Phase.LIVE,
    (Phase.LIVE, Evidence.OWNER): Phase.LIVE,
    (Phase.LIVE, Evidence.SILENCE): Phase.SUSPECT,
    (Phase.LIVE, Evidence.EXIT): Phase.SUSPECT,
    (Phase.LIVE, Evidence.OVERTIME): Phase.ENDED,
    (Phase.LIVE, Evidence.END): Phase.ENDED,
    (Phase.SUSPECT, Evidence.LIFE): Phase.LIVE,
    (Phase.SUSPECT, Evidence.OWNER): Phase.LIVE,
    (Phase.SUSPECT, Evidence.SILENCE): Phase.ENDED,
    (Phase.SUSPECT, Evidence.OVERTIME): Phase.ENDED,
    (Phase.SUSPECT, Evidence.END): Phase.ENDED,
    (Phase.ENDED, Evidence.LIFE): Phase.ENDED,  # a late turn; a late heartbeat is refused
    (Phase.ENDED, Evidence.END): Phase.ENDED,
    (Phase.ENDED, Evidence.REVIVAL): Phase.LIVE,
    (Phase.ENDED, Evidence.SILENCE): None,  # evicted: only the store has it
}
"""(phase, evidence) to the next phase; None leaves the hot map. What is not listed can't happen."""
