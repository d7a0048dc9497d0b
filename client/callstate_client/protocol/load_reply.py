"""Decoding the replies of loads, claims and lists, whose turns stay bytes until they are accessed.

A load's reply is mostly history, so the usual one is decoded without scanning it: the history is cut out by
searching for the text before and after it, and the rest is decoded in one pass. Everything unusual (unknown
members, deep nesting) is detected by a decoder's failure and decoded again by a slower way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Raw

from callstate_client.errors import DocumentError, InternalError
from callstate_client.model import go_json
from callstate_client.model.documents import PlainDocument
from callstate_client.model.history import History
from callstate_client.model.state import SessionState, of_plain
from callstate_client.protocol.messages import Reply, result_decoder, result_of
from callstate_client.protocol.results import ListResult, LoadResult

_decode_plain_load = msgspec.json.Decoder(Reply[LoadResult[PlainDocument]]).decode
_decode_shallow_load = result_decoder(LoadResult[Raw])
_load_of = msgspec.json.Decoder(LoadResult[Raw]).decode
_decode_list = result_decoder(ListResult)


_HISTORY: Final = b',"history":[{'
_BEHIND_HISTORY: Final = b'}]},"history_from":'
_MARK: Final = b"0"
_BESIDE_BYTES: Final = 4096
"""How far from the end of a reply the end of its history is searched for, bytes: what comes after it is short."""


def decode_load(line: bytes) -> LoadResult[SessionState]:
    """The result of a load or claim.

    Raises:
        WireError: the reply is an error.
        DocumentError: its session is not a session document.
    """
    try:
        plain, history = _plain_load(line)
        return _with_state(plain, of_plain(plain.session, history=history))
    except (msgspec.MsgspecError, ValueError, RecursionError, DocumentError):
        # an unknown member, or an invalid one
        return load_result(decode_any_load(line))


def _plain_load(line: bytes) -> tuple[LoadResult[PlainDocument], History | None]:
    """A load's reply in the form that daemons send; its history is replaced by a mark and not scanned.

    A wrong cut is always detected. `,"history":[{` is not part of a string, since a quote in one is escaped, and
    after a closing quote there would be punctuation. If the two cuts don't belong together, the brackets of
    what is left don't match, and decoding fails. If both belong to a nested value, the mark is not decoded as the
    session's history.
    """
    start = line.find(_HISTORY) + len(_HISTORY) - 2
    end = line.rfind(_BEHIND_HISTORY, max(0, len(line) - _BESIDE_BYTES)) + 2
    if len(_HISTORY) - 2 <= start < end:
        try:
            result = result_of(_decode_plain_load(b"%b%b%b" % (line[:start], _MARK, line[end:])))
            if bytes(result.session.history) == _MARK:
                return result, History.of_objects(Raw(memoryview(line)[start:end]))
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            pass  # the cuts don't belong together
    return result_of(_decode_plain_load(line)), None


def decode_any_load(line: bytes) -> LoadResult[Raw]:
    """The result of a load or claim, its session still bytes, however deeply it is nested.

    Raises:
        WireError: the reply is an error.
    """
    try:
        return _decode_shallow_load(line)
    except InternalError as error:
        return _deep_load(_deep_result(line, error))


def decode_list(line: bytes) -> ListResult:
    """The result of a list, its sessions still bytes.

    Raises:
        WireError: the reply is an error.
    """
    try:
        return _decode_list(line)
    except InternalError as error:
        result = go_json.raw_members(_deep_result(line, error))
        cursor = go_json.decode_any(result.get("next_cursor", b"null"))
        return ListResult([_deep_load(each) for each in go_json.raw_list(result["sessions"])], cursor)


def _deep_result(line: bytes, error: InternalError) -> bytes:
    """The result of a reply that is nested too deeply for the decoder; raises the error if that was another."""
    if not isinstance(error.__cause__, RecursionError):
        raise error
    return go_json.raw_members(line)["result"]


def _deep_load(result: bytes) -> LoadResult[Raw]:
    beside = go_json.raw_members(result)
    session = beside["session"]
    load = _load_of(go_json.join_members({**beside, "session": b"0"}))
    load.session = Raw(session)
    return load


_decode_claim_next: Callable[[bytes], LoadResult[Raw] | None] = result_decoder(LoadResult[Raw] | None)  # type: ignore[arg-type]


def decode_claim_next(line: bytes) -> LoadResult[SessionState] | None:
    """The result of a claim of any orphan; None if there was none.

    Raises:
        WireError: the reply is an error.
    """
    try:
        result = _decode_claim_next(line)
    except InternalError as error:
        result = _deep_load(_deep_result(line, error))
    return None if result is None else load_result(result)


def load_result(result: LoadResult[Raw]) -> LoadResult[SessionState]:
    """The result with its session decoded."""
    return _with_state(result, SessionState.from_json(result.session))


def _with_state(result: LoadResult[Any], state: SessionState) -> LoadResult[SessionState]:
    # according to the reply, not the request: `history: "none"` loads a part too
    if result.history_from is not None and state.history:
        state.history_from = result.history_from
    else:
        state.history_from = max(0, result.turn_count - len(state.history))
    result.session = state
    return result
