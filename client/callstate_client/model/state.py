"""SessionState: one call's state as a worker holds it, and its JSON.

Field names, JSON names and named values are those of the Go package `storage`. Members that callstate does not
define are kept in `extra` and written back inline. Decoding is lazy: turns stay bytes until they are accessed.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, TypeVar

import msgspec

from callstate_client.errors import DocumentError
from callstate_client.model import documents, go_json
from callstate_client.model.go_json import INT64_MAX
from callstate_client.model.history import History, Piece
from callstate_client.model.members import check_shadows, encode_members
from callstate_client.model.metrics import SessionMetrics, metrics_of
from callstate_client.model.times import ZERO_TIME, Instant, format_time, now, now_text, parse_time
from callstate_client.model.turn import Check, Turn
from callstate_client.model.wellformed import turn_extra, turn_values
from callstate_client.model.words import Direction, Role, Status

__all__ = ["Direction", "History", "Role", "SessionMetrics", "SessionState", "Status", "Turn", "encode_members"]


RecoveryT = TypeVar("RecoveryT")

_NO_OBJECTS = (str, bytes, bytearray, int, float, list, tuple, set, frozenset)
"""Types of values that are not objects in JSON."""

_ZERO = parse_time(ZERO_TIME)

_EMPTY: tuple[Any, ...] = (None, "", {}, [])
"""Recovery data that is omitted from a document."""

_STRICT = msgspec.json.Decoder(documents.PlainDocument)


class SessionState:
    """One call's state, as a worker holds it.

    Args:
        id: 1 to 256 bytes of printable ASCII, no space, no braces, not starting with `@`, not `active`.
        provider: the carrier of the call (`twilio`, `sip` …), up to 64 bytes.
        direction: see `Direction`.
        from_: the calling party; `from` in JSON.
        to: the called party.
        status: see `Status`; default `pending`, which `hold()` makes `active` as it creates the call.
        call_id: the provider's id of the call; omitted from the JSON if empty.
        history: the turns so far.
        metrics: the counters.
        recovery_data: the data to resume the call with, any JSON value; omitted if empty.
        created_at, updated_at: with a timezone; default now.
        extra: members that callstate does not define, written back inline.

    `history_from` is the index of the first turn in `history`. It is above 0 in a state that was loaded in part,
    which the client refuses to save, since that would drop the turns before. It is not a member of the document.
    """

    __slots__ = (
        "_created_at", "_history", "_updated_at", "call_id", "direction", "extra", "from_", "history_from",
        "id", "metrics", "provider", "recovery_data", "status", "status_given", "to",
    )  # fmt: skip

    _created_at: str
    _updated_at: str
    created_at = Instant()
    updated_at = Instant()

    def __init__(
        self,
        id: str = "",  # noqa: A002 - the field's name in the contract
        *,
        provider: str = "",
        direction: str = "",
        from_: str = "",
        to: str = "",
        status: str | None = None,
        call_id: str = "",
        history: Iterable[Turn] | None = None,
        metrics: SessionMetrics | None = None,
        recovery_data: Any = None,
        created_at: datetime | None = None,
        updated_at: datetime | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.id = id
        self.provider = provider
        self.direction = direction
        self.from_ = from_
        self.to = to
        self.status = Status.PENDING if status is None else status
        self.status_given = status is not None
        """Whether a status was passed, or comes from a document."""
        self.call_id = call_id
        self._history = History(history or ())
        self.metrics = SessionMetrics() if metrics is None else metrics
        self.recovery_data = recovery_data
        self._created_at = now_text() if created_at is None else format_time(created_at)
        self._updated_at = self._created_at if updated_at is None else format_time(updated_at)
        self.extra: dict[str, Any] = {} if extra is None else extra
        self.history_from = 0

    @property
    def history(self) -> History:
        """The turns, oldest first: a list of `Turn`, each decoded when it is accessed."""
        return self._history

    @history.setter
    def history(self, turns: Iterable[Turn] | None) -> None:
        self._history = turns if isinstance(turns, History) else History(turns or ())

    @property
    def is_active(self) -> bool:
        """Every status but `ended` is active."""
        return self.status != Status.ENDED

    def add_turn(
        self,
        role: str,
        content: str,
        duration_ms: int = 0,
        *,
        at: datetime | None = None,
        extra: dict[str, Any] | None = None,
        response_ms: int | None = None,
    ) -> Turn:
        """Append a turn with the present time, count it, and add its speech time for `user` and `agent`.

        Args:
            role: see `Role`.
            content: what was said.
            duration_ms: how long it took to say, milliseconds.
            at: when; default now.
            extra: further members of the turn.
            response_ms: from the end of what the user said to the first word of this turn, milliseconds; counted in
                `first_response_ms` and `average_response_ms` of the metrics.
        """
        role, content, duration_ms = turn_values(role, content, duration_ms)
        extra = turn_extra(extra, response_ms)
        turn = Turn(role, content, timestamp=at, duration_ms=duration_ms, extra=dict(extra) if extra else None)
        turn.own_extra()
        self.append_turn(turn)
        return turn

    def append_turn(self, turn: Turn) -> None:
        """Append a turn, count it and its `response_ms`, and add its speech time for `user` and `agent`.

        Counters stop at the greatest integer that the daemon and Go have.
        """
        self._history.append(turn)
        if (response_ms := turn.response_ms) is not None:
            self.metrics.add_response(response_ms)
        metrics = self.metrics
        metrics.turn_count = min(metrics.turn_count + 1, INT64_MAX)
        if turn.role == Role.USER:
            metrics.user_speech_duration_ms = min(
                metrics.user_speech_duration_ms + max(turn.duration_ms, 0), INT64_MAX
            )
        elif turn.role == Role.AGENT:
            metrics.agent_speech_duration_ms = min(
                metrics.agent_speech_duration_ms + max(turn.duration_ms, 0), INT64_MAX
            )

    def saved_at(self, text: str) -> None:
        """Set `updated_at` to a time as text, such as a store has returned."""
        self._updated_at = text

    def take_over(self, other: SessionState, *, history: bool = True) -> None:
        """Take over the values of another state, which must not be referenced elsewhere; `history`: also its
        turns."""
        for name in self.__slots__:
            if history or name not in ("_history", "history_from"):
                setattr(self, name, getattr(other, name))

    def record_interruption(self) -> None:
        """Count one interruption (barge-in)."""
        self.metrics.interruption_count = min(self.metrics.interruption_count + 1, INT64_MAX)

    def recovery(self, as_type: type[RecoveryT]) -> RecoveryT | None:
        """`recovery_data` converted to a type of the caller: a msgspec Struct, a dataclass, a TypedDict …; None if
        empty.

        The value that was given to `update(recovery_data=…)` comes back equal. Fields that may be None need a
        default, as null members are removed.

        Args:
            as_type: the type.

        Raises:
            DocumentError: the data is not of that type.
        """
        if self.recovery_data in (None, "", {}, []):
            return None
        data = self.recovery_data
        try:
            return msgspec.convert(msgspec.to_builtins(data), as_type)
        except msgspec.ValidationError as error:
            raise DocumentError(f"recovery_data is not a valid {as_type.__name__}: {error}") from error

    def duration(self, at: datetime | None = None) -> timedelta:
        """How long the call lasted, if it has ended, or has lasted by now or by `at`.

        Never negative, however wrong the writers' clocks; zero if the document does not say when the call began.
        """
        began = self.created_at
        if began <= _ZERO:
            return timedelta(0)
        until = self.updated_at if self.status == Status.ENDED else at or now()
        return max(until - began, timedelta(0))

    def copy(self) -> SessionState:
        """A deep copy."""
        copied = _restored(self.to_json(), self.history_from)
        copied.status_given = self.status_given
        return copied

    def to_json(self) -> bytes:
        """The document, as Go's encoding/json would write it.

        Raises:
            DocumentError: a value can't be written as JSON.
        """
        return b"".join(self.pieces())

    def pieces(self, check: Check | None = None) -> list[Piece]:
        """The document in pieces, to be joined, so that the long history, mostly cached, is copied only once.

        Args:
            check: applied to each turn's `extra` before that is encoded, unless it was before.

        Raises:
            DocumentError: a value can't be written as JSON, or `check` refuses a turn.
        """
        if self.extra and not documents.SESSION_NAMES.isdisjoint(
            self.extra
        ):  # extra members that replace defined ones
            return [encode_members(self.to_members(check=check))]
        head = encode_members(self._head())
        tail = encode_members(self._tail())
        return [head[:-1], b',"history":', *self._history.pieces(check), b",", tail[1:]]

    def to_members(self, *, with_history: bool = True, check: Check | None = None) -> dict[str, Any]:
        """The JSON members, in the Go package's order, the history already encoded; `check` as for `pieces`."""
        members = self._head()
        if with_history:
            members["history"] = msgspec.Raw(b"".join(self._history.pieces(check)))
        return members | self._tail()

    def _head(self) -> dict[str, Any]:
        members: dict[str, Any] = {
            "id": self.id,
            "created_at": self._created_at,
            "updated_at": self._updated_at,
        }
        if self.call_id:
            members["call_id"] = self.call_id
        members["provider"] = self.provider
        members["direction"] = self.direction
        members["from"] = self.from_
        members["to"] = self.to
        members["status"] = self.status
        return members

    def _tail(self) -> dict[str, Any]:
        members: dict[str, Any] = {"metrics": self.metrics.to_dict()}
        if self.recovery_data not in _EMPTY:
            members["recovery_data"] = self.recovery_data
        return members | self.extra if self.extra else members

    def check_names(self) -> None:
        """Check what Go would not read back equal. Turns are checked by `check_turn_names`.

        Raises:
            DocumentError: recovery data is not an object, or Go would take an extra member for a defined one.
        """
        if isinstance(self.recovery_data, _NO_OBJECTS) and self.recovery_data not in _EMPTY:
            raise DocumentError(f"recovery_data must be a dict, not a {type(self.recovery_data).__name__}")
        if self.extra:
            check_shadows(self.extra, documents.SESSION_NAMES, "the session")
        if self.metrics.extra:
            check_shadows(self.metrics.extra, documents.METRICS_NAMES, "the metrics")

    @classmethod
    def from_json(cls, document: bytes | str | msgspec.Raw) -> SessionState:
        """Decode a document of callstate or of Go, matching names regardless of case, as Go does.

        In a usual document, turns are checked only when they are accessed.

        Raises:
            DocumentError: it is not a session document.
        """
        try:
            return of_plain(_STRICT.decode(document))
        except (msgspec.MsgspecError, ValueError, RecursionError):  # unusual, or not a document
            return cls.of_parts(documents.read(document.encode() if isinstance(document, str) else bytes(document)))

    @classmethod
    def of_parts(cls, parts: documents.Parts) -> SessionState:
        """The state from the parts of a document."""
        state = _of_head(parts.head, History.of_json(msgspec.Raw(b"[%b]" % parts.history)))
        state.metrics = metrics_of(parts.metrics, _values(parts.metrics_extra))
        state.recovery_data = None if parts.recovery_data is None else go_json.decode_any(parts.recovery_data)
        state.extra = _values(parts.extra)
        return state

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SessionState):
            return NotImplemented
        if self.created_at != other.created_at or self.updated_at != other.updated_at:
            return False
        skip = ("created_at", "updated_at", "history")
        mine, theirs = self.to_members(with_history=False), other.to_members(with_history=False)
        same_head = {k: v for k, v in mine.items() if k not in skip} == {
            k: v for k, v in theirs.items() if k not in skip
        }
        return same_head and self._history == other._history

    __hash__ = None  # type: ignore[assignment]  # mutable, like any container

    def __repr__(self) -> str:
        # no numbers, no transcript: reprs end up in logs
        return f"SessionState(id={self.id!r}, status={self.status!r}, turns={len(self._history)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.to_json(), self.history_from)


def _values(members: dict[str, bytes]) -> dict[str, Any]:
    return {name: go_json.decode_any(value) for name, value in members.items()}


def _restored(document: bytes, history_from: int) -> SessionState:
    state = SessionState.from_json(document)
    state.history_from = history_from
    return state


def of_plain(document: documents.PlainDocument, history: History | None = None) -> SessionState:
    """The state of a decoded document.

    Args:
        document: decoded in one pass.
        history: if it has been decoded already.

    Raises:
        DocumentError: its history is neither an array nor null.
    """
    state = _of_head(document, History.of_json(document.history) if history is None else history)
    state.metrics = metrics_of(document.metrics)
    state.recovery_data = document.recovery_data
    state.extra = {}
    return state


def _of_head(head: documents.HeadDoc, history: History) -> SessionState:
    """A state without metrics, recovery data and extra members, which the caller adds."""
    state = SessionState.__new__(SessionState)
    state.id = head.id
    state._created_at = head.created_at
    state._updated_at = head.updated_at
    state.call_id = head.call_id
    state.provider = head.provider
    state.direction = head.direction
    state.from_ = head.from_
    state.to = head.to
    state.status = head.status
    state.status_given = True
    state._history = history
    state.history_from = 0
    return state
