"""The sessions of a MemoryStore, and what time does to them: suspected, reaped, forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from callstate_client.clock import Clock
from callstate_client.errors import SessionEndedError, SessionNotFoundError
from callstate_client.model import SessionState, Status
from callstate_client.times import ZERO_TIME, format_time, parse_time

OPS_REMEMBERED: Final = 16
"""Results of a session's last so many repeatable mutations (the wire contract)."""

COMPLETED: Final = "completed"
"""Why a session ended when nobody said."""


@dataclass(slots=True)
class Kept:
    """One session.

    Args:
        state: nobody outside has a reference to it.
        version: of the last mutation.
        seq: in the order of being created, for cursors.
        alive_at: last sign of life, monotonic seconds.
        beat_at: same, wall clock.
        ended_mono: when it ended, monotonic seconds.
        reaped: ended by time, not by a worker.
    """

    state: SessionState
    version: int
    seq: int
    alive_at: float
    beat_at: datetime
    labels: dict[str, str] = field(default_factory=dict)
    heartbeat_timeout_s: float | None = None
    max_duration_s: float | None = None
    ended_reason: str = ""
    ended_at: datetime | None = None
    ended_mono: float = 0.0
    reaped: bool = False
    suspect: bool = False
    ops: dict[str, bytes] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether its status is `ended`."""
        return self.state.status == Status.ENDED

    def ended_error(self) -> SessionEndedError:
        """Says when and why."""
        ended_at = None if self.ended_at is None else format_time(self.ended_at)
        text = f"the session has ended: {self.ended_reason}"
        return SessionEndedError(text, ended_at=ended_at, reason=self.ended_reason)


class Shelf:
    """All sessions of one MemoryStore.

    Args:
        clock: tells the time.
        heartbeat_timeout_s: silence after which a session without a timeout of its own is suspected.
        grace_s: how long a suspect may still come back.
        retention_s: how long an ended session is kept.
    """

    def __init__(self, clock: Clock, heartbeat_timeout_s: float, grace_s: float, retention_s: float) -> None:
        self.clock = clock
        self.heartbeat_timeout_s = heartbeat_timeout_s
        self._grace_s = grace_s
        self._retention_s = retention_s
        self._kept: dict[str, Kept] = {}
        self._seq = 0
        self._next_due = float("inf")

    # -- looking --------------------------------------------------------------------------------------------

    def all(self) -> list[Kept]:
        """Every session there is now, in the order of being created."""
        self._catch_up()
        return [*self._kept.values()]

    def behind(self, seq: int) -> Iterator[Kept]:
        """Those created after the one with this `seq`."""
        return (kept for kept in self.all() if kept.seq > seq)

    def get(self, session_id: str) -> Kept | None:
        """The session, or None."""
        self._catch_up()
        return self._kept.get(session_id)

    def find(self, session_id: str) -> Kept:
        """The session.

        Raises:
            SessionNotFoundError: there is none.
        """
        kept = self.get(session_id)
        if kept is None:
            raise SessionNotFoundError(f"no session {session_id}")
        return kept

    # -- changing -------------------------------------------------------------------------------------------

    def create(self, state: SessionState) -> Kept:
        """Put a new session in; `changed` comes next."""
        self._seq += 1
        at = self.clock.now()
        kept = self._kept[state.id] = Kept(state, 0, self._seq, self.clock.monotonic(), at)
        return kept

    def remove(self, session_id: str) -> None:
        """Forget a session, if it is there."""
        self._kept.pop(session_id, None)

    def changed(self, kept: Kept, was_ended: bool, reason: str = COMPLETED) -> None:
        """After a mutation: a new version and time; ended or revived where the status says so."""
        at = self.clock.now()
        kept.version = max(kept.version + 1, int(at.timestamp() * 1_000_000))
        kept.state.updated_at = at
        if not kept.ended:
            kept.ended_reason, kept.ended_at = "", None
            self.beat(kept, at)
        else:
            kept.ended_mono = self.clock.monotonic()
            if not was_ended:
                kept.ended_reason, kept.ended_at = reason, at
        self._due(self._deadline(kept))

    def beat(self, kept: Kept, at: datetime | None = None) -> None:
        """A sign of life, now or at the time the caller has taken already."""
        kept.alive_at, kept.beat_at, kept.suspect = self.clock.monotonic(), at or self.clock.now(), False

    # -- time -----------------------------------------------------------------------------------------------

    def _due(self, deadline: float) -> None:
        self._next_due = min(self._next_due, deadline)

    def _silence(self, kept: Kept) -> float:
        timeout_s = kept.heartbeat_timeout_s
        return kept.alive_at + (self.heartbeat_timeout_s if timeout_s is None else timeout_s)

    def _overtime(self, kept: Kept) -> float:
        if kept.max_duration_s is None:
            return float("inf")
        created = kept.state.created_at
        age_s = 0.0 if created == parse_time(ZERO_TIME) else (self.clock.now() - created).total_seconds()
        return self.clock.monotonic() + kept.max_duration_s - age_s

    def _deadline(self, kept: Kept) -> float:
        """When something happens to it next, or later: beats move it without being noted here."""
        if kept.ended:
            return kept.ended_mono + self._retention_s
        silence = self._silence(kept)
        return min(silence + self._grace_s if kept.suspect else silence, self._overtime(kept))

    def _catch_up(self) -> None:
        """Do what time has done since the last look. Costs nothing while nothing is due."""
        now = self.clock.monotonic()
        if now < self._next_due:
            return
        self._next_due = float("inf")
        for kept in [*self._kept.values()]:
            while (deadline := self._deadline(kept)) <= now:
                if kept.ended:
                    del self._kept[kept.state.id]
                    break
                self._expire(kept, deadline, now)
            else:
                self._due(deadline)

    def _expire(self, kept: Kept, deadline: float, now: float) -> None:
        if self._overtime(kept) > deadline and not kept.suspect:
            kept.suspect = True
            return
        # as if somebody had looked just then
        kept.ended_reason = "max_duration" if self._overtime(kept) <= deadline else "heartbeat_timeout"
        kept.ended_at = self.clock.now() - timedelta(seconds=now - deadline)
        kept.ended_mono = deadline
        kept.reaped = True
        kept.state.updated_at = max(kept.state.updated_at, kept.beat_at)  # the last evidence of life
        kept.state.status = Status.ENDED
        kept.version += 1
