"""The requests of the protocol: one function each, which checks its arguments and prepares request and decoder.

No I/O: the asyncio front and the blocking one send these requests and decode the replies with them. What can't be
sent raises here, before anything has been sent.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import count
from os import getpid
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import Struct

from callstate_client import protocol
from callstate_client.errors import MethodNotFoundError
from callstate_client.model.history import Piece
from callstate_client.model.members import encode_members
from callstate_client.model.merge import merge_patch
from callstate_client.model.state import SessionState
from callstate_client.model.times import format_time, now_text
from callstate_client.model.turn import TurnWire
from callstate_client.model.wellformed import turn_values
from callstate_client.protocol import load_reply
from callstate_client.protocol.results import FlushResult, LoadResult
from callstate_client.requests import validation
from callstate_client.requests.patches import Beside, turn_patch
from callstate_client.store import Record

FLUSH_S: Final = 10.0
"""How long the daemon tries to flush, seconds; it writes to its store five times a second while that is up."""

FLUSH_MARGIN_S: Final = 5.0
"""How much longer than that the client waits, seconds: the daemon gives up first, and its reply says what it
flushed."""

NO_AMEND_INDEX: Final = "this daemon is too old to amend any turn but the last"

ResultT = TypeVar("ResultT")
ItemT = TypeVar("ItemT")


class PreparedRequest(Struct, Generic[ResultT], gc=False):
    """One request, and how its reply is decoded.

    Args:
        method: a verb of the protocol.
        params: of the verb's class.
        result: decodes the reply's line, or raises the error that it carries.
        op_of: for a mutation with an `op`, the session that remembers it: it may be sent twice.
    """

    method: str
    params: protocol.Params | None
    result: Callable[[bytes], ResultT]
    op_of: str | None = None


class Page(Struct, Generic[ItemT]):
    """A page of a listing.

    Args:
        items: decoded as they are iterated over.
        next_page: the request for the next page; None after the last one.
    """

    items: Iterable[ItemT]
    next_page: PreparedRequest[Page[ItemT]] | None


class Ops:
    """Names for mutations (`op`), unique among all processes.

    A fork copies prefix and count, so the child has to take another prefix. The pid is compared each time, since a
    fork in C, as in uWSGI, runs no hooks of Python.
    """

    def __init__(self) -> None:
        self._pid = 0
        self._prefix = ""
        self._count = count(1)

    def new(self) -> str:
        """A new name."""
        if getpid() != self._pid:
            self._prefix = secrets.token_hex(8)
            self._pid = getpid()
        return f"{self._prefix}.{next(self._count):x}"


# -- reading replies ------------------------------------------------------------------------------------------


def _nothing(line: bytes) -> None:
    protocol.decode_empty(line)


def _version(line: bytes) -> int:
    return protocol.decode_version(line).version


def _state(line: bytes) -> SessionState:
    return load_reply.decode_load(line).session


def _record(line: bytes) -> Record:
    return _to_record(load_reply.decode_load(line))


def _any_record(line: bytes) -> Record | None:
    result = load_reply.decode_claim_next(line)
    return None if result is None else _to_record(result)


def _listed(result: LoadResult[msgspec.Raw]) -> Record:
    return _to_record(load_reply.load_result(result))


def _to_record(result: LoadResult[SessionState]) -> Record:
    return Record(
        state=result.session,
        version=result.version,
        epoch=result.epoch,
        owner=result.owner,
        ended_reason=result.ended_reason or None,
        labels=result.labels,
        history_from=result.session.history_from,
        heartbeat_timeout_s=result.heartbeat_timeout_s,
        max_duration_s=result.max_duration_s,
        handovers=result.handovers,
        restored=result.restored,
        ended_detail=result.ended_detail,
        turn_count=result.turn_count,
    )


# -- reads ----------------------------------------------------------------------------------------------------

PING: Final = PreparedRequest("server.ping", None, _nothing)
INFO: Final = PreparedRequest("server.info", None, protocol.decode_members)
STATS: Final = PreparedRequest("server.stats", None, protocol.decode_members)


def load(session_id: str, history: str | int) -> PreparedRequest[SessionState]:
    """One session's state, with all its turns, none, or the last ones."""
    return PreparedRequest("session.load", _load_params(session_id, history), _state)


