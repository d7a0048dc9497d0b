"""What holding a call takes and refuses, whichever front holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from callstate_client.errors import ConflictError
from callstate_client.model.state import SessionState, Status
from callstate_client.store import Record

__all__ = ["BeatMode", "check_hold", "has_ended", "taken"]

BeatMode = Literal["auto", "manual"]


def check_hold(
    call: SessionState | str,
    labels: Mapping[str, str] | None,
    beat: BeatMode,
    *,
    steal: bool,
    replace_ended: bool,
    resume: bool,
) -> None:
    """See that what `hold()` was given makes sense together.

    Raises:
        TypeError, ValueError: it does not.
    """
    if not isinstance(call, str | SessionState):
        raise TypeError(f"hold() takes a SessionState or a session's id, not {type(call).__name__}")
    if isinstance(call, str) and labels is not None:
        raise ValueError("labels are for a new session; this one is there already")
    if not isinstance(call, str) and steal and not resume:
        raise ValueError("only a session that is there already can be stolen")
    if isinstance(call, str) and (replace_ended or resume):
        raise ValueError(f"{'replace_ended' if replace_ended else 'resume'} goes with a state; an id is claimed")
    if beat not in ("auto", "manual"):
        raise ValueError(f"beat is 'auto' or 'manual', not {beat!r}")


def has_ended(error: ConflictError, known: Record | BaseException) -> bool:
    """Whether the session in the way has ended; a daemon of an earlier version does not say so in the error."""
    if error.status is not None:
        return error.status == Status.ENDED
    return isinstance(known, Record) and not known.state.is_active


def taken(error: ConflictError, session_id: str, known: Record | BaseException) -> ConflictError:
    """What is to be said of an id that is taken already: by what, and what one can do."""
    if not isinstance(known, Record):
        return error
    if known.state.is_active:
        held = f"held by worker {known.owner}" if known.owner else "held by no worker"
        text = (
            f"{session_id} is there already: {known.state.status}, {held};"
            f" hold({session_id!r}), or hold(state, resume=True), goes on with it"
        )
    else:
        when = f" at {error.ended_at}" if error.ended_at else ""
        why = error.reason or known.ended_reason or "no reason given"
        text = (
            f"{session_id} was there already and has ended{when} ({why});"
            " hold(state, replace_ended=True) begins it anew, and keeps nothing of it"
        )
    return ConflictError(text, **error.data)
