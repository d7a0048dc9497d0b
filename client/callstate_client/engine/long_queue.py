"""A dict in the order in which its keys came, that grows without a long step and is left by its front.

A dict is copied as a whole when it is full: an OrderedDict of 87,382 entries in 6 ms. Here the entries are in parts
of a bounded length, one behind the other. Mostly there is one part, so a look-up is one in a dict; with 200,000
sessions that wait for a store that is down there are twenty, and it takes up to 3 µs. What stays while others go
would keep its part: for that there is growing_dict.py.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Final, TypeVar, overload

PART_MOST: Final = 10_000
"""Entries in one part: it grows in a third of a millisecond."""

ValueT = TypeVar("ValueT")
DefaultT = TypeVar("DefaultT")


class LongQueue(Mapping[str, ValueT]):
    """Values by their keys, in order."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[OrderedDict[str, ValueT]] = [OrderedDict()]
        """At least one; none but the last is empty."""

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self._parts)

    def in_order(self) -> Iterator[tuple[str, ValueT]]:
        """Like `items`, without looking up each key. None may come or go meanwhile."""
        return chain.from_iterable(part.items() for part in self._parts)

    def part_of(self, key: str) -> OrderedDict[str, ValueT] | None:
        """The part that has a key, if there is one: to look at its value and then replace it."""
        for part in self._parts:
            if key in part:
                return part
        return None

    def __contains__(self, key: object) -> bool:
        for part in self._parts:  # noqa: SIM110 - `any` takes three times as long
            if key in part:
                return True
        return False

    def __getitem__(self, key: str) -> ValueT:
        part = self.part_of(key)
        if part is None:
            raise KeyError(key)
        return part[key]

    @overload
    def get(self, key: str, /) -> ValueT | None: ...
    @overload
    def get(self, key: str, /, default: ValueT | DefaultT) -> ValueT | DefaultT: ...
    def get(self, key: str, /, default: ValueT | DefaultT | None = None) -> ValueT | DefaultT | None:
        """The value of a key, or the default; without an exception in between."""
        for part in self._parts:
            if key in part:
                return part[key]
        return default

    def add(self, key: str, value: ValueT) -> None:
        """Add a key that is not there, behind all others."""
        part = self._parts[-1]
        if len(part) >= PART_MOST:
            part = OrderedDict()
            self._parts.append(part)
        part[key] = value

    def add_first(self, key: str, value: ValueT) -> None:
        """Add a key that is not there, ahead of all others."""
        part = self._parts[0]
        if len(part) >= PART_MOST:
            part = OrderedDict()
            self._parts.insert(0, part)
        part[key] = value
        part.move_to_end(key, last=False)

    def pop(self, key: str) -> ValueT:
        """Remove a key that is there; returns its value."""
        for part in self._parts:
            if key in part:
                value = part.pop(key)
                if not part and len(self._parts) > 1:
                    self._parts.remove(part)
                return value
        raise KeyError(key)

    def move_to_end(self, key: str, *, last: bool = True) -> None:
        """Move a key behind all others, or ahead of them."""
        value = self.pop(key)
        if last:
            self.add(key, value)
        else:
            self.add_first(key, value)
