"""`server.erase`: deletes a session, then what is left of its bytes. It is headed by a sample of its params."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from callstate_client.engine.interfaces import Caller, Deferred
from callstate_client.engine.rules.authority import check_authority
from callstate_client.engine.rules.context import Context
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.verbs.end import end_session
from callstate_client.errors import ConflictError, SessionNotFoundError, UnreadableError
from callstate_client.protocol.messages import encode_json
from callstate_client.protocol.params import EraseParams

OP: Final = "erase"
"""The deletion's op. The tombstone of a deletion that has one is kept, so that the erasure may be repeated."""


def erase(ctx: Context, caller: Caller, p: EraseParams) -> Deferred:
    """{"session_id":"c1","end":true,"timeout_s":60}"""
    session_id = p.session_id
    try:
        session = ctx.lookup(session_id)
        is_live = session is not None and not session.ended
    except UnreadableError:
        session, is_live = ctx.unreadable(session_id), False
    if session is not None:
        _delete(ctx, caller, session, is_live, p.end)
    elif session_id not in ctx.table.set_aside and not ctx.table.tombstones.is_deleted(session_id):
        raise SessionNotFoundError(f"no session {session_id}")
    ctx.tx.drop_copies(session_id)

    def start(done: Callable[[bytes | Exception], None]) -> None:
        def finished(result: Any) -> None:
            done(result if isinstance(result, Exception) else encode_json(result))

        ctx.host.after(ctx.host.erase(session_id, p.timeout_s), finished)

    return Deferred(start)


def _delete(ctx: Context, caller: Caller, session: Session, is_live: bool, end: bool) -> None:
    check_authority(ctx, caller, session, None)
    if is_live and not end:
        raise ConflictError("the session is live: end it first", version=session.version)
    if is_live:
        end_session(ctx, caller, session, "operator")
        ctx.events.note("ended", session.facts.ended_us, session, reason="operator")
    now_us = ctx.now_us()
    ctx.events.note("deleted", now_us, session, reason="deleted")
    ctx.tx.remove(session, max(session.version + 1, now_us), ctx.clock.mono(), OP)
    ctx.liveness.forget(session)
    ctx.decide_departure(session.id)
