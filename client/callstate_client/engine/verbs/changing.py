"""What the verbs that change a session share: repeats, permission, and completing a change of its head."""

from __future__ import annotations

from callstate_client.engine.interfaces import Caller
from callstate_client.engine.rules.authority import check_writable
from callstate_client.engine.rules.context import Context
from callstate_client.engine.rules.lifecycle import settle_status
from callstate_client.engine.rules.param_checks import checked_word
from callstate_client.engine.sessions.records import HistoryMode
from callstate_client.engine.sessions.session import Session
from callstate_client.protocol.ids import MAX_NAME_BYTES
from callstate_client.protocol.params import Mutation


def repeatable(ctx: Context, p: Mutation) -> tuple[Session, bytes | None]:
    """The session; and the earlier result if this mutation is a repeat."""
    op = p.op
    session = ctx.table.sessions.get(p.session_id) or ctx.find(p.session_id)
    if op is None:
        return session, None
    if not (0 < len(op) <= MAX_NAME_BYTES and op.isascii()):
        checked_word(op, "$.params.op")
    return session, session.ops.get(op)


def changeable(ctx: Context, caller: Caller, p: Mutation) -> tuple[Session, bytes | None]:
    """Like `repeatable`, for a session that the caller may change.

    Raises:
        FencedError, SessionEndedError: it may not.
    """
    session, done = repeatable(ctx, p)
    facts, epoch = session.facts, p.epoch
    if done is None and (  # not for the usual request, the owner's in the current epoch
        session.host
        or facts.reaped
        or (epoch is not None and epoch != facts.epoch)
        or (facts.owner and facts.owner != caller.worker)
        or facts.instance != caller.instance
    ):
        check_writable(ctx, caller, session, epoch)
    return session, done


def complete_head(
    ctx: Context,
    caller: Caller,
    session: Session,
    was_ended: bool,
    now_us: int,
    op: str | None,
    epoch: int | None,
    reason: str = "completed",
) -> bytes:
    """Complete a change of the head: version, end or revival, journal."""
    session.host = None
    version = session.next_version(now_us)
    settle_status(ctx, caller, session, was_ended, now_us, epoch, reason)
    result = b'{"version":%d}' % version
    record = session.record(HistoryMode.KEEP, b"", 0, session.keep_op(op, result))
    ctx.tx.log(session, record, ctx.clock.mono())
    return result
