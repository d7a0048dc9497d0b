"""The turns of one call: a list which decodes each turn only when somebody looks at it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from typing import Any, Final, SupportsIndex, overload

import msgspec

from callstate_client.errors import DocumentError
from callstate_client.model import go_json
from callstate_client.model.turn import (
    Check,
    Joined,
    Turn,
    check_turn_names,
    decode_turn,
    encode_members,
)

__all__ = ["History", "Turn", "check_turn_names", "decode_turn", "encode_members"]

LAST_TURN_BYTES: Final = 4096
"""How far from its end a history is searched for where the last turn begins; most turns have some 200 bytes."""

Piece = bytes | memoryview | msgspec.Raw
"""Of JSON, to be joined."""

_ARRAY = msgspec.json.Decoder(list[msgspec.Raw] | None)
_OF_OBJECTS: Final = b"[{"


def _elements(array: bytes | msgspec.Raw) -> Iterable[msgspec.Raw]:
    try:
        return _ARRAY.decode(array) or ()
    except RecursionError:
        return [msgspec.Raw(part) for part in go_json.split(bytes(array))]


class History(MutableSequence[Turn]):
    """The turns of one call, oldest first; compares equal to any sequence of equal turns.

    What came from a document stays bytes until it is looked at: first as one piece, from whose end the last
    turn can be taken and behind which turns can be put; as one piece a turn from when any other is asked for.
    So to load, read the last of 200 turns, append one and save costs two turns and copies the others.

    The turns that were put in or looked at are written once: their JSON is kept, each turn's and all of them
    joined, and what is saved next writes what has changed since.
    """

    __slots__ = ("_array", "_end", "_items", "_joined")

    _array: msgspec.Raw | None
    """The array as it came, of which the first `_end` bytes (bracket included, no comma behind) are the turns
    that come before `_items`; None for no such turns."""
    _end: int
    _joined: Joined | None
    """What the first of `_items` were written as. Forgotten when there come to be others in their places."""

    def __init__(self, turns: Iterable[Turn] = ()) -> None:
        self._array = None
        self._end = 0
        self._items: list[Turn | msgspec.Raw] = list(turns)
        self._joined = None

    @classmethod
    def of_json(cls, array: msgspec.Raw) -> History:
        """A history still encoded: an array, or null. Turns are checked when they are looked at.

        Raises:
            DocumentError: it is neither.
        """
        if bytes(memoryview(array)[:2]) == _OF_OBJECTS:
            return cls.of_objects(array)
        try:
            items = _elements(array)
        except msgspec.ValidationError as error:
            raise DocumentError(f"{error} - at `$.history`") from error
        history = cls()
        history._items = [*items]
        return history

    @classmethod
    def of_objects(cls, array: msgspec.Raw) -> History:
        """The same for what is known to begin with `[{`."""
        history = cls.__new__(cls)
        history._array = array
        history._end = len(array) - 1
        history._items = []
        history._joined = None
        return history

    def parts(self) -> list[Any]:
        """What JSON encoding needs: bytes for the turns nobody looked at, members for the others."""
        return [item.encodable() if isinstance(item, Turn) else item for item in self._all()]

    def pieces(self, check: Check | None = None) -> list[Piece]:
        """The JSON of all, in as few pieces as there are, to be joined.

        Args:
            check: applied to each turn's `extra` before it is written, unless it was before.

        Raises:
            DocumentError: a turn holds what JSON can't say, or `check` refuses it.
        """
        array = self._array
        if array is None:
            return [b"[", self._joined_items(check), b"]"]
        if not self._items:
            return [array] if self._end == len(array) - 1 else [memoryview(array)[: self._end], b"]"]
        return [memoryview(array)[: self._end], b",", self._joined_items(check), b"]"]

    def _joined_items(self, check: Check | None) -> bytes:
        joined = self._joined
        if joined is None or not joined.holds:
            joined = self._joined = Joined()
        text, count = joined.done
        new = self._items[count:]
        if new:
            parts: list[Piece] = [text] if count else []
            parts += [item.written_into(joined, check) if isinstance(item, Turn) else item for item in new]
            text = b",".join(parts)
            joined.done = text, count + len(new)
        return text

    def _all(self) -> list[Turn | msgspec.Raw]:
        """All turns, one by one from now on."""
        if self._array is not None:
            untouched = self._end == len(self._array) - 1
            whole = self._array if untouched else b"".join((memoryview(self._array)[: self._end], b"]"))
            try:
                self._items[:0] = _elements(whole)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise DocumentError(f"not a history: {error}") from error
            self._array = self._joined = None
        return self._items

    def _turn(self, index: int) -> Turn:
        item = self._items[index]
        if not isinstance(item, Turn):
            item = self._items[index] = decode_turn(item)
            self._joined = None  # which it would not tell of its changes
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
        self._joined = None
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
        self._joined = None

    def __delitem__(self, index: SupportsIndex | slice) -> None:
        if index != -1 or not self._items:
            self._all()
        del self._items[index]
        self._joined = None

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
        self._joined = None

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str | bytes) or not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # mutable, like any list

    def __repr__(self) -> str:
        return f"History({len(self)} turns)"
