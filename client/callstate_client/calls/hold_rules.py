"""The rules of holding a call, for both fronts: which options can be combined, what it means that an id is taken,
and how the block may be left.

A block that is left normally ends its call with COMPLETED. One that is left by an exception in `end_on`, or by a
group with such an exception in it, ends it too; by any other exception, a cancellation included, the call is
released, for another worker to claim.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final, Literal

from msgspec import Struct

from callstate_client import protocol, requests
from callstate_client.errors import ConflictError, MethodNotFoundError, SessionEndedError
from callstate_client.model.state import SessionState, Status
from callstate_client.protocol.ids import MAX_NAME_BYTES
from callstate_client.protocol.results import SaveResult
from callstate_client.requests import PreparedRequest
from callstate_client.store import Record

__all__ = [
    "COMPLETED",
    "BeatMode",
    "EndOn",
    "HoldOptions",
    "end_classes",
    "end_reason",
    "ended_by",
    "has_ended",
    "held_elsewhere",
    "not_claimable",
    "not_resumed",
    "reason_to_end",
    "taken",
]

BeatMode = Literal["auto", "manual"]
"""Who sends a call's heartbeats: a background task, or the worker by `call.beat()`."""

EndOn = type[BaseException] | Iterable[type[BaseException]]
"""Exceptions that mean the call is over: one class, or several."""

COMPLETED: Final = "completed"
"""The reason of a call whose block was left normally."""

_WORD_START: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

# -- entering -------------------------------------------------------------------------------------------------


class HoldOptions(Struct, frozen=True, kw_only=True):
    """The arguments of `hold()`, and the requests that follow from them.

    Args:
        call, labels, heartbeat_timeout_s, max_duration_s, beat, end_on, steal, replace_ended, resume: see
            `CallStore.hold`.

    Raises:
        TypeError, ValueError: the arguments contradict each other.
        InvalidParamsError: labels or a timeout exceed a limit.
    """

    call: SessionState | str
    labels: Mapping[str, str] | None
    heartbeat_timeout_s: float | None
    max_duration_s: float | None
    beat: BeatMode
    end_on: EndOn
    steal: bool
    replace_ended: bool
    resume: bool

    def __post_init__(self) -> None:
        call = self.call
        if not isinstance(call, str | SessionState):
            raise TypeError(f"hold() takes a SessionState or a session's id, not {type(call).__name__}")
        if isinstance(call, str) and self.labels is not None:
            raise ValueError("labels can only be given to a new session; this one already exists")
        if not isinstance(call, str) and self.steal and not self.resume:
            raise ValueError("only an existing session can be stolen: give its id, or resume=True")
        if isinstance(call, str) and (self.replace_ended or self.resume):
            name = "replace_ended" if self.replace_ended else "resume"
            raise ValueError(f"{name} needs a SessionState; a session given by its id is claimed")
        if self.beat not in ("auto", "manual"):
            raise ValueError(f"beat is 'auto' or 'manual', not {self.beat!r}")
        requests.beside_state(self.labels, self.heartbeat_timeout_s, self.max_duration_s, "")

    @property
    def id(self) -> str:
        """The session's id."""
        return self.call if isinstance(self.call, str) else self.call.id

    @property
    def has_timeouts(self) -> bool:
        """Whether a claim needs to know the features of the daemon."""
        return not (self.heartbeat_timeout_s is None and self.max_duration_s is None)

    def create(self, state: SessionState, if_version: int | None, op: str) -> PreparedRequest[SaveResult]:
        """Create the session, `active` unless the state was given a status.

        Args:
            state: the call.
            if_version: the version of the ended session that this one replaces, labels included; 0 for none.
            op: see `requests.save`.
        """
        if not state.status_given and state.status == Status.PENDING:
            state.status = Status.ACTIVE
        labels = self.labels if if_version == 0 else self.labels or {}
        return requests.save(state, if_version, labels, self.heartbeat_timeout_s, self.max_duration_s, op)

    def claim(self, worker_id: str, features: Collection[str]) -> PreparedRequest[Record]:
        """Claim the session. An older daemon accepts no timeouts with a claim: those in force stay, and heartbeats
        follow them.

        Args:
            worker_id: who claims it.
            features: of the daemon; needed if there are timeouts.

        Raises:
            MethodNotFoundError: `max_duration_s` was given, and the daemon is too old for it.
        """
        takes_timeouts = protocol.CLAIM_TIMEOUTS in features
        if not takes_timeouts and self.max_duration_s is not None:
            raise MethodNotFoundError("this daemon is too old to take max_duration_s with a claim")
        return requests.claim(
            self.id,
            worker_id,
            "all",
            steal=self.steal,
            heartbeat_timeout_s=self.heartbeat_timeout_s if takes_timeouts else None,
            max_duration_s=self.max_duration_s,
        )


