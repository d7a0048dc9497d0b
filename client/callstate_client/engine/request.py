"""JSON-RPC 2.0 without I/O: lines decoded to requests, results and errors encoded as reply lines.

A line that is not UTF-8, not JSON or not a request is refused, with the request's id if that can be read, else with
`null`. Typed params are validated while decoding; members that stay bytes are validated by the verb.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct

from callstate_client.engine.long_result import LongResult
from callstate_client.engine.many_strings import CROPPED_BYTES, cropped
from callstate_client.engine.table.session_table import SessionTable
from callstate_client.engine.verbs.save_delta import cut, extending
from callstate_client.engine.verbs.table import VERBS, Verb, decode_usual
from callstate_client.errors import InvalidRequestError, MethodNotFoundError, ParseError, WireError
from callstate_client.protocol.bounds import RequestId
from callstate_client.protocol.messages import Request, encode_json

NULL_ID: Final = b"null"
_decode_request = msgspec.json.Decoder(Request).decode


class _IdOnly(Struct):
    id: RequestId | int | float | None = None


_decode_id = msgspec.json.Decoder(_IdOnly).decode
_skip_json = msgspec.json.Decoder(msgspec.Raw).decode

_START_BYTES: Final = 256
"""How far into a line an id is looked for that is not decoded."""

_ID_AT_START: Final = re.compile(
    rb'\s*{\s*(?:"(?:jsonrpc|method)"\s*:\s*"[^"\\]*"\s*,\s*)*'  # what may come before it
    rb'"id"\s*:\s*(-?\d{1,18}|"[!#-\[\]-~ ]*")\s*,'
)


class DecodedRequest(Struct, gc=False):
    """A valid request. `request_id` is JSON, or None for a notification."""

    request_id: bytes | None
    verb: Verb
    params: Any


class BadRequest(Exception):  # noqa: N818 - carries an error
    """A line that is answered with an error, or with nothing if `request_id` is None."""

    def __init__(self, request_id: bytes | None, error: WireError) -> None:
        super().__init__(error)
        self.request_id = request_id
        self.error = error


def read_request(line: bytes) -> DecodedRequest | None:
    """Decode a line; None for a blank one.

    A request in the form that most clients send is decoded in one pass. Any other line takes the slow path, which
    also reports what is wrong with an invalid one.

    Raises:
        BadRequest: it is not a valid request.
    """
    try:
        if not line.isascii():
            line.decode()  # what is passed through is not looked at again
        usual = decode_usual(line)
    except (ValueError, RecursionError):
        return _read_any(line)
    return DecodedRequest(b"%d" % usual.id, usual.verb, usual.params)


def read_long_request(line: bytes, table: SessionTable) -> DecodedRequest | None:
    """Like `read_request`, but of a save only the part that does not repeat the kept history is decoded."""
    shorter = cut(table, line)
    if shorter is not None:
        try:
            if not shorter.isascii():
                shorter.decode()
            usual = decode_usual(shorter)
            params = extending(usual.params, line)
            if params is not None:
                return DecodedRequest(b"%d" % usual.id, usual.verb, params)
        except (ValueError, RecursionError):
            pass  # decode the whole line, to report what is wrong with it
    return read_request(cropped(line) if len(line) > CROPPED_BYTES else line)


def _read_any(line: bytes) -> DecodedRequest | None:
    try:
        if not line.isascii():
            line.decode()  # what is passed through is not looked at again
        request = _decode_request(line)
    except (ValueError, RecursionError) as error:
        if not line or line.isspace():
            return None
        raise _refused(line, error) from error
    if request.jsonrpc != "2.0":
        raise BadRequest(_id_of(line), InvalidRequestError('expected "jsonrpc":"2.0"'))
    request_id = None if request.id is UNSET else encode_json(request.id)
    verb = VERBS.get(request.method)
    if verb is None:
        raise BadRequest(request_id, MethodNotFoundError(f"no method {request.method[:64]}"))
    try:
        return DecodedRequest(request_id, verb, verb.params(request.params))
    except WireError as error:
        raise BadRequest(request_id, error) from error


def _refused(line: bytes, error: Exception) -> BadRequest:
    if isinstance(error, UnicodeDecodeError):
        return BadRequest(NULL_ID, ParseError(f"not UTF-8: {error.reason} at byte {error.start}"))
    if isinstance(error, msgspec.ValidationError):
        try:
            request_id = _id_of(line)  # the decoder stopped at the first invalid member
        except (ValueError, RecursionError) as broken:
            return _refused(line, broken)
        reason = str(error)
        if "unknown field" in reason:  # its name may be a caller's data, and errors get into logs
            reason = "it has a member other than jsonrpc, id, method and params"
        return BadRequest(request_id, InvalidRequestError(f"not a JSON-RPC 2.0 request: {reason}"))
    if isinstance(error, RecursionError):
        return BadRequest(NULL_ID, ParseError("nested too deep"))
    return BadRequest(NULL_ID, ParseError(str(error)))


def _id_of(line: bytes) -> bytes:
    """The id for the reply to a bad request: null unless the line is an object with a usable one.

    Raises:
        ValueError, RecursionError: the line is not even JSON.
    """
    try:
        return encode_json(_decode_id(line).id)
    except msgspec.ValidationError:
        _skip_json(line)
        return NULL_ID


def id_at_start(line: bytes) -> bytes:
    """The id of a request that is refused without being read; null if it is not where most clients send it."""
    found = _ID_AT_START.match(line[:_START_BYTES])
    return NULL_ID if found is None else found[1]


def result_line(request_id: bytes, result: bytes) -> bytes:
    """A reply. It begins as the client's `reply_id` expects."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}\n' % (request_id, result)


def long_line(request_id: bytes, result: LongResult) -> LongResult:
    """A reply with a long result."""
    return result.within(b'{"jsonrpc":"2.0","id":%b,"result":' % request_id, b"}\n")


def error_line(request_id: bytes, error: WireError) -> bytes:
    """An error reply."""
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}\n' % (request_id, encode_json(error.to_wire()))
