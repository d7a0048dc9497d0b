"""Turns, and the list of them, which decodes each turn only when somebody looks at it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from datetime import datetime
from typing import Any, Final, SupportsIndex, overload

import msgspec

from callstate_client.errors import DocumentError
from callstate_client.times import ZERO_TIME, Instant, format_time, now_text

LAST_TURN_BYTES: Final = 4096
"""How far from its end a history is searched for where the last turn begins; most turns have some 200 bytes."""


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
        self._timestamp = now_text() if timestamp is None else format_time(timestamp)
        self.duration_ms = duration_ms
        self.extra: dict[str, Any] = {} if extra is None else extra

    def to_dict(self) -> dict[str, Any]:
        """The JSON members, as Go writes them."""
        return {
            "role": self.role,
            "content": self.content,
            "timestamp": self._timestamp,
            "duration_ms": self.duration_ms,
            **self.extra,
        }

    def encodable(self) -> Any:
        """The same as something that is quickly encoded."""
        if self.extra:
            return self.to_dict()
        return _TurnWire(self.role, self.content, self._timestamp, self.duration_ms)

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


_TYPED = msgspec.json.Decoder(_TurnWire)
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw] | None)
_OF_OBJECTS: Final = b"[{"
_decode_members = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode


def encode_members(members: Any) -> bytes:
    """JSON of what `to_members` or `to_dict` gave, or of a part of it.

    Raises:
        DocumentError: a value is not JSON's.
    """
    try:
        return _encode(members)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise DocumentError(f"the state can't be written as JSON: {error}") from error


def _parts(items: Iterable[Turn | msgspec.Raw]) -> list[Any]:
    return [item.encodable() if isinstance(item, Turn) else item for item in items]


def decode_turn(data: bytes | msgspec.Raw) -> Turn:
    """The turn that these bytes are.

    Raises:
        DocumentError: they are no turn.
    """
    turn = Turn.__new__(Turn)
    try:
        members = _decode_members(data)
        role, content = members.pop("role", ""), members.pop("content", "")
        timestamp, duration_ms = members.pop("timestamp", ZERO_TIME), members.pop("duration_ms", 0)
        if not (type(role) is type(content) is type(timestamp) is str and type(duration_ms) is int):
            wire = _TYPED.decode(data)  # which says what is wrong, and where
            role, content, timestamp, duration_ms = wire.role, wire.content, wire.timestamp, wire.duration_ms
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DocumentError(f"not a turn: {error}") from error
    turn.role = role
    turn.content = content
    turn._timestamp = timestamp
    turn.duration_ms = duration_ms
    turn.extra = members  # what is left
    return turn


class History(MutableSequence[Turn]):
    """The turns of one call, oldest first; compares equal to any sequence of equal turns.

    What came from a document stays bytes until it is looked at: first as one piece, from whose end the last
    turn can be taken and behind which turns can be put; as one piece a turn from when any other is asked for.
    So to load, read the last of 200 turns, append one and save costs two turns and copies the others.
    """

    __slots__ = ("_array", "_end", "_items")

    _array: msgspec.Raw | None
    """The array as it came, of which the first `_end` bytes (bracket included, no comma behind) are the turns
    that come before `_items`; None for no such turns."""
    _end: int

    def __init__(self, turns: Iterable[Turn] = ()) -> None:
        self._array = None
        self._end = 0
        self._items: list[Turn | msgspec.Raw] = list(turns)

    @classmethod
    def of_json(cls, array: msgspec.Raw) -> History:
        """A history still encoded: an array, or null. Turns are checked when they are looked at.

        Raises:
            DocumentError: it is neither.
        """
        history = cls()
        if bytes(memoryview(array)[:2]) != _OF_OBJECTS:
            try:
                history._items = [*(_ARRAY.decode(array) or ())]
            except msgspec.ValidationError as error:
                raise DocumentError(f"{error} - at `$.history`") from error
        else:
            history._array = array
            history._end = len(array) - 1
        return history

    def parts(self) -> list[Any]:
        """What JSON encoding needs: bytes for the turns nobody looked at, members for the others."""
        return _parts(self._all())

    def encoded(self) -> Any:
        """The same for the history as a whole, in as few pieces as it has.

        Raises:
            DocumentError: a turn holds what JSON can't say.
        """
        if self._array is None:
            return _parts(self._items)
        if not self._items and self._end == len(self._array) - 1:
            return self._array
        behind = b",%b" % encode_members(_parts(self._items))[1:] if self._items else b"]"
        return msgspec.Raw(b"".join((memoryview(self._array)[: self._end], behind)))

    def decoded(self) -> list[Turn]:
        """The turns that somebody put in or looked at; what is not among them is as it came."""
        return [item for item in self._items if isinstance(item, Turn)]

    def _all(self) -> list[Turn | msgspec.Raw]:
        """All turns, one by one from now on."""
        if self._array is not None:
            untouched = self._end == len(self._array) - 1
            whole = self._array if untouched else b"".join((memoryview(self._array)[: self._end], b"]"))
            try:
                self._items[:0] = _ARRAY.decode(whole) or ()
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise DocumentError(f"not a history: {error}") from error
            self._array = None
        return self._items

    def _turn(self, index: int) -> Turn:
        item = self._items[index]
        if not isinstance(item, Turn):
            item = self._items[index] = decode_turn(item)
        return item

    def _take_last(self) -> Turn | None:
        """Take the last turn off the encoded ones; None where that can't be told without looking at all.

        Where a turn begins is guessed, and the guess is good if a turn can be decoded from there to the end. In
        a text, the quote would be the closing one: from there on, what is a text would be none and the other way
        round, and the last text never end. In a nested array, more brackets would be closed than opened.
        """
        if self._array is None:
            return None
        start = max(1, self._end - LAST_TURN_BYTES)
        tail = bytes(memoryview(self._array)[start : self._end])
        comma = tail.rfind(b'},{"') + 1
        if not comma and start > 1:
            return None
        try:
            turn = decode_turn(tail[comma + 1 :] if comma else tail)
        except DocumentError:
            return None
        if comma:
            self._end = start + comma
        else:
            self._array = None
        self._items.insert(0, turn)
        return turn

    @overload
    def __getitem__(self, index: SupportsIndex) -> Turn: ...
    @overload
    def __getitem__(self, index: slice) -> list[Turn]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Turn | list[Turn]:
        if isinstance(index, slice):
            return [self._turn(i) for i in range(*index.indices(len(self._all())))]
        index = index.__index__()
        if index == -1:
            last = None if self._items else self._take_last()
            if last is not None:
                return last
        if not -len(self._items) <= index < 0:  # not among those at the end
            self._all()
        return self._turn(index)

    def __setitem__(self, index: Any, value: Any) -> None:
        if index != -1 or not self._items:
            self._all()
        self._items[index] = value

    def __delitem__(self, index: SupportsIndex | slice) -> None:
        if index != -1 or not self._items:
            self._all()
        del self._items[index]

    def __len__(self) -> int:
        return len(self._all())

    def __bool__(self) -> bool:
        return self._array is not None or bool(self._items)

    def __iter__(self) -> Iterator[Turn]:
        return (self._turn(i) for i in range(len(self._all())))

    def append(self, value: Turn) -> None:
        """Put a turn behind the others."""
        self._items.append(value)

    def insert(self, index: SupportsIndex, value: Turn) -> None:
        """Put a turn before the one at `index`."""
        self._all().insert(index, value)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str | bytes) or not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # mutable, like any list

    def __repr__(self) -> str:
        return f"History({len(self._items)} turns)"
