"""The verbs that read. Each is headed by a sample of its params."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from msgspec import UNSET, Raw, Struct, UnsetType

from callstate_client.engine.interfaces import Caller, Deferred, InSteps, Steps, in_steps
from callstate_client.engine.long_result import LONG_BYTES, LongResult, Result
from callstate_client.engine.rules.context import Context
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.user import UNKNOWN
from callstate_client.errors import InvalidParamsError
from callstate_client.protocol.messages import encode_json
from callstate_client.protocol.params import CheckParams, FlushParams, LoadParams, NoParams
from callstate_client.protocol.results import ConfigResult


def load(ctx: Context, caller: Caller, p: LoadParams) -> Result | Deferred | InSteps:
    """{"session_id":"c1","history":20}"""
    checked_history(p.history)
    session = ctx.find(p.session_id)
    if isinstance(p.history, int) and session.doc.uncut_last(p.history) is not None:
        return in_steps(_load_cut(ctx, session, p))
    return load_session(session, p.history)


def _load_cut(ctx: Context, session: Session, p: LoadParams) -> Steps:
    """Load the last turns from a history that was added at once."""
    at = session.doc.uncut_last(int(p.history))
    if at is not None:
        yield from session.doc.cut_at(at)
        ctx.table.weigh_if_hot(session)
    return load_session(ctx.find(p.session_id), p.history)


def checked_history(history: str | int) -> None:
    """Refuse a value that does not name a part of a history.

    Raises:
        InvalidParamsError: it does not.
    """
    if isinstance(history, str) and history not in ("all", "none"):
        raise InvalidParamsError(
            "expected 'all', 'none' or a number at $.params.history",
            path="$.params.history", expected="'all', 'none' or a number",
        )  # fmt: skip


def load_session(session: Session, history: str | int, *, for_worker: bool = False) -> Result:
    """The result of a load or (`for_worker`) a claim, with the requested part of the history."""
    doc = session.doc
    chunks, history_from = doc.chunks, 0
    if history == "none":
        chunks = []
        if doc.head_size <= LONG_BYTES:
            return loaded(session, doc.head_json(session.updated_us), 0, for_worker=for_worker)
    elif history != "all" and history < doc.turn_count:  # type: ignore[operator]  # not a str: checked above
        chunks, history_from = doc.last_chunks(int(history)), doc.turn_count - int(history)
    beside = _beside(session, history_from, for_worker=for_worker)
    if doc.size > LONG_BYTES and doc.head_size + sum(map(len, chunks)) > LONG_BYTES:
        pieces = doc.pieces(session.updated_us, None if history == "none" else chunks)
        return LongResult([_SESSION, *pieces, beside])
    return doc.to_json(session.updated_us, chunks, before=_SESSION, after=beside)


_SESSION: Final = b'{"session":'


class _Beside(Struct, omit_defaults=True, gc=False):
    """What a load returns beside the document; members with their default are omitted."""

    labels: dict[str, str]
    owner: str = ""
    heartbeat_timeout_s: float | None = None
    max_duration_s: float | None = None
    restored: bool = False
    state: str = ""
    handovers: int = 0
    uid: int = UNKNOWN
    gid: int = UNKNOWN
    ended_reason: str | UnsetType = UNSET
    ended_detail: Raw | UnsetType = UNSET


def loaded(
    session: Session,
    document: bytes,
    history_from: int,
    *,
    for_worker: bool = False,
    default_timeout_s: float | None = None,
    state: str = "",
    users: bool = False,
) -> bytes:
    """The result of a load: the document, spliced in as bytes, and the facts beside it.

    Args:
        session: the session.
        document: its document, with the requested part of the history.
        history_from: the index of the first turn in it.
        for_worker: include what a worker needs to take it over.
        default_timeout_s: a timeout that is omitted: in a listing, the daemon's default.
        state: `suspect` or `orphan`, in a listing.
        users: include the user that created it.
    """
    beside = _beside(
        session, history_from, for_worker=for_worker, default_timeout_s=default_timeout_s, state=state, users=users
    )
    return b"%b%b%b" % (_SESSION, document, beside)


def _beside(
    session: Session,
    history_from: int,
    *,
    for_worker: bool = False,
    default_timeout_s: float | None = None,
    state: str = "",
    users: bool = False,
) -> bytes:
    """What follows the document in the result of a load; for the parameters see `loaded`."""
    beside = _Beside(session.facts.labels, session.facts.owner)
    if for_worker and session.facts.heartbeat_timeout_s not in (None, default_timeout_s):
        beside.heartbeat_timeout_s = session.facts.heartbeat_timeout_s
    if for_worker:
        beside.max_duration_s = session.facts.max_duration_s
        beside.restored = session.restored
    beside.state = state
    if users:
        beside.uid, beside.gid = session.facts.uid, session.facts.gid
    if session.facts.handovers:
        beside.handovers = session.facts.handovers
    if session.ended:
        beside.ended_reason = session.facts.ended_reason
        if session.facts.ended_detail:
            beside.ended_detail = Raw(session.facts.ended_detail)
    return b',"history_from":%d,"turn_count":%d,"version":%d,"epoch":%d,%b' % (
        history_from,
        session.doc.turn_count,
        session.version,
        session.facts.epoch,
        encode_json(beside)[1:],
    )


def ping(ctx: Context, caller: Caller, p: NoParams) -> bytes:
    """{}"""
    return b"{}"


def info(ctx: Context, caller: Caller, p: NoParams) -> bytes:
    """{}"""
    caller.told_timeout_s = ctx.liveness.timeout_s
    return encode_json(ctx.host.info() | ctx.access.describe(caller.user))


def stats(ctx: Context, caller: Caller, p: NoParams) -> bytes:
    """{}"""
    return encode_json(ctx.host.stats())


def config(ctx: Context, caller: Caller, p: NoParams) -> bytes:
    """{}"""
    return encode_json(ConfigResult([*ctx.host.settings()]))


def flush(ctx: Context, caller: Caller, p: FlushParams) -> Deferred:
    """{"session_ids":["c1"],"timeout_s":5}"""
    if p.session_ids is None and ctx.guard is None:
        ctx.access.note(caller, "server.flush", "")
    return _later(ctx, lambda: ctx.host.flush(p.session_ids, p.timeout_s))


def check(ctx: Context, caller: Caller, p: CheckParams) -> Deferred:
    """{"repair":true}"""
    if p.repair and ctx.guard is None:
        ctx.access.note(caller, "server.check", "")
    return _later(ctx, lambda: ctx.host.check_store(p.repair))


def _later(ctx: Context, begin: Callable[[], Awaitable[Any]]) -> Deferred:
    """Answer with the result of work that the host does."""

    def start(done: Callable[[bytes | Exception], None]) -> None:
        def finished(result: Any) -> None:
            done(result if isinstance(result, Exception) else encode_json(result))

        ctx.host.after(begin(), finished)

    return Deferred(start)
