"""The deadlines of hot sessions.

Pure: `now` is passed in, seconds of the clock's `live()`, which stands still while the daemon does.

Sessions of one phase (phases.py) and one span are in the order of their last evidence (evidence_queue.py). So a
heartbeat moves one session to the end of its queue, and a tick reads only the fronts: its cost depends on what
expires, not on what is live. The spans are those of the phases and the timeouts given to sessions, of which many
share a lane if there are many (span_classes.py). Limits of a call's duration, which heartbeats do not move, are in
a heap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice, takewhile
from typing import Final

from callstate_client.engine.deadlines import Deadlines
from callstate_client.engine.evidence_queue import Lane, Queue
from callstate_client.engine.phases import TRANSITIONS, Evidence, Phase
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.span_classes import EXACT_SPANS, class_of
from callstate_client.engine.table.label_index import LabelIndex

LATER_LOOKED_AT: Final = 1000
"""How many sessions with later evidence are moved behind one whose timeout changes, in a fraction of a
millisecond."""

_LIVE: Final = Phase.LIVE
"""Looked up once, for `beat`: a member of an enum takes several times as long as a global name."""


class Liveness:
    """The deadlines of all hot sessions.

    Args:
        timeout_s: silence after which a session without a timeout of its own is suspected.
        grace_s: how long a suspect may still recover.
        retention_s: how long an ended session stays hot.
    """

    def __init__(self, timeout_s: float, grace_s: float, retention_s: float) -> None:
        self.timeout_s = timeout_s
        self._suspects: Lane[Session] = Lane(Phase.SUSPECT, grace_s)
        self._labelled = LabelIndex()
        """The suspects, indexed by their labels."""
        self._ended: Lane[Session] = Lane(Phase.ENDED, retention_s)
        self._live: dict[float, Lane[Session]] = {}
        self._limits: Deadlines[Session] = Deadlines()

    def __len__(self) -> int:
        return sum(len(queue.order) for queue in self._queues())

    @property
    def retention_s(self) -> float:
        """How long an ended session stays hot, and may be claimed if it was reaped, seconds."""
        return self._ended.span_s

    def phase(self, session: Session) -> Phase | None:
        """The phase of a session; None: it is not watched."""
        return None if session.queue is None else session.queue.phase

    @property
    def suspects(self) -> LabelIndex:
        """The suspects in the order of claiming, the one suspected longest first; to be read."""
        return self._labelled

    @property
    def ended(self) -> Iterator[Session]:
        """The ended sessions that are still hot, in the order of their ends or their last late turns."""
        return self._ended.in_order()

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

    def watch(self, session: Session, now: float, timeout_s: float | None = None) -> None:
        """Watch a live session, or give it another timeout, with a full span from now on."""
        self._put(session, self._live_lane(timeout_s), now)

    def keep(self, session: Session, now: float) -> None:
        """Keep an ended session hot for the retention from now on."""
        self._limits.discard(session.id)
        self._put(session, self._ended, now)

    def beat(self, session: Session, now: float, timeout_s: float | None = None) -> Phase | None:
        """A sign of life, the most frequent evidence.

        Returns:
            its previous phase; None: it is not watched.
        """
        queue = session.queue
        if queue is None:
            return None
        phase = queue.phase
        if phase is _LIVE:
            order = queue.order
            order[session] = now
            order.move_to_end(session)
        else:
            self.learn(session, Evidence.LIFE, now, timeout_s)
        return phase

    def learn(
        self,
        session: Session,
        evidence: Evidence,
        now: float,
        timeout_s: float | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Phase | None:
        """Move a watched session to its next phase, by TRANSITIONS. Returns that; None: it is no longer watched.

        Args:
            session: the session.
            evidence: the observation.
            now: seconds.
            timeout_s: its own, if it becomes live.
            labels: by which it can be found if it becomes a suspect.
        """
        after = TRANSITIONS[_queue(session).phase, evidence]
        if after is Phase.LIVE:
            self.watch(session, now, timeout_s)
        elif after is Phase.SUSPECT:
            self._put(session, self._suspects, now)
            self._labelled.put(session.id, labels or {})
        elif after is Phase.ENDED:
            self.keep(session, now)
        else:
            self.forget(session)
        return after

    def forget(self, session: Session) -> None:
        """Stop watching a session: it is no longer hot."""
        self._limits.discard(session.id)
        self._leave(session)

    def retime(self, session: Session, timeout_s: float | None) -> None:
        """Give a live session another timeout, counted from its last evidence.

        If that is older than the evidence of LATER_LOOKED_AT others in its new queue, it is dated as theirs.
        """
        before = session.queue
        if before is None or before.phase is not Phase.LIVE:
            return
        lane = self._live_lane(timeout_s)
        if lane is before.lane:
            return
        since = before.order[session]
        self._put(session, lane, since)
        order = _queue(session).order
        # usually few: a session that gets a timeout has just given a sign of life
        others = islice(reversed(order), 1, None)
        later = [*islice(takewhile(lambda other: order[other] > since, others), LATER_LOOKED_AT)]
        if len(later) == LATER_LOOKED_AT:
            order[session] = order[later[-1]]
        for other in reversed(later):
            order.move_to_end(other)

    def deadline(self, session: Session) -> float:
        """When the phase of a watched session expires."""
        queue = _queue(session)
        return queue.order[session] + queue.lane.span_s

    def step_back(self, now: float) -> None:
        """The clock has stepped back to this time, after a stall: evidence dated later is dated now."""
        for queue in self._queues():
            order = queue.order
            late = list(takewhile(lambda session, order=order: order[session] > now, reversed(order)))  # type: ignore[misc]
            order.update(dict.fromkeys(late, now))

    @property
    def limited(self) -> list[Session]:
        """The sessions that have a limit."""
        return self._limits.all()

    def limit(self, session: Session, deadline: float | None) -> None:
        """Set the latest end of a session; None: no limit while there are heartbeats."""
        if deadline is None:
            self._limits.discard(session.id)
        else:
            self._limits.set(session, deadline)

    # -- what is due --------------------------------------------------------------------------------------

    def due(self, now: float) -> Iterator[tuple[Session, Phase, Evidence]]:
        """The expired sessions, one at a time, each with its phase and the evidence.

        The caller passes the evidence to `learn`, or keeps the session with `watch` or `keep`, before it takes
        the next.
        """
        while (first := self._limits.first()) is not None and first[0] <= now:
            session = first[1]
            self._limits.discard(session.id)
            yield session, _queue(session).phase, Evidence.OVERTIME
        for lane in self._lanes():
            for queue in [*lane.queues]:
                order = queue.order
                while order:
                    session = next(iter(order))
                    if order[session] + lane.span_s > now:
                        break
                    yield session, lane.phase, Evidence.SILENCE

    def next_deadline(self) -> float | None:
        """When something expires next; None: nothing is watched. A heartbeat may postpone it."""
        limit = self._limits.first()
        fronts = [
            since + queue.lane.span_s for queue in self._queues() for since in islice(queue.order.values(), 1)
        ]
        return min(fronts if limit is None else [*fronts, limit[0]], default=None)

    # -- queues -------------------------------------------------------------------------------------------

    def _lanes(self) -> Iterator[Lane[Session]]:
        """All lanes. In this order, a session that becomes a suspect without grace ends in the same look."""
        yield from [*self._live.values()]
        yield self._suspects
        yield self._ended

    def _queues(self) -> Iterator[Queue[Session]]:
        return (queue for lane in self._lanes() for queue in lane.queues)

    def _live_lane(self, timeout_s: float | None) -> Lane[Session]:
        span_s = self.timeout_s if timeout_s is None else timeout_s
        lane = self._live.get(span_s)
        if lane is None:
            if span_s != self.timeout_s and len(self._live) >= EXACT_SPANS:
                span_s = class_of(span_s)
                lane = self._live.get(span_s)
            if lane is None:
                lane = self._live[span_s] = Lane(Phase.LIVE, span_s)
        return lane

    def _put(self, session: Session, lane: Lane[Session], now: float) -> None:
        queue = session.queue
        if queue is None or queue.lane is not lane:
            self._leave(session)
            queue = session.queue = lane.with_room()
        queue.order[session] = now
        queue.order.move_to_end(session)

    def _leave(self, session: Session) -> None:
        """Take a session out of its queue, if it is in one."""
        queue, session.queue = session.queue, None
        if queue is None:
            return
        lane = queue.lane
        lane.remove(session, queue)
        if lane is self._suspects:
            self._labelled.discard(session.id)
        elif lane.phase is Phase.LIVE and not lane.queues:
            self._live.pop(lane.span_s, None)


def _queue(session: Session) -> Queue[Session]:
    """The queue of a watched session."""
    queue = session.queue
    assert queue is not None, "it is not watched"  # noqa: S101 - the caller knows that it is
    return queue
