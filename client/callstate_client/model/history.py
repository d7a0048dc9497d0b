"""The turns of one call: a list that decodes each turn only when it is accessed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from typing import Any, Final, SupportsIndex, overload

import msgspec

from callstate_client.errors import DocumentError
from callstate_client.model import go_json
from callstate_client.model.turn import Check, Joined, Turn, decode_turn

__all__ = ["History", "Piece"]

LAST_TURN_BYTES: Final = 4096
"""How far from the end of a history the start of its last turn is searched, bytes; most turns have about 200."""

Piece = bytes | memoryview | msgspec.Raw
"""A piece of JSON, to be joined with others."""

_ARRAY = msgspec.json.Decoder(list[msgspec.Raw] | None)
_OF_OBJECTS: Final = b"[{"


def _elements(array: bytes | msgspec.Raw) -> Iterable[msgspec.Raw]:
    try:
        return _ARRAY.decode(array) or ()
    except RecursionError:
        return [msgspec.Raw(part) for part in go_json.split(bytes(array))]


class History(MutableSequence[Turn]):
    """The turns of one call, oldest first; compares equal to any sequence of equal turns.

    The turns of a document stay bytes until they are accessed: first as one array, from whose end the last turn can
    be split off, and to which turns can be appended; once any other turn is accessed, as one piece of bytes per
    turn. So loading a session, reading the last of its 200 turns, appending one and saving decodes and encodes two
    turns and copies the others.

    Turns that were appended or accessed are encoded once: the JSON of each and of all of them joined is cached, and
    the next save encodes what has changed since.
    """

    __slots__ = ("_array", "_end", "_items", "_joined")

    _array: msgspec.Raw | None
    """The array of the document. Its first `_end` bytes (with the opening bracket, without a trailing comma) are
    the turns before `_items`; None if there are none."""
    _end: int
    _joined: Joined | None
    """The cached JSON of the first of `_items`. Dropped when other turns take their places."""

    def __init__(self, turns: Iterable[Turn] = ()) -> None:
        self._array = None
        self._end = 0
        self._items: list[Turn | msgspec.Raw] = list(turns)
        self._joined = None

    @classmethod
    def of_json(cls, array: msgspec.Raw) -> History:
        """A history from JSON: an array or null. Its turns are checked when they are accessed.

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
        """Like `of_json`, for an array that is known to begin with `[{`."""
        history = cls.__new__(cls)
        history._array = array
        history._end = len(array) - 1
        history._items = []
        history._joined = None
        return history

    def pieces(self, check: Check | None = None) -> list[Piece]:
        """The JSON of the history, in as few pieces as possible, to be joined.

        Args:
            check: applied to each turn's `extra` before that is encoded, unless it was before.

        Raises:
            DocumentError: a turn has a value that can't be written as JSON, or `check` refuses it.
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
        """All turns, separate from now on."""
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
            self._joined = None  # the turn was not encoded into the cache, so its changes would not make that stale
        return item

    def _take_last(self) -> Turn | None:
        """Split the last turn off the array; None if that takes decoding all of them.

        The start of the turn is guessed from `},{"`. The guess was right if a turn can be decoded from there to the
        end. Inside a string, the quote would be the closing one; from there on strings and what is between them
        would be swapped, and the last string would not end. In a nested array, more brackets would be closed than
        opened.
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
        if not -len(self._items) <= index < 0:  # not an appended turn
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
        """Append a turn."""
        self._items.append(value)

    def insert(self, index: SupportsIndex, value: Turn) -> None:
        """Insert a turn before the one at `index`."""
        self._all().insert(index, value)
        self._joined = None

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str | bytes) or not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # mutable, like any list

    def __repr__(self) -> str:
        return f"History({len(self)} turns)"