def get(session_id: str, history: str | int) -> PreparedRequest[Record]:
    """One session's state, with what is known beside the document."""
    return PreparedRequest("session.load", _load_params(session_id, history), _record)


def _load_params(session_id: str, history: str | int) -> protocol.Params:
    validation.check_session_id(session_id)
    if history == "all":
        return protocol.Written((b'{"session_id":%b}' % protocol.encode_json(session_id),))
    return protocol.LoadParams(session_id=session_id, history=history)


def list_active(scope: str, cursor: str | None = None) -> PreparedRequest[Page[str]]:
    """The ids of all sessions that have not ended, by pages; `scope`: `"host"`, or `"all"` for every host."""

    def result(line: bytes) -> Page[str]:
        page = protocol.decode_list_active(line)
        return Page(page.session_ids, list_active(scope, page.next_cursor) if page.next_cursor else None)

    return PreparedRequest("session.list_active", protocol.ListActiveParams(cursor=cursor, scope=scope), result)


def sessions(
    *,
    status: str | None,
    state: str | None,
    provider: str | None,
    owner: str | None,
    call_id: str | None,
    ended_since: datetime | None,
    labels: Mapping[str, str] | None,
    scope: str,
) -> PreparedRequest[Page[Record]]:
    """The sessions that match, without their histories, by pages; `scope`: `"host"` for those in the daemon's
    memory, `"all"` for those that the store has of every host as well."""
    return _listing(
        protocol.ListParams(
            status=status,
            state=state,
            provider=provider,
            owner=owner,
            call_id=call_id,
            labels=None if labels is None else dict(labels),
            ended_since=None if ended_since is None else format_time(ended_since),
            scope=scope,
        )
    )


def listing_features(state: str | None, scope: str) -> frozenset[str]:
    """The features that a daemon needs to list by this state and scope."""
    needed = {protocol.LIST_STATE} if state is not None else set()
    return frozenset(needed if scope == "host" else needed | {protocol.LIST_SCOPE})


def check_listable(features: Collection[str], needed: frozenset[str]) -> None:
    """See that a daemon with these features can list what is wanted.

    Raises:
        MethodNotFoundError: it does not.
    """
    if not needed <= frozenset(features):
        raise MethodNotFoundError("this daemon, of an earlier version, lists no sessions by state or of every host")


def _listing(params: protocol.ListParams) -> PreparedRequest[Page[Record]]:
    def result(line: bytes) -> Page[Record]:
        page = load_reply.decode_list(line)
        next_page = None
        if page.next_cursor:
            next_page = _listing(msgspec.structs.replace(params, cursor=page.next_cursor))
        return Page(map(_listed, page.sessions), next_page)

    return PreparedRequest("session.list", params, result)


def flush(session_ids: Sequence[str] | None, timeout_s: float) -> PreparedRequest[FlushResult]:
    """The barrier. The daemon tries for `timeout_s`, so the reply may take FLUSH_MARGIN_S more."""
    ids = None if session_ids is None else list(session_ids)
    return PreparedRequest(
        "server.flush", protocol.FlushParams(session_ids=ids, timeout_s=timeout_s), protocol.decode_flush
    )


# -- writes ---------------------------------------------------------------------------------------------------


def with_epoch(params: protocol.Params | None, epoch: int) -> protocol.Params | None:
    """A mutation's params with a fencing token, unless they have one."""
    if isinstance(params, protocol.Written):
        *pieces, last = params.pieces
        return protocol.Written((*pieces, bytes(last)[:-1], b',"epoch":%d}' % epoch))
    if getattr(params, "epoch", epoch) is None:
        params.epoch = epoch  # type: ignore[union-attr]
    return params


def fenced(request: PreparedRequest[ResultT], epoch: int | None) -> PreparedRequest[ResultT]:
    """Add a fencing token to a mutation; None: none. Gives the same request."""
    if epoch is not None:
        request.params = with_epoch(request.params, epoch)
    return request


