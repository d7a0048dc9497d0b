"""The wire protocol without any I/O: JSON-RPC 2.0, one message a line.

Imports neither asyncio nor socket, so the asyncio client, the blocking one, the daemon and the tests share
it. `docs/protocol.md` is the specification.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, structs

from callstate_client.errors import DocumentError, InternalError, InvalidParamsError, WireError, from_wire
from callstate_client.lines import LINE_BYTES, LineSplitter
from callstate_client.model import SessionState, StrictStateWire
from callstate_client.model import from_wire as state_from_wire
from callstate_client.params import (
    INT64_MAX,
    INT64_MIN,
    MAX_DEPTH,
    MAX_HISTORY_LIMIT,
    AddTurnParams,
    AmendTurnParams,
    ClaimNextParams,
    ClaimParams,
    DeleteParams,
    DrainParams,
    EndParams,
    FlushParams,
    HeartbeatParams,
    Int64,
    Limit,
    ListActiveParams,
    ListParams,
    LoadParams,
    Mutation,
    NoParams,
    Params,
    PositiveSeconds,
    RecordInterruptionParams,
    RegisterParams,
    ReleaseParams,
    SaveParams,
    Since,
    SubscribeParams,
    UpdateParams,
    Version,
)
from callstate_client.results import (
    DrainResult,
    EventNote,
    FlushResult,
    HeartbeatResult,
    ListActiveResult,
    ListResult,
    LoadResult,
    RegisterResult,
    SaveResult,
    SubscribeResult,
    VersionResult,
)

__all__ = [
    "INT64_MAX",
    "INT64_MIN",
    "LINE_BYTES",
    "MAX_DEPTH",
    "MAX_HISTORY_LIMIT",
    "PROTOCOL_VERSION",
    "AddTurnParams",
    "AmendTurnParams",
    "ClaimNextParams",
    "ClaimParams",
    "DeleteParams",
    "DrainParams",
    "DrainResult",
    "Empty",
    "EndParams",
    "ErrorBody",
    "EventNote",
    "FlushParams",
    "FlushResult",
    "HeartbeatParams",
    "HeartbeatResult",
    "Incoming",
    "Int64",
    "Limit",
    "LineSplitter",
    "ListActiveParams",
    "ListActiveResult",
    "ListParams",
    "ListResult",
    "LoadParams",
    "LoadResult",
    "Mutation",
    "NoParams",
    "Params",
    "PositiveSeconds",
    "RecordInterruptionParams",
    "RegisterParams",
    "RegisterResult",
    "ReleaseParams",
    "Reply",
    "Request",
    "SaveParams",
    "SaveResult",
    "Since",
    "SubscribeParams",
    "SubscribeResult",
    "UpdateParams",
    "Version",
    "VersionResult",
    "decode_any_load",
    "decode_claim_next",
    "decode_drain",
    "decode_empty",
    "decode_event",
    "decode_flush",
    "decode_heartbeat",
    "decode_incoming",
    "decode_list",
    "decode_list_active",
    "decode_load",
    "decode_members",
    "decode_register",
    "decode_save",
    "decode_subscribe",
    "decode_version",
    "encode_json",
    "encode_request",
    "load_result",
    "reply_id",
    "result_decoder",
]

ResultT = TypeVar("ResultT")

PROTOCOL_VERSION: Final = 1
"""Raised when a message of the older form would be misunderstood; additions go into `features`."""

# -- messages ------------------------------------------------------------------------------------------------


class Request(Struct, omit_defaults=True):
    """A request as the daemon reads it: the envelope, params still bytes. No `id`: a notification."""

    jsonrpc: str
    method: str
    id: str | Int64 | float | UnsetType | None = UNSET
    params: Raw | UnsetType = UNSET


class ErrorBody(Struct):
    """A reply's `error`."""

    code: int
    message: str = ""
    data: dict[str, Any] | None = None

    def exception(self) -> WireError:
        """The exception that stands for it."""
        return from_wire(self.code, self.message, self.data)


class Incoming(Struct):
    """A line as the client reads it: a reply, or (with `method`) a notification."""

    id: int | str | None = None
    result: Raw | UnsetType = UNSET
    error: ErrorBody | None = None
    method: str | None = None
    params: Raw | UnsetType = UNSET


encode_json = msgspec.json.Encoder(decimal_format="number").encode
_decode_incoming = msgspec.json.Decoder(Incoming).decode


_ZERO: Final = Raw(b"0")
_SESSION: Final = b'{"session":0'
"""How a save's params begin, `session` being the first of them."""


def encode_request(request_id: int | None, method: str, params: Params | None = None) -> bytes:
    """A request line, newline included. Without an id it is a notification, which gets no reply.

    Args:
        request_id: what the reply will carry; unique among those under way on the connection.
        method: a verb of the protocol; plain ASCII.
        params: of the verb's class.

    Raises:
        InvalidParamsError: a value in it is not JSON's, such as a lone surrogate.
    """
    head = f'{{"jsonrpc":"2.0","method":"{method}"' if request_id is None else (
        f'{{"jsonrpc":"2.0","id":{request_id},"method":"{method}"'
    )  # fmt: skip
    if params is None:
        return head.encode() + b"}\n"
    try:
        if type(params) is SaveParams:  # its document is long: copied once, into memory of just that size
            beside = encode_json(structs.replace(params, session=_ZERO))[len(_SESSION) :]
            return b"".join((head.encode(), b',"params":{"session":', params.session, beside, b"}\n"))
        return b'%b,"params":%b}\n' % (head.encode(), encode_json(params))
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise InvalidParamsError(f"params that can't be written as JSON: {error}") from error


