"""What a MemoryStore keeps of a session, and the moment at which something happens to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

from callstate_client.errors import SessionEndedError
from callstate_client.model.state import SessionState, Status
from callstate_client.model.times import ZERO_TIME, format_time, parse_time

SHORT_S: Final = 60.0
"""Who holds a call for a minute has got over its start: what ends it then counts as no failure."""


class Moment(NamedTuple):
    """One moment on both clocks.

    Args:
        mono: for spans, seconds.
        wall: for documents and events, UTC.
    """

    mono: float
    wall: datetime


@dataclass(slots=True, eq=False)
class Kept:
    """One session.

    Args:
        state: nobody outside has a reference to it.
        seq: in the order of being created, for cursors.
        alive_at: what its timeout is counted from, monotonic seconds.
        beat_at: last sign of life, wall clock.
        heartbeat_timeout_s: silence after which it is suspected, seconds.
        known_timeout_s: the one before, while its owner has not been told that somebody else has changed it.
        version: of the last mutation.
        epoch: changes with the owner.
        owner: the worker that holds it; empty: none.
        instance: which store of that worker; empty where it did not say.
        claimed_at: when whoever holds it claimed it, monotonic seconds; None: it created it, or that is counted.
        handovers: how often in a row it was claimed and not held for a minute.
        crashes: how many of those claimers died.
        orphan: why it has no owner any more; empty: it has one, or never had.
        orphan_at: since when, monotonic seconds.
        suspicion: why it is suspected; empty: it is not.
        suspect_at: since when, monotonic seconds.
        born_at: what its duration is counted from, monotonic seconds.
        born: the `created_at` that this was reckoned from.
        ended_detail: what was said beside the reason, as JSON.
        ended_mono: when it ended, monotonic seconds.
        reaped: ended by time, not by a worker.
        status_before: that it had when it was reaped.
        fenced_epoch: the last one in which somebody's refusal was told.
        full: a turn had no room, which was told; until one is amended to something shorter.
        due: when time has to look at it next; see Agenda.
    """

    state: SessionState
    seq: int
    alive_at: float
    beat_at: datetime
    heartbeat_timeout_s: float
    known_timeout_s: float | None = None
    version: int = 0
    epoch: int = 0
    owner: str = ""
    full: bool = False
    instance: str = ""
    claimed_at: float | None = None
    handovers: int = 0
    crashes: int = 0
    orphan: str = ""
    orphan_at: float = 0.0
    labels: dict[str, str] = field(default_factory=dict)
    max_duration_s: float | None = None
    suspicion: str = ""
    suspect_at: float = 0.0
    born_at: float = 0.0
    born: str = ""
    ended_reason: str = ""
    ended_detail: bytes | None = None
    ended_at: datetime | None = None
    ended_mono: float = 0.0
    reaped: bool = False
    status_before: str = ""
    fenced_epoch: int | None = None
    ops: dict[str, bytes] = field(default_factory=dict)
    due: float = float("inf")

    def reckon_age(self, at: Moment) -> None:
        """Note when the call began, on the clock that nobody sets. How old it is by the wall clock is asked once,
        and again where somebody gives it another `created_at`."""
        if self.born == self.state._created_at:
            return
        created = self.state.created_at
        age_s = 0.0 if created == parse_time(ZERO_TIME) else (at.wall - created).total_seconds()
        self.born, self.born_at = self.state._created_at, at.mono - age_s

    def hold_ended(self, at: Moment, *, crashed: bool = False) -> None:
        """Whoever claimed it holds it no more: counted once a claim, and not for who created it."""
        if self.claimed_at is None:
            return
        if at.mono - self.claimed_at < SHORT_S:
            self.handovers += 1
            self.crashes += crashed
        else:
            self.handovers = self.crashes = 0
        self.claimed_at = None

    @property
    def awaited_s(self) -> float:
        """After how much silence it is suspected: not before its owner could know that it shall be."""
        return max(self.heartbeat_timeout_s, self.known_timeout_s or 0.0)

    @property
    def ended(self) -> bool:
        """Whether its status is `ended`."""
        return self.state.status == Status.ENDED

    def is_in(self, state: str) -> bool:
        """Whether it is live, suspect or an orphan; restored is none of what is in memory alone."""
        if self.ended:
            return False
        if state == "live":
            return not (self.suspicion or self.orphan)
        return bool({"suspect": self.suspicion, "orphan": self.orphan}.get(state))

    def ended_error(self) -> SessionEndedError:
        """Says when and why."""
        ended_at = None if self.ended_at is None else format_time(self.ended_at)
        text = f"the session has ended: {self.ended_reason}"
        return SessionEndedError(text, ended_at=ended_at, reason=self.ended_reason)


@dataclass(slots=True, eq=False)
class Grave:
    """What a deleted session leaves for a while: one newly created under its id goes on from there.

    Args:
        ops: results of repeatable mutations of what was deleted, and of the deletion.
        made_at: monotonic seconds.
    """

    session_id: str
    version: int
    epoch: int
    ops: dict[str, bytes]
    made_at: float
    due: float = float("inf")