def heartbeat(session_id: str) -> PreparedRequest[None]:
    """A heartbeat of one session."""
    validation.check_session_id(session_id)
    return PreparedRequest("session.heartbeat", protocol.HeartbeatParams(session_id=session_id), _nothing)


def save(
    state: SessionState,
    if_version: int | None,
    labels: Mapping[str, str] | None,
    heartbeat_timeout_s: float | None,
    max_duration_s: float | None,
    op: str,
) -> PreparedRequest[protocol.SaveResult]:
    """Keep a state, whole. Decoding the reply sets its `updated_at`."""
    beside = beside_state(labels, heartbeat_timeout_s, max_duration_s, op)
    return save_document(state, document(state), beside, if_version, None)


def document(state: SessionState) -> Sequence[Piece]:
    """A state as JSON, in pieces.

    Raises:
        DocumentError: it can't be saved.
    """
    validation.check_state(state)
    return state.pieces(validation.check_extra)


def beside_state(
    labels: Mapping[str, str] | None, heartbeat_timeout_s: float | None, max_duration_s: float | None, op: str
) -> dict[str, Any]:
    """The params of a save besides the state."""
    beside: dict[str, Any] = {}
    if labels is not None:
        beside["labels"] = dict(labels)
    if heartbeat_timeout_s is not None:
        beside["heartbeat_timeout_s"] = heartbeat_timeout_s
    if max_duration_s is not None:
        beside["max_duration_s"] = max_duration_s
    beside["op"] = op
    return beside


def save_document(
    state: SessionState,
    pieces: Sequence[Piece],
    beside: Mapping[str, Any],
    if_version: int | None,
    epoch: int | None,
) -> PreparedRequest[protocol.SaveResult]:
    """Keep a state as it was when `document` was made of it. Decoding the reply sets its `updated_at`."""
    given = {"if_version": if_version, "epoch": epoch}
    members = {name: value for name, value in given.items() if value is not None} | dict(beside)
    params = protocol.Written((b'{"session":', *pieces, b",", protocol.encode_params(members)[1:]))

    def result(line: bytes) -> protocol.SaveResult:
        saved = protocol.decode_save(line)
        state.saved_at(saved.updated_at)
        return saved

    return PreparedRequest("session.save", params, result, state.id)


def claim(
    session_id: str,
    worker_id: str,
    history: str | int,
    *,
    steal: bool,
    heartbeat_timeout_s: float | None = None,
    max_duration_s: float | None = None,
) -> PreparedRequest[Record]:
    """Own a session. The timeouts need a daemon with the feature CLAIM_TIMEOUTS."""
    validation.check_session_id(session_id)
    params = protocol.ClaimParams(
        session_id=session_id,
        worker_id=worker_id,
        steal=steal,
        history=history,
        heartbeat_timeout_s=heartbeat_timeout_s,
        max_duration_s=max_duration_s,
    )
    return PreparedRequest("session.claim", params, _record)


def claim_next(
    worker_id: str, labels: Mapping[str, str] | None, history: str | int
) -> PreparedRequest[Record | None]:
    """Own any session that has lost its worker."""
    wanted = None if labels is None else dict(labels)
    params = protocol.ClaimNextParams(worker_id=worker_id, labels=wanted, history=history)
    return PreparedRequest("session.claim_next", params, _any_record)


def release(session_id: str, epoch: int) -> PreparedRequest[None]:
    """Give a session up."""
    validation.check_session_id(session_id)
    return PreparedRequest("session.release", protocol.ReleaseParams(session_id=session_id, epoch=epoch), _nothing)


def drain(on: bool) -> PreparedRequest[protocol.DrainResult]:
    """Refuse new sessions, or take them again."""
    return PreparedRequest("server.drain", protocol.DrainParams(on=on), protocol.decode_drain)


