"""The states of workers, and the transitions between them, as data.

    state       what may be in it                                           how it ends by itself
    CONNECTED   a worker with a connection                                  -
    EXITED      its process has exited, a connection is open: a child       -
                inherited it, or its last requests are still being read
    AWAY        no connection, its process alive or unknown                 left, after the reconnect grace
    RESTORED    known from the journal, not seen since the daemon started   - (its sessions' deadlines decide)
    GONE        every id that is not in the table                           -

What is learned of a worker comes from its connections and its process. What it means for its sessions that it has
left (suspects, or orphans) is in the outcome.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class WorkerState(Enum):
    """Where a worker stands."""

    CONNECTED = "connected"
    EXITED = "exited"
    AWAY = "away"
    RESTORED = "restored"
    GONE = "gone"


class WorkerEvidence(Enum):
    """What is learned of a worker."""

    REGISTERED = "registered"
    """A connection registered under its id, of its process or of one that may be."""
    SUPERSEDED = "superseded"
    """Another process registered under its id, and nothing shows that this one still lives."""
    DISCONNECTED = "disconnected"
    """Its last connection closed."""
    PROCESS_EXITED = "process_exited"
    """Its process has exited."""
    GRACE_OVER = "grace_over"
    """It did not reconnect in time."""
    IDLE = "idle"
    """It owns no session."""


class WorkerOutcome(Enum):
    """What has to be done about a worker."""

    NOTHING = "nothing"
    JOINED = "joined"
    """Event `worker.joined`."""
    LEFT_EXITED = "exited"
    """Event `worker.left` with this for a reason; its live sessions are suspects."""
    LEFT_DISCONNECTED = "disconnected"
    """Event `worker.left` with this for a reason; its sessions are orphans."""


TRANSITIONS: Final[Mapping[tuple[WorkerState, WorkerEvidence], tuple[WorkerState, WorkerOutcome]]] = {
    (WorkerState.CONNECTED, WorkerEvidence.REGISTERED): (WorkerState.CONNECTED, WorkerOutcome.NOTHING),
    (WorkerState.CONNECTED, WorkerEvidence.DISCONNECTED): (WorkerState.AWAY, WorkerOutcome.NOTHING),
    (WorkerState.CONNECTED, WorkerEvidence.PROCESS_EXITED): (WorkerState.EXITED, WorkerOutcome.NOTHING),
    (WorkerState.CONNECTED, WorkerEvidence.IDLE): (WorkerState.CONNECTED, WorkerOutcome.NOTHING),
    # sent before it exited
    (WorkerState.EXITED, WorkerEvidence.REGISTERED): (
        WorkerState.EXITED,
        WorkerOutcome.NOTHING,
    ),
    (WorkerState.EXITED, WorkerEvidence.SUPERSEDED): (WorkerState.GONE, WorkerOutcome.LEFT_EXITED),
    (WorkerState.EXITED, WorkerEvidence.DISCONNECTED): (WorkerState.GONE, WorkerOutcome.LEFT_EXITED),
    (WorkerState.EXITED, WorkerEvidence.PROCESS_EXITED): (WorkerState.EXITED, WorkerOutcome.NOTHING),
    (WorkerState.EXITED, WorkerEvidence.IDLE): (WorkerState.EXITED, WorkerOutcome.NOTHING),
    (WorkerState.AWAY, WorkerEvidence.REGISTERED): (WorkerState.CONNECTED, WorkerOutcome.NOTHING),
    (WorkerState.AWAY, WorkerEvidence.SUPERSEDED): (WorkerState.GONE, WorkerOutcome.LEFT_DISCONNECTED),
    (WorkerState.AWAY, WorkerEvidence.PROCESS_EXITED): (WorkerState.GONE, WorkerOutcome.LEFT_EXITED),
    (WorkerState.AWAY, WorkerEvidence.GRACE_OVER): (WorkerState.GONE, WorkerOutcome.LEFT_DISCONNECTED),
    (WorkerState.AWAY, WorkerEvidence.IDLE): (WorkerState.AWAY, WorkerOutcome.NOTHING),
    (WorkerState.RESTORED, WorkerEvidence.REGISTERED): (WorkerState.CONNECTED, WorkerOutcome.JOINED),
    (WorkerState.RESTORED, WorkerEvidence.SUPERSEDED): (WorkerState.GONE, WorkerOutcome.LEFT_DISCONNECTED),
    (WorkerState.RESTORED, WorkerEvidence.PROCESS_EXITED): (WorkerState.GONE, WorkerOutcome.LEFT_EXITED),
    (WorkerState.RESTORED, WorkerEvidence.IDLE): (WorkerState.GONE, WorkerOutcome.NOTHING),
    (WorkerState.GONE, WorkerEvidence.REGISTERED): (WorkerState.CONNECTED, WorkerOutcome.JOINED),
    # reported after it had left
    (WorkerState.GONE, WorkerEvidence.PROCESS_EXITED): (
        WorkerState.GONE,
        WorkerOutcome.NOTHING,
    ),
    (WorkerState.GONE, WorkerEvidence.IDLE): (WorkerState.GONE, WorkerOutcome.NOTHING),
}
"""(state, evidence) to the next state and what has to be done. What is not listed can't happen: only AWAY has a
grace, only CONNECTED and EXITED have connections, and a newcomer under the id of a CONNECTED one is refused."""