def has_ended(error: ConflictError, known: Record | BaseException) -> bool:
    """Whether the session with this id has ended. An older daemon does not say so in the error.

    Args:
        error: of the attempt to create a session.
        known: the outcome of a `get` of the id.
    """
    if error.status is not None:
        return error.status == Status.ENDED
    return isinstance(known, Record) and not known.state.is_active


def taken(error: ConflictError, session_id: str, known: Record | BaseException) -> ConflictError:
    """The error for an id that is taken: it says by what, and what can be done.

    Args:
        error: of the attempt to create a session.
        session_id: the id.
        known: the outcome of a `get` of it.
    """
    if not isinstance(known, Record):
        return error
    if known.state.is_active:
        held = f"held by worker {known.owner}" if known.owner else "held by no worker"
        text = (
            f"{session_id} already exists: {known.state.status}, {held};"
            f" hold({session_id!r}) or hold(state, resume=True) continues it"
        )
    else:
        ended = _ended(error.ended_at, error.reason or known.ended_reason)
        text = (
            f"{session_id} already exists and {ended};"
            " hold(state, replace_ended=True) replaces it and keeps nothing of it"
        )
    return ConflictError(text, **error.data)


def held_elsewhere(error: ConflictError, session_id: str) -> ConflictError:
    """The error for a claim of a call that a live worker holds: it says whose it is, and what can be done.

    Args:
        error: of the claim.
        session_id: of the call.
    """
    whose = error.message.replace("the session is", f"{session_id} is", 1)
    text = (
        f"{whose}: it can be taken over once that worker has released it, is gone, or is silent for the call's"
        " heartbeat timeout; steal=True takes it now"
    )
    return ConflictError(text, **error.data)


def not_claimable(error: SessionEndedError, session_id: str) -> SessionEndedError:
    """The error for a claim, by id, of a call that has ended: it says when and why, and what can be done."""
    text = (
        f"{session_id} {_ended(error.ended_at, error.reason)}, so it can't be held;"
        " hold(state, replace_ended=True) begins a new call under its id"
    )
    return SessionEndedError(text, **error.data)


def not_resumed(error: SessionEndedError, session_id: str) -> ConflictError:
    """The error for a call that was to be resumed and has ended: by its worker or an operator, or it was reaped and
    the time in which it can be revived is over."""
    text = (
        f"{session_id} {_ended(error.ended_at, error.reason)}, so it is not resumed;"
        " hold(state, resume=True, replace_ended=True) replaces it and keeps nothing of it"
    )
    return ConflictError(text, status=Status.ENDED, ended_at=error.ended_at, reason=error.reason)


def _ended(ended_at: str | None, reason: str | None) -> str:
    when = f" at {ended_at}" if ended_at else ""
    return f"has ended{when} ({reason or 'no reason given'})"


# -- leaving --------------------------------------------------------------------------------------------------


def end_classes(end_on: EndOn) -> tuple[type[BaseException], ...]:
    """The classes as one tuple.

    Raises:
        TypeError: one of them is not an exception class.
    """
    classes = (end_on,) if isinstance(end_on, type) else tuple(end_on)
    for cls in classes:
        given: object = cls  # callers may not use a type checker
        if not (isinstance(given, type) and issubclass(given, BaseException)):
            raise TypeError(f"end_on takes exception classes, not {cls!r}")
    return classes


def reason_to_end(error: BaseException | None, classes: tuple[type[BaseException], ...]) -> str | None:
    """The reason that a call ends with when its block is left; None: the call is released.

    Args:
        error: the exception that leaves the block; None for none.
        classes: see `end_classes`.
    """
    if error is None:
        return COMPLETED
    cause = ended_by(error, classes)
    return None if cause is None else end_reason(cause)


def ended_by(error: BaseException, classes: tuple[type[BaseException], ...]) -> BaseException | None:
    """The exception that means the call is over: this one, or one in it if it is a group; None for none.

    One in a group is enough, whatever else is in it: a caller who has hung up does not come back, and usually that
    is why other tasks of the group failed.
    """
    if isinstance(error, classes):
        return error
    if not isinstance(error, BaseExceptionGroup):
        return None
    for inner in error.exceptions:
        found = ended_by(inner, classes)
        if found is not None:
            return found
    return None


def end_reason(error: BaseException) -> str:
    """The reason for a call that an exception ended: its `reason`, else its class's name in snake case, cut to the
    bytes that a reason may have."""
    reason = getattr(error, "reason", None)
    word = reason if isinstance(reason, str) and reason else _WORD_START.sub("_", type(error).__name__).lower()
    return word.encode(errors="replace")[:MAX_NAME_BYTES].decode(errors="ignore")
