"""What happens to calls, workers and the store behind, as a daemon tells it; and the place in its stream."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, get_args

from msgspec import Struct, structs

from callstate_client.errors import InternalError
from callstate_client.model.times import format_time, parse_time
from callstate_client.protocol.params import (
    Since,
)
from callstate_client.protocol.results import (
    EventNote,
)

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
"""What an event may be: of a session where the name is bare, of something else where it has a dot."""

TYPES: Final[frozenset[str]] = frozenset(get_args(EventType))
"""All names one can subscribe to."""

TURN: Final = "turn"
"""A turn was added. Of these there are many, so they are only told to who asks by name, and not kept."""

DEFAULT_TYPES: Final = TYPES - {TURN}
"""What one gets who names none."""

GAP: Final = "gap"
"""Events were missed: reason `restart` (another stream) or `overrun` (they are not kept any more). Sent whatever
the types asked for, so that one reconciles by listing the sessions."""


class Cursor(NamedTuple):
    """A place in a stream of events: behind this event.

    Args:
        stream: of one daemon, from its start to its end.
        seq: the event's number in it; 0: before the first.
    """

    stream: str
    seq: int

    def since(self) -> Since:
        """As the wire has it."""
        return Since(stream=self.stream, seq=self.seq)


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something happened.

    Args:
        cursor: its place in the stream: come back with it and nothing is missed or told twice.
        type: one of TYPES, GAP, or what a newer daemon knows.
        at: when.
        session_id, provider, call_id, labels, owner, epoch: of the session it happened to. `owner` is who holds
            it; with `released` and `orphaned`, who held it.
        reason: why.
        evidence: with `suspect`: what says so, `silence` or `process_exited`.
        deadline: with `suspect`: when the session ends unless there is a sign of life.
        worker_id: with `worker.joined` and `worker.left`.
        turn_count: with `turn`: how many there are now.
        drain: with `server.drain`: whether new sessions are refused from now on.
        error: with `store.down`, `journal.full` …: what was said.
    """

    cursor: Cursor
    type: str
    at: datetime
    session_id: str | None = None
    provider: str | None = None
    call_id: str | None = None
    labels: dict[str, str] = {}
    owner: str | None = None
    epoch: int | None = None
    reason: str | None = None
    evidence: str | None = None
    deadline: datetime | None = None
    worker_id: str | None = None
    turn_count: int | None = None
    drain: bool | None = None
    error: str | None = None

    @classmethod
    def of(cls, note: EventNote) -> Event:
        """What a notification's params say.

        Raises:
            InternalError: a time in it is none.
        """
        members = structs.asdict(note)
        cursor = Cursor(members.pop("stream"), members.pop("seq"))
        try:
            at = parse_time(members.pop("at"))
            deadline = members.pop("deadline")
            until = None if deadline is None else parse_time(deadline)
        except ValueError as error:
            raise InternalError(f"the daemon's event can't be read: {error}") from error
        return cls(cursor=cursor, at=at, deadline=until, **members)

    def to_members(self) -> dict[str, Any]:
        """The members of the notification it came in, those that say nothing left out."""
        members: dict[str, Any] = {"stream": self.cursor.stream, "seq": self.cursor.seq, **structs.asdict(self)}
        del members["cursor"]
        members["at"] = format_time(self.at)
        if self.deadline is not None:
            members["deadline"] = format_time(self.deadline)
        return {name: value for name, value in members.items() if value is not None and value != {}}