def decode_incoming(line: bytes) -> Incoming:
    """The reply or notification a line is.

    Raises:
        msgspec.MsgspecError: it is neither; the peer is no callstated.
    """
    return _decode_incoming(line)


_PREFIX: Final = b'{"jsonrpc":"2.0","id":'


def reply_id(line: bytes) -> int | None:
    """The id of a reply, without parsing what follows; None where the line must be parsed to know."""
    if not line.startswith(_PREFIX):
        return None
    end = line.find(b",", len(_PREFIX), len(_PREFIX) + 21)
    digits = line[len(_PREFIX) : end]
    return int(digits) if end > 0 and digits.isdigit() else None


class Reply(Struct, Generic[ResultT]):
    """A reply with its result decoded; members of the envelope that we don't know are skipped."""

    result: ResultT | UnsetType = UNSET
    error: ErrorBody | None = None


def result_decoder(result_type: type[ResultT]) -> Callable[[bytes], ResultT]:
    """What turns a reply line into its result: one pass over the line.

    The function it gives raises the error that the reply carries, or InternalError for a line that no
    callstated would send.
    """
    decode: Callable[[bytes], Reply[ResultT]] = msgspec.json.Decoder(Reply[result_type]).decode  # type: ignore[valid-type]

    def result(line: bytes) -> ResultT:
        try:
            reply = decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InternalError(f"the daemon's reply can't be read: {error}") from error
        return _result(reply)

    return result


def _result(reply: Reply[ResultT]) -> ResultT:
    if reply.error is not None:
        raise reply.error.exception()
    if reply.result is UNSET:
        raise InternalError("the daemon's reply has neither result nor error")
    return reply.result


_decode_plain_load = msgspec.json.Decoder(Reply[LoadResult[StrictStateWire]]).decode
decode_any_load = result_decoder(LoadResult[Raw])


_HISTORY: Final = b',"history":[{'
_BEHIND_HISTORY: Final = b'}]},"history_from":'
_MARK: Final = b"0"
_BESIDE_BYTES: Final = 4096
"""How far from the end of a load's reply the end of its history is looked for; little is beside a session."""


def decode_load(line: bytes) -> LoadResult[SessionState]:
    """The result of a load or claim, from its whole reply line in one pass where nothing in it is unknown.

    Raises:
        WireError: the reply says so.
        DocumentError: the session in it is no session document.
    """
    try:
        plain = _result(_plain_load(line))
        return _with_state(plain, state_from_wire(plain.session))
    except (msgspec.ValidationError, DocumentError):  # a member that this version does not know, or a wrong one
        return load_result(decode_any_load(line))


def _plain_load(line: bytes) -> Reply[LoadResult[StrictStateWire]]:
    """A load's reply; its turns are passed over, not scanned, where it has the form that daemons give it.

    A quote behind a comma opens a name (behind a closing one there would be punctuation), so what is found here
    is no part of a text; where the two don't belong together, the brackets of what is left don't match; where
    both belong to something nested, the mark does not come out as the session's history.
    """
    start = line.find(_HISTORY) + len(_HISTORY) - 2
    end = line.rfind(_BEHIND_HISTORY, max(0, len(line) - _BESIDE_BYTES)) + 2
    if len(_HISTORY) - 2 <= start < end:
        try:
            reply = _decode_plain_load(b"".join((line[:start], _MARK, line[end:])))
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            return _decode_plain_load(line)
        if reply.result is not UNSET and bytes(reply.result.session.history) == _MARK:
            reply.result.session.history = Raw(memoryview(line)[start:end])
            return reply
    return _decode_plain_load(line)


_decode_claim_next: Callable[[bytes], LoadResult[Raw] | None] = result_decoder(LoadResult[Raw] | None)  # type: ignore[arg-type]


def decode_claim_next(line: bytes) -> LoadResult[SessionState] | None:
    """The result of a claim of any orphan: None where there is none.

    Raises:
        WireError: the reply says so.
    """
    result = _decode_claim_next(line)
    return None if result is None else load_result(result)


def load_result(result: LoadResult[Raw]) -> LoadResult[SessionState]:
    """The same result with its session decoded."""
    return _with_state(result, SessionState.from_json(result.session))


def _with_state(result: LoadResult[Any], state: SessionState) -> LoadResult[SessionState]:
    # by what came, not by what was asked: `history: "none"` is a part too
    if result.history_from is not None and state.history:
        state.history_from = result.history_from
    else:
        state.history_from = max(0, result.turn_count - len(state.history))
    result.session = state
    return result


class Empty(Struct):
    """A result without members that anybody reads."""


decode_empty = result_decoder(Empty)
decode_save = result_decoder(SaveResult)
decode_version = result_decoder(VersionResult)
decode_list_active = result_decoder(ListActiveResult)
decode_list = result_decoder(ListResult)
decode_heartbeat = result_decoder(HeartbeatResult)
decode_flush = result_decoder(FlushResult)
decode_register = result_decoder(RegisterResult)
decode_subscribe = result_decoder(SubscribeResult)
decode_drain = result_decoder(DrainResult)
decode_event = msgspec.json.Decoder(EventNote).decode
"""An event, from a notification's params."""
decode_members = result_decoder(dict[str, Any])
