"""One turn of a conversation, and its JSON, which is cached as long as the turn can't have changed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from operator import attrgetter
from typing import Any, Final, Generic, TypeVar, cast

import msgspec

from callstate_client.errors import DocumentError
from callstate_client.model import go_json
from callstate_client.model.members import encode_members
from callstate_client.model.metrics import RESPONSE_MS
from callstate_client.model.times import ZERO_TIME, Instant, format_time, now_text

ValueT = TypeVar("ValueT")

Check = Callable[[dict[str, Any]], None]
"""Raises DocumentError for an `extra` that can't be kept."""

_PLAIN: Final = frozenset({str, int, float, bool, type(None)})
"""Types of values that can't be changed in place."""


def _moment(timestamp: object) -> datetime:
    if not isinstance(timestamp, datetime):
        hint = f"; for how long it took: duration_ms={timestamp!r}" if isinstance(timestamp, int | float) else ""
        raise TypeError(f"a turn's third argument is its timestamp, a datetime, not {timestamp!r:.80}{hint}")
    return timestamp


class Joined:
    """The cached JSON of a history's first turns, joined by commas, and whether it is valid.

    A turn that changes marks the cache that it was last written into as stale. A mark is never removed; a stale
    cache is replaced by a new one. So no change is lost if one thread saves a history while another changes it.
    """

    __slots__ = ("done", "lent", "once", "stale")

    def __init__(self) -> None:
        self.done: tuple[bytes, int] = b"", 0
        """The JSON and the number of its turns, in one value, so that they always match."""
        self.lent: list[Turn] = []
        """Turns whose `extra` is empty but was returned to a caller, who may add members to it unnoticed."""
        self.once = False
        """Valid only once: a turn in it may change unnoticed, or was not checked."""
        self.stale = False
        """A turn in it has changed."""

    @property
    def holds(self) -> bool:
        """Whether it is still the JSON of the turns."""
        return not (self.stale or self.once or any(turn.has_extra for turn in self.lent))


class _Member(Generic[ValueT]):
    """What a type checker sees of a member whose assignment marks the turn as changed."""

    def __get__(self, instance: Turn, owner: type) -> ValueT:
        raise NotImplementedError

    def __set__(self, instance: Turn, value: ValueT) -> None:
        raise NotImplementedError


def _member(slot: str, _: type[ValueT]) -> _Member[ValueT]:
    def write(turn: Turn, value: ValueT) -> None:
        setattr(turn, slot, value)
        turn.changed()

    return cast(
        "_Member[ValueT]", property(attrgetter(slot), write)
    )  # reading a property of attrgetter is faster than a descriptor's __get__


class _Moment(Instant):
    def __set__(self, instance: Turn, value: datetime) -> None:
        super().__set__(instance, value)
        instance.changed()


