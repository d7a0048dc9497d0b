"""Sessions from a client, without their histories: their members and metrics."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from callstate_client.engine.sessions.decode_errors import params_error, undecodable
from callstate_client.engine.sessions.steps import finished
from callstate_client.engine.sessions.validation.parts import parts_in_steps
from callstate_client.engine.sessions.validation.texts import check_bytes, check_time
from callstate_client.engine.sessions.validation.values import (
    HEAD_PARTS,
    check_json,
    check_members,
    json_in_steps,
    members_in_steps,
    shortened_in_steps,
)
from callstate_client.errors import TooLargeError
from callstate_client.model import documents
from callstate_client.model.metrics import Counters, StrictCounters
from callstate_client.model.times import YEAR_0, is_time
from callstate_client.protocol.bounds import SessionId, Text, Word
from callstate_client.protocol.ids import MAX_TEXT_BYTES

HEAD_NAMES: Final = 1_000
"""Members of a session, or of its metrics, that callstate does not know: each update reads and writes them all."""

METRICS_BYTES: Final = 64 * 1024
"""Bytes of those members of the metrics: each turn writes them all to the journal."""


class HeadFields(Struct, kw_only=True):
    """A session from a client, its history and pass-through members still bytes."""

    id: SessionId
    created_at: Word | None = None
    updated_at: Word | None = None
    call_id: Text = ""
    provider: Word = ""
    direction: Word = ""
    from_: Text = msgspec.field(name="from", default="")
    to: Text = ""
    status: Word = "pending"
    history: Raw | UnsetType = UNSET
    recovery_data: Raw | UnsetType = UNSET


class IncomingHead(HeadFields, kw_only=True):
    """Any session, with or without unknown members."""

    metrics: Raw | UnsetType = UNSET


class PlainHead(HeadFields, kw_only=True, forbid_unknown_fields=True):
    """The usual session, without unknown members: one pass over the line is enough."""

    metrics: StrictCounters | UnsetType | None = UNSET


HEAD_MEMBERS: Final = frozenset(IncomingHead.__struct_encode_fields__)
_raw_members = msgspec.json.Decoder(dict[str, Raw]).decode
_head = msgspec.json.Decoder(IncomingHead).decode
_metrics = msgspec.json.Decoder(Counters | None).decode


def check_head(data: bytes | Raw, path: str) -> tuple[IncomingHead, dict[str, Raw]]:
    """Validate a session's head; returns it with its unknown members. The history is not read.

    Raises:
        InvalidParamsError, ParseError: something is invalid; the error has its path.
    """
    head, members = finished(_members_of_head(data, path))
    check_fields(head, path)
    extra = _unknown(members, path)
    if extra:
        check_members(extra, path, 3)
    return head, extra


def head_in_steps(data: bytes | Raw, path: str) -> Generator[None, None, tuple[IncomingHead, dict[str, Raw]]]:
    """Like `check_head`, in steps."""
    head, members = yield from _members_of_head(data, path)
    yield
    yield from fields_in_steps(head, path)
    extra = _unknown(members, path)
    yield from members_in_steps(extra, path, 3)
    return head, extra


def _members_of_head(data: bytes | Raw, path: str) -> Generator[None, None, tuple[IncomingHead, dict[str, Raw]]]:
    """A head by its types, and all of its members as JSON; in steps if it is long."""
    try:
        head = _head(data)
        history = b"" if head.history is UNSET else bytes(head.history)
        if len(data) - len(history) > HEAD_PARTS:
            yield from parts_in_steps(bytes(data).replace(history, b"", 1), path, HEAD_PARTS)
        return head, _raw_members(data)
    except msgspec.ValidationError as error:
        raise params_error(error, path) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise undecodable(error, path) from error


def _unknown(members: dict[str, Raw], path: str) -> dict[str, Raw]:
    """The members of a head that callstate does not define."""
    extra = {name: value for name, value in members.items() if name not in HEAD_MEMBERS}
    _check_number(extra, path)
    documents.refuse_shadows(members, HEAD_MEMBERS, path)
    return extra


def _check_number(extra: dict[str, Raw], path: str) -> None:
    if len(extra) > HEAD_NAMES:
        raise TooLargeError(f"more than {HEAD_NAMES} unknown members at {path}", path=path)


def check_fields(head: HeadFields, path: str) -> None:
    """Check what the types of a head leave open.

    Raises:
        InvalidParamsError, ParseError: something is invalid; the error has its path.
    """
    _check_texts(head, path)
    if head.recovery_data is not UNSET:
        _check_recovery(check_json(head.recovery_data, f"{path}.recovery_data", 3), path)


def fields_in_steps(head: HeadFields, path: str) -> Generator[None]:
    """Like `check_fields`, in steps if it is long."""
    _check_texts(head, path)
    if head.recovery_data is not UNSET:
        place = f"{path}.recovery_data"
        short = yield from shortened_in_steps(head.recovery_data, place)
        _check_recovery((yield from json_in_steps(short, place, 3)), path)


def _check_recovery(value: Any, path: str) -> None:
    if not (value is None or isinstance(value, dict)):
        raise documents.not_object(f"{path}.recovery_data")


def _check_texts(head: HeadFields, path: str) -> None:
    for name, at in (("created_at", head.created_at), ("updated_at", head.updated_at)):
        if at is not None and (at.startswith(YEAR_0) or not is_time(at)):
            check_time(at, f"{path}.{name}")
    if not (head.provider.isascii() and head.direction.isascii() and head.status.isascii()):
        check_bytes(head.provider, f"{path}.provider")
        check_bytes(head.direction, f"{path}.direction")
        check_bytes(head.status, f"{path}.status")
    if not (head.call_id.isascii() and head.from_.isascii() and head.to.isascii()):
        check_bytes(head.call_id, f"{path}.call_id", MAX_TEXT_BYTES)
        check_bytes(head.from_, f"{path}.from", MAX_TEXT_BYTES)
        check_bytes(head.to, f"{path}.to", MAX_TEXT_BYTES)


def check_metrics(data: Raw | UnsetType, path: str) -> tuple[Counters, dict[str, Raw]]:
    """Validate metrics; returns them with their unknown members. If left out or null, all are zero."""
    if data is UNSET:
        return Counters(), {}
    try:
        metrics = _metrics(data)
        if metrics is None:
            return Counters(), {}
        members = _raw_members(data)
    except msgspec.ValidationError as error:
        raise params_error(error, path) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise undecodable(error, path) from error
    extra = {name: value for name, value in members.items() if name not in documents.METRICS_NAMES}
    _check_number(extra, path)
    if len(data) > METRICS_BYTES and sum(map(len, extra)) + sum(map(len, extra.values())) > METRICS_BYTES:
        raise TooLargeError(f"more than {METRICS_BYTES} bytes of unknown members at {path}", path=path)
    documents.refuse_shadows(members, documents.METRICS_NAMES, path)
    if extra:
        check_members(extra, path, 4)
    return metrics, extra
