"""Events of calls, workers and the store: their types, their form on the wire, and places in a stream of them.

Each daemon has one stream from its start to its end, in which events are numbered from 1. On the wire an event is a
notification `event` whose params are the members of `Event`, with `stream` and `seq` in the place of `cursor` and
times as RFC 3339 text.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args

import msgspec
from msgspec import Meta, Raw, Struct, structs

from callstate_client.errors import InternalError
from callstate_client.model.times import format_time
from callstate_client.protocol.params import Since

__all__ = ["DEFAULT_TYPES", "GAP", "TURN", "TYPES", "Cursor", "Event", "EventType"]

EventType = Literal[
    "created",
    "ended",
    "suspect",
    "recovered",
    "expired",
    "orphaned",
    "claimed",
    "released",
    "fenced",
    "deleted",
    "turn",
    "session.full",
    "worker.joined",
    "worker.left",
    "store.down",
    "store.up",
    "store.repaired",
    "journal.full",
    "journal.ok",
    "server.drain",
]
"""The types of events: of a session where the name is bare, of something else where it has a dot."""

TYPES: Final[frozenset[str]] = frozenset(get_args(EventType))
"""All types that one can subscribe to."""

TURN: Final = "turn"
"""A turn was added. There are many of these, so they are sent only to subscribers that name the type, and are not
kept for later ones."""

DEFAULT_TYPES: Final = TYPES - {TURN}
"""What a subscriber gets if it names no types."""

GAP: Final = "gap"
"""Events were missed: reason `restart` (another stream) or `overrun` (they are no longer kept). Sent whatever types
were subscribed to; the subscriber then reconciles by listing the sessions."""


class Cursor(NamedTuple):
    """A position in a stream of events: after this event.

    Args:
        stream: the id of the stream.
        seq: the event's number in it; 0 is before the first.
    """

    stream: str
    seq: int

    def since(self) -> Since:
        """Its form on the wire."""
        return Since(stream=self.stream, seq=self.seq)


_Time = Annotated[datetime, Meta(tz=True)]


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened to a session, a worker, the store or the daemon.

    Args:
        cursor: its position in the stream: a new subscription from there misses and repeats nothing.
        type: one of TYPES, GAP, or a type of a newer daemon.
        at: when it happened.
        session_id, provider, call_id, labels, owner, epoch: of the session it happened to. With `released` and
            `orphaned`, `owner` is the previous owner.
        reason: why.
        evidence: with `suspect`: what the suspicion is based on, `silence` or `process_exited`.
        deadline: with `suspect`: when the session ends unless there is a sign of life.
        worker_id: with `worker.joined` and `worker.left`.
        turn_count: with `turn`: how many turns there are now.
        drain: with `server.drain`: whether new sessions are refused from now on.
        error: with `store.down`, `journal.full` …: the error's text.
    """

    cursor: Cursor
    type: str
    at: _Time
    session_id: str | None = None
    provider: str | None = None
    call_id: str | None = None
    labels: dict[str, str] = {}
    owner: str | None = None
    epoch: int | None = None
    reason: str | None = None
    evidence: str | None = None
    deadline: _Time | None = None
    worker_id: str | None = None
    turn_count: int | None = None
    drain: bool | None = None
    error: str | None = None

    def to_members(self) -> dict[str, Any]:
        """The params of the notification; members without a value are left out."""
        members: dict[str, Any] = {"stream": self.cursor.stream, "seq": self.cursor.seq, **structs.asdict(self)}
        del members["cursor"]
        members["at"] = format_time(self.at)
        if self.deadline is not None:
            members["deadline"] = format_time(self.deadline)
        return {name: value for name, value in members.items() if value is not None and value != {}}


MEMBERS: Final = ("stream", "seq", *(field.name for field in structs.fields(Event) if field.name != "cursor"))
"""The members of an event on the wire."""

_decode_members = msgspec.json.Decoder(dict[str, Any]).decode


def decode_event(params: bytes | Raw) -> Event:
    """The event of a notification's params; members that a newer daemon adds are skipped.

    Raises:
        InternalError: these are not the params of an event.
    """
    try:
        members = _decode_members(params)
        members["cursor"] = (members.pop("stream"), members.pop("seq"))
        return msgspec.convert(members, Event)
    except (KeyError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InternalError(f"the daemon's event can't be read: {error}") from error
