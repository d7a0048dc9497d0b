"""The phases of hot sessions (live, suspect, ended) and their deadlines; the transitions as data.

Pure: `now` is passed in, seconds of the clock's `live()`, which stands still while the daemon does.

    phase     which sessions are in it                            what happens when its span ends
    LIVE      a session that has not ended, with an owner,        suspected
              without one yet, or an orphan
    SUSPECT   one that was silent for its timeout, or whose       reaped
              owner's process has exited
    ENDED     one that has ended, still hot                       evicted, once the store has it

Sessions of one phase and one span share a queue, in the order of their last evidence. So a heartbeat moves one
session to the end of its queue, and a tick reads only the fronts: its cost depends on what expires, not on what is
live. The spans are those of the phases and the timeouts given to sessions, of which many share a queue if there are
many (span_classes.py). Limits of a call's duration, which heartbeats do not move, are in a heap.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from itertools import islice, takewhile
from typing import Final

from callstate_client.engine.deadlines import Deadlines
from callstate_client.engine.span_classes import EXACT_SPANS, class_of
from callstate_client.engine.table.label_index import LabelIndex

LATER_LOOKED_AT: Final = 1000
"""How many sessions with later evidence are moved behind one whose timeout changes, in a fraction of a
millisecond."""


class Phase(Enum):
    """The phase of a session."""

    LIVE = "live"
    SUSPECT = "suspect"
    ENDED = "ended"


_LIVE: Final = Phase.LIVE
"""Looked up once, for `beat`: a member of an enum takes several times as long as a global name."""


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


class _Queue:
    """Sessions of one phase and one span, ordered by last evidence."""

    __slots__ = ("order", "phase", "span_s")

    def __init__(self, phase: Phase, span_s: float) -> None:
        self.phase = phase
        self.span_s = span_s
        self.order: OrderedDict[str, float] = OrderedDict()


class Liveness:
    """The deadlines of all hot sessions.

    Args:
        timeout_s: silence after which a session without a timeout of its own is suspected.
        grace_s: how long a suspect may still recover.
        retention_s: how long an ended session stays hot.
    """

    def __init__(self, timeout_s: float, grace_s: float, retention_s: float) -> None:
        self.timeout_s = timeout_s
        self._suspects = _Queue(Phase.SUSPECT, grace_s)
        self._labelled = LabelIndex()
        """The suspects, indexed by their labels."""
        self._ended = _Queue(Phase.ENDED, retention_s)
        self._live: dict[float, _Queue] = {}
        self._of: dict[str, _Queue] = {}
        self._limits = Deadlines()

    def __len__(self) -> int:
        return len(self._of)

    @property
    def retention_s(self) -> float:
        """How long an ended session stays hot, and may be claimed if it was reaped, seconds."""
        return self._ended.span_s

    def phase(self, session_id: str) -> Phase | None:
        """The phase of a session; None: it is not watched."""
        queue = self._of.get(session_id)
        return queue.phase if queue else None

    @property
    def suspects(self) -> LabelIndex:
        """The suspects in the order of claiming, the one suspected longest first; to be read."""
        return self._labelled

    @property
    def ended(self) -> Collection[str]:
        """The ended sessions that are still hot, in the order of their ends or their last late turns."""
        return self._ended.order.keys()

    def suspect_place(self, session_id: str) -> int | None:
        """Its place among the suspects; None if it is not one."""
        return self._labelled.place(session_id)

    def move_suspects_back(self, places: Mapping[str, int]) -> None:
        """Restore the earlier places of those that are suspects again."""
        self._labelled.move_back(places)

    def relabel(self, session_id: str, labels: Mapping[str, str]) -> None:
        """Update a session's labels."""
        if session_id in self._labelled:
            self._labelled.put(session_id, labels)

    # -- what is learned ----------------------------------------------------------------------------------

    def watch(self, session_id: str, now: float, timeout_s: float | None = None) -> None:
        """Watch a live session, or give it another timeout, with a full span from now on."""
        self._put(session_id, self._live_queue(timeout_s), now)

    def keep(self, session_id: str, now: float) -> None:
        """Keep an ended session hot for the retention from now on."""
        self._limits.discard(session_id)
        self._put(session_id, self._ended, now)

    def beat(self, session_id: str, now: float, timeout_s: float | None = None) -> Phase | None:
        """A sign of life, the most frequent evidence.

        Returns:
            its previous phase; None: it is not watched.
        """
        queue = self._of.get(session_id)
        if queue is None:
            return None
        phase = queue.phase
        if phase is _LIVE:
            order = queue.order
            order[session_id] = now
            order.move_to_end(session_id)
        else:
            self.learn(session_id, Evidence.LIFE, now, timeout_s)
        return phase

    def learn(
        self,
        session_id: str,
        evidence: Evidence,
        now: float,
        timeout_s: float | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Phase | None:
        """Move a watched session to its next phase, by TRANSITIONS. Returns that; None: it is no longer watched.

        Args:
            session_id: the session.
            evidence: the observation.
            now: seconds.
            timeout_s: its own, if it becomes live.
            labels: by which it can be found if it becomes a suspect.
        """
        after = TRANSITIONS[self._of[session_id].phase, evidence]
        if after is Phase.LIVE:
            self.watch(session_id, now, timeout_s)
        elif after is Phase.SUSPECT:
            self._put(session_id, self._suspects, now)
            self._labelled.put(session_id, labels or {})
        elif after is Phase.ENDED:
            self.keep(session_id, now)
        else:
            self.forget(session_id)
        return after

    def forget(self, session_id: str) -> None:
        """Stop watching a session: it is no longer hot."""
        self._limits.discard(session_id)
        queue = self._of.pop(session_id, None)
        if queue is not None:
            del queue.order[session_id]
            self._labelled.discard(session_id)
            if queue.phase is Phase.LIVE and not queue.order:
                self._live.pop(queue.span_s, None)

    def retime(self, session_id: str, timeout_s: float | None) -> None:
        """Give a live session another timeout, counted from its last evidence.

        If that is older than the evidence of LATER_LOOKED_AT others with this timeout, it is dated as theirs.
        """
        before = self._of.get(session_id)
        if before is None or before.phase is not Phase.LIVE:
            return
        after = self._live_queue(timeout_s)
        if after is before:
            return
        since, order = before.order[session_id], after.order
        # usually few: a session that gets a timeout has just given a sign of life
        later = [*islice(takewhile(lambda other: order[other] > since, reversed(order)), LATER_LOOKED_AT)]
        self._put(session_id, after, order[later[-1]] if len(later) == LATER_LOOKED_AT else since)
        for other in reversed(later):
            order.move_to_end(other)

    def deadline(self, session_id: str) -> float:
        """When the phase of a watched session expires."""
        queue = self._of[session_id]
        return queue.order[session_id] + queue.span_s

    def step_back(self, now: float) -> None:
        """The clock has stepped back to this time, after a stall: evidence dated later is dated now."""
        for queue in (*self._live.values(), self._suspects, self._ended):
            order = queue.order
            late = list(takewhile(lambda session_id, order=order: order[session_id] > now, reversed(order)))  # type: ignore[misc]
            order.update(dict.fromkeys(late, now))

    @property
    def limited(self) -> Collection[str]:
        """The sessions that have a limit."""
        return self._limits.ids

    def limit(self, session_id: str, deadline: float | None) -> None:
        """Set the latest end of a session; None: no limit while there are heartbeats."""
        if deadline is None:
            self._limits.discard(session_id)
        else:
            self._limits.set(session_id, deadline)

    # -- what is due --------------------------------------------------------------------------------------

    def due(self, now: float) -> Iterator[tuple[str, Phase, Evidence]]:
        """The expired sessions, one at a time, each with its phase and the evidence.

        The caller passes the evidence to `learn`, or keeps the session with `watch` or `keep`, before it takes
        the next.
        """
        while (first := self._limits.first()) is not None and first[0] <= now:
            session_id = first[1]
            self._limits.discard(session_id)
            yield session_id, self._of[session_id].phase, Evidence.OVERTIME
        for queue in (*self._live.values(), self._suspects, self._ended):
            order = queue.order
            while order:
                session_id = next(iter(order))
                if order[session_id] + queue.span_s > now:
                    break
                yield session_id, queue.phase, Evidence.SILENCE

    def next_deadline(self) -> float | None:
        """When something expires next; None: nothing is watched. A heartbeat may postpone it."""
        limit = self._limits.first()
        fronts = [
            queue.order[session_id] + queue.span_s
            for queue in (*self._live.values(), self._suspects, self._ended)
            for session_id in islice(queue.order, 1)
        ]
        return min(fronts if limit is None else [*fronts, limit[0]], default=None)

    # -- queues -------------------------------------------------------------------------------------------

    def _live_queue(self, timeout_s: float | None) -> _Queue:
        span_s = self.timeout_s if timeout_s is None else timeout_s
        queue = self._live.get(span_s)
        if queue is None:
            if span_s != self.timeout_s and len(self._live) >= EXACT_SPANS:
                span_s = class_of(span_s)
                queue = self._live.get(span_s)
            if queue is None:
                queue = self._live[span_s] = _Queue(Phase.LIVE, span_s)
        return queue

    def _put(self, session_id: str, queue: _Queue, now: float) -> None:
        before = self._of.get(session_id)
        if before is not None and before is not queue:
            del before.order[session_id]
            if before is self._suspects:
                self._labelled.discard(session_id)
            if before.phase is Phase.LIVE and not before.order:
                self._live.pop(before.span_s, None)
        self._of[session_id] = queue
        queue.order[session_id] = now
        queue.order.move_to_end(session_id)
