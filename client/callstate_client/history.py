"""Turns, and the list of them, which decodes each turn only when somebody looks at it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from datetime import datetime
from typing import Any, SupportsIndex, overload

import msgspec

from callstate_client.errors import DocumentError
from callstate_client.times import ZERO_TIME, Instant, now


def split_extra(members: dict[str, Any], known: frozenset[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The members we know, and those we don't."""
    if known.issuperset(members):
        return members, {}
    extra = {name: value for name, value in members.items() if name not in known}
    return {name: value for name, value in members.items() if name in known}, extra


class Turn:
    """One thing said.

    Args:
        role: who said it: `user`, `agent`, `system`, `tool` … up to 64 bytes.
        content: what was said.
        timestamp: when, with a timezone; default now.
        duration_ms: how long it took to say, milliseconds.
        extra: members we don't know, written back inline.
    """

    __slots__ = ("_timestamp", "content", "duration_ms", "extra", "role")

    _timestamp: str
    timestamp = Instant()

    def __init__(
        self,
        role: str = "",
        content: str = "",
        timestamp: datetime | None = None,
        duration_ms: int = 0,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.role = role
        self.content = content
        self.timestamp = now() if timestamp is None else timestamp  # noqa: PLE0237 - a descriptor
        self.duration_ms = duration_ms
        self.extra: dict[str, Any] = {} if extra is None else extra

    def to_dict(self) -> dict[str, Any]:
        """The JSON members, as Go writes them."""
        members: dict[str, Any] = {
            "role": self.role,
            "content": self.content,
            "timestamp": self._timestamp,
            "duration_ms": self.duration_ms,
        }
        return members | self.extra if self.extra else members

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Turn):
            return NotImplemented
        return (
            self.role == other.role
            and self.content == other.content
            and self.duration_ms == other.duration_ms
            and (self._timestamp == other._timestamp or self.timestamp == other.timestamp)
            and self.extra == other.extra
        )

    __hash__ = None  # type: ignore[assignment]  # mutable, like any container

    def __repr__(self) -> str:
        # no transcript: reprs end up in logs
        return f"Turn(role={self.role!r}, {len(self.content)} characters, duration_ms={self.duration_ms!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return decode_turn, (msgspec.json.encode(self.to_dict()),)


class _TurnWire(msgspec.Struct):
    role: str = ""
    content: str = ""
    timestamp: str = ZERO_TIME
    duration_ms: int = 0


class _StrictTurnWire(_TurnWire, forbid_unknown_fields=True):
    """The common turn: no member that we don't know."""


_STRICT = msgspec.json.Decoder(_StrictTurnWire)
_LENIENT = msgspec.json.Decoder(_TurnWire)
_MEMBERS = frozenset(_TurnWire.__struct_fields__)
_encode = msgspec.json.encode


def decode_turn(data: bytes | msgspec.Raw) -> Turn:
    """The turn that these bytes are.

    Raises:
        DocumentError: they are no turn.
    """
    turn = Turn.__new__(Turn)
    try:
        try:
            wire: _TurnWire = _STRICT.decode(data)
            turn.extra = {}
        except msgspec.ValidationError:
            wire = _LENIENT.decode(data)
            turn.extra = split_extra(msgspec.json.decode(data), _MEMBERS)[1]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DocumentError(f"not a turn: {error}") from error
    turn.role = wire.role
    turn.content = wire.content
    turn._timestamp = wire.timestamp
    turn.duration_ms = wire.duration_ms
    return turn


class History(MutableSequence[Turn]):
    """The turns of one call, oldest first; compares equal to any sequence of equal turns.

    A turn that came from a document stays bytes until it is looked at, so reading the last of 200 turns
    decodes one, and writing them back copies 199.
    """

    __slots__ = ("_items",)

    def __init__(self, turns: Iterable[Turn] = ()) -> None:
        self._items: list[Turn | msgspec.Raw] = list(turns)

    @classmethod
    def of_raw(cls, parts: list[msgspec.Raw]) -> History:
        """A history of turns still encoded."""
        history = cls.__new__(cls)
        history._items = list(parts)
        return history

    def parts(self) -> list[Any]:
        """What JSON encoding needs: bytes for the turns nobody looked at, members for the others."""
        return [item.to_dict() if isinstance(item, Turn) else item for item in self._items]

    def decoded(self) -> Iterator[Turn]:
        """The turns that somebody put in or looked at; what is not among them is as it came."""
        return (item for item in self._items if isinstance(item, Turn))

    def _turn(self, index: int) -> Turn:
        item = self._items[index]
        if not isinstance(item, Turn):
            item = self._items[index] = decode_turn(item)
        return item

    @overload
    def __getitem__(self, index: SupportsIndex) -> Turn: ...
    @overload
    def __getitem__(self, index: slice) -> list[Turn]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Turn | list[Turn]:
        if isinstance(index, slice):
            return [self._turn(i) for i in range(*index.indices(len(self._items)))]
        return self._turn(index.__index__())

    def __setitem__(self, index: Any, value: Any) -> None:
        self._items[index] = value

    def __delitem__(self, index: SupportsIndex | slice) -> None:
        del self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Turn]:
        return (self._turn(i) for i in range(len(self._items)))

    def insert(self, index: SupportsIndex, value: Turn) -> None:
        """Put a turn before the one at `index`."""
        self._items.insert(index, value)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str | bytes) or not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # mutable, like any list

    def __repr__(self) -> str:
        return f"History({len(self._items)} turns)"
