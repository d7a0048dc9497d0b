"""The lines of an export: a header, each call as `session.load` returns it with its timeouts, and a last line.

    {"callstate_export":1,"version":"0.3.0","host":"…","exported_at":"2026-11-28T18:00:00Z"}
    {"session":{"id":"c1",…},"turn_count":12,"version":…,"epoch":3,"labels":{},"owner":"web-1","max_duration_s":3600.0}
    {"callstate_export_end":1,"sessions":1}

What `callstated journal export` prints has neither the first nor the last, and is read as well. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from callstate_client.cli.render.documents import record_document
from callstate_client.errors import CallstateError
from callstate_client.model.state import SessionState
from callstate_client.store import Record

FORMAT: Final = 1
"""The version of the format of the lines. It grows when an older `callstate import` would misread them."""

HEADER: Final = "callstate_export"
END: Final = "callstate_export_end"


class LineError(Exception):
    """A line is none of an export; the message says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first line."""

    format: int


@dataclass(frozen=True, slots=True)
class End:
    """The last line: how many calls there were."""

    sessions: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One call."""

    state: SessionState
    labels: dict[str, str] = field(default_factory=dict)
    heartbeat_timeout_s: float | None = None
    max_duration_s: float | None = None
    ended_reason: str | None = None
    ended_detail: Any = None
    user: tuple[int, int] | None = None
    """Uid and gid of who created it; None where neither is known."""


class _Line(Struct, gc=False):
    """All members that a line may have; others are ignored, for a later version may write more."""

    callstate_export: int | None = None
    callstate_export_end: int | None = None
    sessions: int = 0
    session: Raw = Raw()
    labels: dict[str, str] = {}
    heartbeat_timeout_s: float | None = None
    max_duration_s: float | None = None
    ended_reason: str | None = None
    ended_detail: Any = None
    uid: int = -1
    gid: int = -1


_decode = msgspec.json.Decoder(_Line).decode


def header(version: str, host: str, at: str) -> bytes:
    """The first line."""
    return _line({HEADER: FORMAT, "version": version, "host": host, "exported_at": at})


def entry(record: Record, listed: Record) -> bytes:
    """A call's line.

    Args:
        record: the whole call.
        listed: as a listing has it, with its timeouts and its creator.
    """
    members = record_document(record, history=True, show_numbers=True)
    for name in ("heartbeat_timeout_s", "max_duration_s", "uid", "gid"):
        if (value := getattr(listed, name)) is not None:
            members[name] = value
    return _line(members)


def end(sessions: int) -> bytes:
    """The last line."""
    return _line({END: FORMAT, "sessions": sessions})


def parse(line: bytes) -> Header | Entry | End:
    """What a line is.

    Raises:
        LineError: it is none of an export, or one of a newer format.
    """
    try:
        found = _decode(line)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise LineError(f"not a line of an export: {error}") from error
    if found.callstate_export is not None:
        if found.callstate_export > FORMAT:
            raise LineError(
                f"the export has format {found.callstate_export}, and this callstate reads up to {FORMAT}:"
                " use a newer one"
            )
        return Header(found.callstate_export)
    if found.callstate_export_end is not None:
        return End(found.sessions)
    if not bytes(found.session):
        raise LineError("not a line of an export: it has no session")
    try:
        state = SessionState.from_json(found.session)
    except CallstateError as error:
        raise LineError(str(error)) from error
    return Entry(
        state,
        found.labels,
        found.heartbeat_timeout_s,
        found.max_duration_s,
        found.ended_reason,
        found.ended_detail,
        None if found.uid == found.gid == -1 else (found.uid, found.gid),
    )


def _line(members: dict[str, Any]) -> bytes:
    return msgspec.json.encode(members) + b"\n"