def delete(session_id: str, op: str, features: Collection[str]) -> PreparedRequest[None]:
    """Forget a session. A daemon without the feature DELETE_OP raises nothing where there is none."""
    validation.check_session_id(session_id)
    if protocol.DELETE_OP not in features:
        return PreparedRequest("session.delete", protocol.DeleteParams(session_id=session_id), _nothing)
    return PreparedRequest(
        "session.delete", protocol.DeleteParams(session_id=session_id, op=op), _nothing, session_id
    )


def add_turn(
    session_id: str,
    role: str,
    content: str,
    duration_ms: int,
    at: datetime | None,
    extra: dict[str, Any] | None,
    op: str,
) -> PreparedRequest[int]:
    """Append a turn."""
    validation.check_session_id(session_id)
    role, content, duration_ms = turn_values(role, content, duration_ms)
    turn: Any = TurnWire(role, content, now_text() if at is None else format_time(at), duration_ms)
    if extra:
        validation.check_extra(extra)
        turn = msgspec.structs.asdict(turn) | extra
    params = protocol.Written((encode_members(_AddTurn(session_id, turn, op)),))
    return PreparedRequest("session.add_turn", params, _version, session_id)


class _AddTurn(Struct, gc=False):
    """The params of an `add_turn` before encoding."""

    session_id: str
    turn: Any
    op: str


def amend_turn(
    session_id: str,
    index: int | None,
    role: str | None,
    content: str | None,
    duration_ms: int | None,
    extra: dict[str, Any] | None,
    op: str,
) -> PreparedRequest[int]:
    """Patch a turn: the last one where neither index nor role say which."""
    patch = msgspec.Raw(encode_members(turn_patch(content, duration_ms, extra)))
    params = protocol.AmendTurnParams(session_id=session_id, set=patch, index=index, role=role, op=op)
    return _mutation("session.amend_turn", params)


def check_amendable(index: int | None, role: str | None, features: Collection[str]) -> None:
    """See that a daemon with these features can amend the turn that is meant.

    Raises:
        MethodNotFoundError: it only amends the last turn.
    """
    if (index is not None or role is not None) and protocol.AMEND_INDEX not in features:
        raise MethodNotFoundError(NO_AMEND_INDEX)


def record_interruption(session_id: str, op: str) -> PreparedRequest[int]:
    """Count an interruption."""
    params = protocol.RecordInterruptionParams(session_id=session_id, op=op)
    return _mutation("session.record_interruption", params)


def update(session_id: str, if_version: int | None, patch: dict[str, Any], op: str) -> PreparedRequest[int]:
    """Patch a session's head; the patch comes from `split_changes`."""
    encoded = msgspec.Raw(encode_members(patch))
    params = protocol.UpdateParams(session_id=session_id, set=encoded, if_version=if_version, op=op)
    return _mutation("session.update", params)


REWRITES: Final = 10
"""How often a head is rewritten when another change has come first, before the conflict is raised."""


def rewrite_head(
    record: Record, if_version: int | None, patch: dict[str, Any], beside: Beside, epoch: int | None, op: str
) -> PreparedRequest[int]:
    """Patch a session's head together with what is kept beside the document, which only a save can change: the head
    as it was read, patched, without its history, and on condition that nothing has changed since."""
    members = merge_patch(record.state.to_members(with_history=False), patch)
    params = protocol.SaveParams(
        session=msgspec.Raw(encode_members(members)),
        if_version=record.version if if_version is None else if_version,
        epoch=epoch,
        op=op,
        **beside,
    )
    return PreparedRequest("session.save", params, _version, record.state.id)


def end(session_id: str, reason: str | None, detail: Any, op: str) -> PreparedRequest[int]:
    """End a session."""
    params = protocol.EndParams(session_id=session_id, reason=reason, op=op)
    if detail is not None:
        validation.check_free(detail, "detail")
        encoded = encode_members(detail)
        validation.check_detail(encoded)
        params.detail = msgspec.Raw(encoded)
    return _mutation("session.end", params)


def _mutation(method: str, params: protocol.Mutation) -> PreparedRequest[int]:
    validation.check_session_id(params.session_id)
    return PreparedRequest(method, params, _version, params.session_id)
