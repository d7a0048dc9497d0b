"""The wire protocol without any I/O: JSON-RPC 2.0, one message a line.

Imports neither asyncio nor socket, so the asyncio client, the blocking one, the daemon and the tests share
it. `docs/protocol.md` is the specification.
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
from callstate_client.protocol.params import (
    Params,
    Written,
)
from callstate_client.protocol.results import (
    DrainResult,
    FlushResult,
    HeartbeatResult,
    ListActiveResult,
    RegisterResult,
    SaveResult,
    SubscribeResult,
    VersionResult,
)

ResultT = TypeVar("ResultT")

PROTOCOL_VERSION: Final = 1
"""Raised when a message of the older form would be misunderstood; additions go into `features`."""

AMEND_INDEX: Final = "amend_index"
"""`session.amend_turn` takes `index` and `role`."""

LIST_STATE: Final = "list_state"
"""`session.list` takes `state`."""

LIST_SCOPE: Final = "list_scope"
"""`session.list` takes `scope`."""

DELETE_OP: Final = "delete_op"
"""`session.delete` of what is not there is `not_found`, and takes `op`."""

CLAIM_TIMEOUTS: Final = "claim_timeouts"
"""`session.claim` takes timeouts, and replies name those in force."""

INSTANCE: Final = "instance"
"""`worker.register` takes `instance` and `process`."""

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
)
"""The optional parts of the protocol that there are; which of them a daemon has, `server.info` says."""

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


def encode_params(members: Any) -> bytes:
    """JSON of params.

    Raises:
        InvalidParamsError: a value in it is not JSON's, such as a lone surrogate.
    """
    try:
        return encode_json(members)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise InvalidParamsError(f"params that can't be written as JSON: {error}") from error


def encode_request(request_id: int | None, method: str, params: Params | None = None) -> bytes:
    """A request line, newline included. Without an id it is a notification, which gets no reply.

    Args:
        request_id: what the reply will carry; unique among those under way on the connection.
        method: a verb of the protocol; plain ASCII.
        params: of the verb's class, or Written.

    Raises:
        InvalidParamsError: a value in it is not JSON's, such as a lone surrogate.
    """
    if request_id is None:
        head = f'{{"jsonrpc":"2.0","method":"{method}"'
    else:
        head = f'{{"jsonrpc":"2.0","id":{request_id},"method":"{method}"'
    if params is None:
        return head.encode() + b"}\n"
    head += ',"params":'
    if type(params) is Written:  # what is long is copied once, into memory of just that size
        return b"".join((head.encode(), *params.pieces, b"}\n"))
    return b"%b%b}\n" % (head.encode(), encode_params(params))


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
        return result_of(reply)

    return result


def result_of(reply: Reply[ResultT]) -> ResultT:
    """What a reply carries.

    Raises:
        WireError: the reply says so.
        InternalError: it says nothing.
    """
    if reply.error is not None:
        raise reply.error.exception()
    if reply.result is UNSET:
        raise InternalError("the daemon's reply has neither result nor error")
    return reply.result


class Empty(Struct):
    """A result without members that anybody reads."""


decode_empty = result_decoder(Empty)
decode_save = result_decoder(SaveResult)
decode_version = result_decoder(VersionResult)
decode_list_active = result_decoder(ListActiveResult)
decode_heartbeat = result_decoder(HeartbeatResult)
decode_flush = result_decoder(FlushResult)
decode_register = result_decoder(RegisterResult)
decode_subscribe = result_decoder(SubscribeResult)
decode_drain = result_decoder(DrainResult)
decode_members = result_decoder(dict[str, Any])


def check_protocol(info: dict[str, Any]) -> dict[str, Any]:
    """What `server.info` said, if the daemon speaks a version of the protocol that we know.

    Raises:
        UnsupportedProtocolError: it does not.
    """
    spoken = info.get("protocol", PROTOCOL_VERSION)
    if spoken != PROTOCOL_VERSION:
        version = info.get("version", "of another version")
        text = f"the daemon ({version}) speaks protocol {spoken}, and this client knows {PROTOCOL_VERSION}"
        raise UnsupportedProtocolError(f"{text}: update the older of the two", spoken)
    return info