class Turn:
    """One turn of a conversation: what one side said.

    Args:
        role: who said it: `user`, `agent`, `system`, `tool` … up to 64 bytes.
        content: what was said.
        timestamp: when, with a timezone; default now.
        duration_ms: how long it took to say, milliseconds.
        extra: members that callstate does not define, written back inline.
    """

    __slots__ = ("_content", "_duration_ms", "_extra", "_json", "_lent", "_role", "_timestamp", "_told")

    _timestamp: str
    _json: bytes | None
    """Its JSON, if it has not changed since."""
    _lent: bool
    """Whether others may have a reference to `extra` or to a value in it, and so change it unnoticed."""
    _told: Joined | None
    """The cache that a change makes stale."""

    role = _member("_role", str)
    content = _member("_content", str)
    timestamp = _Moment()
    duration_ms = _member("_duration_ms", int)

    def __init__(
        self,
        role: str = "",
        content: str = "",
        timestamp: datetime | None = None,
        duration_ms: int = 0,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self._role = role
        self._content = content
        self._timestamp = now_text() if timestamp is None else format_time(_moment(timestamp))
        self._duration_ms = duration_ms
        self._extra = extra
        self._lent = extra is not None
        self._json = self._told = None

    @property
    def extra(self) -> dict[str, Any]:
        """Members that callstate does not define, written back inline. May be changed in place."""
        if not self._lent:
            self._lent = True
            self.changed()
        if self._extra is None:
            self._extra = {}
        return self._extra

    @extra.setter
    def extra(self, extra: dict[str, Any]) -> None:
        self._extra = extra
        self._lent = True
        self.changed()

    @property
    def has_extra(self) -> bool:
        """Whether `extra` has members; unlike reading `extra`, this does not hand out a reference."""
        return bool(self._extra)

    @property
    def response_ms(self) -> int | None:
        """From the end of what the user said to this turn's first word, milliseconds; None if it is not known."""
        found = self._extra.get(RESPONSE_MS) if self._extra else None
        return found if type(found) is int and 0 <= found <= go_json.INT64_MAX else None

    def become(self, other: Turn) -> None:
        """Take over the values of another turn, which must not be referenced elsewhere."""
        self._role, self._content, self._timestamp = other._role, other._content, other._timestamp
        self._duration_ms, self._extra, self._lent = other._duration_ms, other._extra, other._lent
        self.changed()

    def own_extra(self) -> None:
        """Note that `extra` is not referenced elsewhere, if its values can't be changed in place."""
        self._lent = not (self._extra and _PLAIN.issuperset(map(type, self._extra.values())))

    def changed(self) -> None:
        """Drop the cached JSON."""
        # in this order: `written_into`, in another thread, checks the first after it has set the second
        if self._told is not None:
            self._told.stale = True
        self._json = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON members, as Go writes them."""
        return {
            "role": self._role,
            "content": self._content,
            "timestamp": self._timestamp,
            "duration_ms": self._duration_ms,
            **(self._extra or {}),
        }

    def to_json(self) -> bytes:
        """Its JSON, as Go writes it.

        Raises:
            DocumentError: a value can't be written as JSON.
        """
        return self._written(self._extra, None)

    def written_into(self, joined: Joined, check: Check | None) -> bytes:
        """Its JSON, encoded again only if it may have changed. A later change makes `joined` stale.

        Args:
            joined: the cache that it becomes a part of.
            check: applied to `extra` before it is encoded; without one, JSON with an `extra` is not cached.

        Raises:
            DocumentError: a value can't be written as JSON, or `check` refuses `extra`.
        """
        if self._told is not joined:
            if self._told is not None:
                self._told.stale = True
            self._told = joined
        extra = self._extra
        if self._lent:
            if extra:
                joined.once = True
                return self._written(extra, check)
            joined.lent.append(self)
        if self._json is not None:
            return self._json
        if extra and check is None:
            joined.once = True
            return self._written(extra, None)
        written = self._json = self._written(extra, check)
        if joined.stale:  # perhaps by another thread, which changed this turn meanwhile
            self._json = None
        return written

    def _written(self, extra: dict[str, Any] | None, check: Check | None) -> bytes:
        if not extra:
            return encode_members(TurnWire(self._role, self._content, self._timestamp, self._duration_ms))
        if check is not None:
            check(extra)
        return encode_members(self.to_dict())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Turn):
            return NotImplemented
        return (
            self._role == other._role
            and self._content == other._content
            and self._duration_ms == other._duration_ms
            and (self._timestamp == other._timestamp or self.timestamp == other.timestamp)
            and (self._extra or {}) == (other._extra or {})
        )

    __hash__ = None  # type: ignore[assignment]  # mutable, like any container

    def __repr__(self) -> str:
        # no transcript: reprs end up in logs
        return f"Turn(role={self._role!r}, {len(self._content)} characters, duration_ms={self._duration_ms!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return decode_turn, (msgspec.json.encode(self.to_dict()),)


class TurnWire(msgspec.Struct, gc=False):
    """A turn without extra members, as it is encoded. Internal to the client."""

    role: str = ""
    content: str = ""
    timestamp: str = ZERO_TIME
    duration_ms: int = 0


_TYPED = msgspec.json.Decoder(TurnWire)
_decode_members = msgspec.json.Decoder(dict[str, Any]).decode


def _turn_members(data: bytes | msgspec.Raw) -> dict[str, Any]:
    try:
        return _decode_members(data)
    except RecursionError:
        return {name: go_json.decode_any(value) for name, value in go_json.raw_members(bytes(data)).items()}


def decode_turn(data: bytes | msgspec.Raw) -> Turn:
    """Decode a turn.

    Raises:
        DocumentError: these bytes are not a turn.
    """
    turn = Turn.__new__(Turn)
    try:
        members = _turn_members(data)
        role, content = members.pop("role", ""), members.pop("content", "")
        timestamp, duration_ms = members.pop("timestamp", ZERO_TIME), members.pop("duration_ms", 0)
        if not (type(role) is type(content) is type(timestamp) is str and type(duration_ms) is int):
            wire = _TYPED.decode(data)  # raises an error that says what is wrong, and where
            role, content, timestamp, duration_ms = wire.role, wire.content, wire.timestamp, wire.duration_ms
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DocumentError(f"not a turn: {error}") from error
    turn._role = role
    turn._content = content
    turn._timestamp = timestamp
    turn._duration_ms = duration_ms
    turn._extra = members or None  # those that are not defined
    turn._lent = False
    turn._json = turn._told = None
    return turn
