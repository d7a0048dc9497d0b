"""The states of workers, and the transitions between them, as data.

    state       which workers are in it                                     how it times out
    CONNECTED   a worker with a connection                                  -
    EXITED      its process has exited, a connection is open: a child       -
                inherited it, or its last requests are still being read
    AWAY        no connection, its process alive or unknown                 left, after the reconnect grace
    RESTORED    known from the journal, not connected since the start       - (its sessions' deadlines decide)
    GONE        every unknown id                                            -

The evidence about a worker comes from its connections and its process. The outcome says whether the sessions of a
worker that has left become suspects or orphans.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class WorkerState(Enum):
    """The state of a worker."""

    CONNECTED = "connected"
    EXITED = "exited"
    AWAY = "away"
    RESTORED = "restored"
    GONE = "gone"


class WorkerEvidence(Enum):
    """An observation about a worker."""

    REGISTERED = "registered"
    """A connection registered under its id, from its process or one that may be the same."""
    SUPERSEDED = "superseded"
    """Another process registered under its id, and there is no proof that this one is still alive."""
    DISCONNECTED = "disconnected"
    """Its last connection closed."""
    PROCESS_EXITED = "process_exited"
    """Its process has exited."""
    GRACE_OVER = "grace_over"
    """It did not reconnect in time."""
    IDLE = "idle"
    """It owns no session."""


class WorkerOutcome(Enum):
    """What follows from an observation."""

    NOTHING = "nothing"
    JOINED = "joined"
    """Event `worker.joined`."""
    LEFT_EXITED = "exited"
    """Event `worker.left` with this as its reason; its live sessions become suspects."""
    LEFT_DISCONNECTED = "disconnected"
    """Event `worker.left` with this as its reason; its sessions become orphans."""


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
"""(state, evidence) to the next state and the outcome. Pairs not listed can't occur: only AWAY has a grace, only
CONNECTED and EXITED have connections, and another process is refused under the id of a CONNECTED worker."""
