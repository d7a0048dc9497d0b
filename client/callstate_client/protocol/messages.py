"""Messages of the wire protocol, without I/O: JSON-RPC 2.0, one message per line.

The asyncio client, the blocking one, the daemon and the tests share it. `docs/protocol.md` is the specification.

The client builds request lines by hand around params that msgspec encodes, and decodes a reply in one pass into the
type of its result. A line that no callstated would send is an InternalError of the request it answers, or, where
that is unknown, ends the connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from callstate_client.errors import (
    InternalError,
    InvalidParamsError,
    UnsupportedProtocolError,
    WireError,
    from_wire,
)
from callstate_client.model.go_json import Int64
from callstate_client.protocol.bounds import RequestId
from callstate_client.protocol.params import Params, Written
from callstate_client.protocol.results import (
    CheckResult,
    ConfigResult,
    DrainResult,
    EraseResult,
    FlushResult,
    HeartbeatResult,
    ListActiveResult,
    QuarantineListResult,
    QuarantineRetryResult,
    QuarantineShowResult,
    RegisterResult,
    SaveResult,
    SubscribeResult,
    VersionResult,
    WorkerListResult,
)

ResultT = TypeVar("ResultT")

PROTOCOL_VERSION: Final = 1
"""Incremented when older messages would be misunderstood; additions are announced in `features` instead."""

AMEND_INDEX: Final = "amend_index"
"""`session.amend_turn` takes `index` and `role`."""

LIST_STATE: Final = "list_state"
"""`session.list` takes `state`."""

LIST_SCOPE: Final = "list_scope"
"""`session.list` takes `scope`."""

DELETE_OP: Final = "delete_op"
"""`session.delete` of an absent session is `not_found`, and takes `op`."""

CLAIM_TIMEOUTS: Final = "claim_timeouts"
"""`session.claim` takes timeouts, and its reply has those in force."""

INSTANCE: Final = "instance"
"""`worker.register` takes `instance` and `process`."""

QUARANTINE: Final = "quarantine"
"""`quarantine.list`, `show`, `retry` and `drop`."""

SERVER_CHECK: Final = "server_check"
"""The daemon has `server.check`."""

WORKER_LIST: Final = "worker_list"
"""The daemon has `worker.list`."""

SERVER_CONFIG: Final = "server_config"
"""The daemon has `server.config`."""

SERVER_ERASE: Final = "server_erase"
"""The daemon has `server.erase`."""

LIST_USERS: Final = "list_users"
"""The daemon knows `users` of `session.list` and `user` of `session.save`."""

EVENTS_WORKER: Final = "events_worker"
"""The daemon knows `worker_id` of `events.subscribe`."""

FEATURES: Final = (
    "ownership",
    "events",
    "drain",
    AMEND_INDEX,
    DELETE_OP,
    LIST_STATE,
    LIST_SCOPE,
    CLAIM_TIMEOUTS,
    INSTANCE,
    QUARANTINE,
    SERVER_CHECK,
    WORKER_LIST,
    SERVER_CONFIG,
    SERVER_ERASE,
    LIST_USERS,
    EVENTS_WORKER,
)
"""All optional parts of the protocol; `server.info` lists those that a daemon has."""

# -- messages ------------------------------------------------------------------------------------------------


class Request(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A request as the daemon decodes it, its params still bytes. Without `id` it is a notification."""

    jsonrpc: str
    method: str
    id: RequestId | Int64 | float | UnsetType | None = UNSET
    params: Raw | UnsetType = UNSET


class ErrorBody(Struct):
    """A reply's `error`."""

    code: int
    message: str = ""
    data: dict[str, Any] | None = None

    def exception(self) -> WireError:
        """The exception for it."""
        return from_wire(self.code, self.message, self.data)


class Incoming(Struct):
    """A line as the client decodes it: a reply or, with `method`, a notification."""

    id: int | str | None = None
    result: Raw | UnsetType = UNSET
    error: ErrorBody | None = None
    method: str | None = None
    params: Raw | UnsetType = UNSET


encode_json = msgspec.json.Encoder(decimal_format="number").encode
_decode_incoming = msgspec.json.Decoder(Incoming).decode


def encode_params(members: Any) -> bytes:
    """Params as JSON.

    Raises:
        InvalidParamsError: a value can't be written as JSON, such as a lone surrogate.
    """
    try:
        return encode_json(members)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise InvalidParamsError(f"params that can't be written as JSON: {error}") from error


