"""Brings one exported call into a daemon, with the verbs that every client has.

A live call becomes an orphan with its full timeout, for the worker that held it is not this daemon's: whichever
worker recovers calls takes it. An ended one stays ended, with its reason. What already exists is left as it is, or
replaced; a call that a worker holds is never replaced.
"""

from __future__ import annotations

import contextlib
from enum import Enum
from typing import Final

from callstate_client.api import CallStore
from callstate_client.cli.backup.lines import Entry
from callstate_client.errors import CallstateError, ConflictError, SessionNotFoundError
from callstate_client.model.state import SessionState, Status
from callstate_client.model.turn import Turn

SAVE_BYTES: Final = 512 * 1024
"""The most history in one save, half of a request line's default limit; further turns follow one by one."""

COMPLETED: Final = "completed"
"""The reason of a session that is saved as ended."""


class Outcome(Enum):
    """What became of a call."""

    IMPORTED = "imported"
    REPLACED = "replaced"
    EXISTS = "left as they are: they exist"
    HELD = "left as they are: a worker holds them"


async def bring(store: CallStore, entry: Entry, *, replace: bool) -> Outcome:
    """Bring one call in.

    Args:
        store: not registered as a worker: as an operator it may replace what has an owner that is gone.
        entry: the call; with its user, only an operator may.
        replace: replace an existing one.

    Raises:
        CallstateError: it was refused; nothing of it is left.
    """
    try:
        await _create(store, entry)
    except ConflictError:
        if not replace:
            return Outcome.EXISTS
    else:
        return Outcome.IMPORTED
    with contextlib.suppress(SessionNotFoundError):
        existing = await store.get(entry.state.id, history="none")
        if existing.owner is not None and existing.state.status != Status.ENDED:
            return Outcome.HELD
        await store.delete(entry.state.id)
    await _create(store, entry)
    return Outcome.REPLACED


async def _create(store: CallStore, entry: Entry) -> None:
    state, rest = _divided(entry.state)
    session_id = state.id
    ended = state.status == Status.ENDED
    in_one = not rest and entry.ended_detail is None and entry.ended_reason in (None, COMPLETED)
    if ended and not in_one:
        state = state.copy()
        state.status = Status.ACTIVE  # until it is ended with its reason
    await store.save(
        state,
        if_version=0,
        labels=entry.labels,
        heartbeat_timeout_s=entry.heartbeat_timeout_s,
        max_duration_s=entry.max_duration_s,
        user=entry.user,
    )
    try:
        await _complete(store, entry, rest)
        if not ended:
            record = await store.claim(session_id, history="none")
            await store.release(session_id, record.epoch)
        elif not in_one:
            await store.end(session_id, entry.ended_reason, entry.ended_detail)
    except BaseException:
        # half of a call must not pass for one that exists
        with contextlib.suppress(CallstateError):
            await store.delete(session_id)
        raise


async def _complete(store: CallStore, entry: Entry, rest: list[Turn]) -> None:
    """Add the turns that did not fit into the save, and put the counters right, which count each of them."""
    state = entry.state
    for turn in rest:
        at, extra = turn.timestamp, dict(turn.extra) or None
        await store.add_turn(state.id, turn.role, turn.content, turn.duration_ms, at=at, extra=extra)
    if rest:
        await store.update(state.id, metrics=state.to_members(with_history=False)["metrics"])


def _divided(state: SessionState) -> tuple[SessionState, list[Turn]]:
    """A copy of a state with the turns that fit into one save, and the other turns."""
    if len(state.to_json()) <= SAVE_BYTES:
        return state, []
    first, turns = state.copy(), list(state.history)
    size = fitting = 0
    for turn in turns:
        size += len(turn.content.encode("utf-8", "replace")) + len(str(turn.extra)) + 200
        if size > SAVE_BYTES:
            break
        fitting += 1
    first.history = turns[:fitting]
    return first, turns[fitting:]