def encode_request(request_id: int | None, method: str, params: Params | None = None) -> bytes:
    """A request line, newline included. Without an id it is a notification, which gets no reply.

    Args:
        request_id: the id that the reply will carry; unique among the pending requests of the connection.
        method: a verb of the protocol; plain ASCII.
        params: of the verb's class, or Written.

    Raises:
        InvalidParamsError: a value can't be written as JSON, such as a lone surrogate.
    """
    if request_id is None:
        head = f'{{"jsonrpc":"2.0","method":"{method}"'
    else:
        head = f'{{"jsonrpc":"2.0","id":{request_id},"method":"{method}"'
    if params is None:
        return head.encode() + b"}\n"
    head += ',"params":'
    if type(params) is Written:  # `join` copies long pieces once, into memory of the right size
        return b"".join((head.encode(), *params.pieces, b"}\n"))
    return b"%b%b}\n" % (head.encode(), encode_params(params))


def decode_incoming(line: bytes) -> Incoming:
    """The reply or notification in a line.

    Raises:
        msgspec.MsgspecError: it is neither; the peer is not a callstated.
    """
    return _decode_incoming(line)


_PREFIX: Final = b'{"jsonrpc":"2.0","id":'
_ID_AT: Final = len(_PREFIX)


def reply_id(line: bytes) -> int | None:
    """The id of a reply, found without parsing the line; None where that takes parsing."""
    if line.startswith(_PREFIX) and (end := line.find(b",", _ID_AT, _ID_AT + 21)) > 0:
        digits = line[_ID_AT:end]
        if digits.isdigit():
            return int(digits)
    return None


class Reply(Struct, Generic[ResultT]):
    """A reply with its result decoded; unknown members of the envelope are skipped."""

    result: ResultT | UnsetType = UNSET
    error: ErrorBody | None = None


def result_decoder(result_type: type[ResultT]) -> Callable[[bytes], ResultT]:
    """A function that decodes a reply line into its result, in one pass.

    It raises the error that the reply carries, or InternalError for a line that no callstated would send.
    """
    decode: Callable[[bytes], Reply[ResultT]] = msgspec.json.Decoder(Reply[result_type]).decode  # type: ignore[valid-type]

    def result(line: bytes) -> ResultT:
        try:
            reply = decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InternalError(f"the daemon's reply can't be read: {error}") from error
        return result_of(reply)

    return result


def result_of(reply: Reply[ResultT]) -> ResultT:
    """The result of a reply.

    Raises:
        WireError: the reply is an error.
        InternalError: it has neither result nor error.
    """
    if reply.error is not None:
        raise reply.error.exception()
    if reply.result is UNSET:
        raise InternalError("the daemon's reply has neither result nor error")
    return reply.result


class Empty(Struct):
    """A result whose members are not read."""


decode_empty = result_decoder(Empty)
decode_save = result_decoder(SaveResult)
decode_version = result_decoder(VersionResult)
decode_list_active = result_decoder(ListActiveResult)
decode_heartbeat = result_decoder(HeartbeatResult)
decode_check = result_decoder(CheckResult)
decode_erase = result_decoder(EraseResult)
decode_flush = result_decoder(FlushResult)
decode_register = result_decoder(RegisterResult)
decode_subscribe = result_decoder(SubscribeResult)
decode_drain = result_decoder(DrainResult)
decode_worker_list = result_decoder(WorkerListResult)
decode_config = result_decoder(ConfigResult)
decode_quarantine_list = result_decoder(QuarantineListResult)
decode_quarantine_show = result_decoder(QuarantineShowResult)
decode_quarantine_retry = result_decoder(QuarantineRetryResult)
decode_members = result_decoder(dict[str, Any])


def check_protocol(info: dict[str, Any]) -> dict[str, Any]:
    """Return the result of `server.info` if the daemon speaks our version of the protocol.

    Raises:
        UnsupportedProtocolError: it speaks another.
    """
    spoken = info.get("protocol", PROTOCOL_VERSION)
    if spoken != PROTOCOL_VERSION:
        version = info.get("version", "of another version")
        text = f"the daemon ({version}) speaks protocol {spoken}, and this client knows {PROTOCOL_VERSION}"
        raise UnsupportedProtocolError(f"{text}: update the older of the two", spoken)
    return info
