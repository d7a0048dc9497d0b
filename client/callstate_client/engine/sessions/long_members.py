"""JSON objects of megabytes, read by their members in steps, as Go reads them. Pure: no I/O.

There may be one member that is long, or hundreds of thousands that are short: neither takes a long step, nor does
dropping what is not needed any more.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final, NamedTuple

import msgspec

from callstate_client.engine.sessions.json_steps import Member, check_in_steps, check_string, members_in_steps
from callstate_client.model import go_json
from callstate_client.model.go_json import fold

LONG_BYTES: Final = 128 * 1024
"""Longer texts are read in steps: this long, one takes half a millisecond."""

MEMBERS_A_STEP: Final = 200
"""Members read or written in one step."""

SHARDS: Final = 256
"""Dicts that share hundreds of thousands of names: one that grew would have to be copied at once."""


class ManyMembers:
    """Members of an object, of each name the last, in the order in which the names came first."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._values: list[dict[str, bytes]] = [{} for _ in range(SHARDS)]

    def add(self, name: str, value: bytes) -> None:
        """Add a member."""
        self._names.append(name)
        self._values[hash(name) % SHARDS][name] = value

    def joined(self) -> Generator[None, None, bytes]:
        """All of them, as JSON that follows other members: `,"name":value …`. They are dropped on the way."""
        parts: list[bytes] = []
        self._names.reverse()
        while self._names:
            some: list[bytes] = []
            while self._names and len(some) < MEMBERS_A_STEP:
                name = self._names.pop()
                value = self._values[hash(name) % SHARDS].pop(name, None)
                if value is not None:
                    some.append(b",%b:%b" % (msgspec.json.encode(name), value))
            parts.append(b"".join(some))
            yield
        return b"".join(parts)


class LongMembers(NamedTuple):
    """The members of an object.

    Args:
        ours: where the values of known names are, of each name the last. They are not checked.
        extra: the other members. They are.
        renamed: whether Go takes a name for a known one that is spelled differently.
    """

    ours: dict[str, Member]
    extra: ManyMembers
    renamed: bool


def read_members(text: bytes, known: frozenset[str], outer: int) -> Generator[None, None, LongMembers]:
    """The members of an object.

    Args:
        text: of the object, UTF-8.
        known: the names that are not `extra`.
        outer: in how many objects and arrays the values are.

    Raises:
        ValueError, msgspec.MsgspecError: it is not an object, or a member that does not stay out is not JSON.
    """
    members = yield from members_in_steps(text)
    members.reverse()
    ours: dict[str, Member] = {}
    extra = ManyMembers()
    renamed = False
    values: list[bytes] = []
    size = 0
    while members:
        member = members.pop()
        name = msgspec.json.decode(member.name, type=str)
        as_known = fold(name)
        if as_known in known:
            renamed = renamed or as_known != name
            unchecked, ours[as_known] = ours.get(as_known), member
            value = None if unchecked is None else text[unchecked.start : unchecked.end]
        else:
            value = text[member.start : member.end]
            extra.add(name, value)
        if value is None:
            pass
        elif len(value) <= LONG_BYTES:
            values.append(value)
        else:
            yield from stand_in(value, outer)
        size += member.end - member.start
        if size > LONG_BYTES // 4 or len(values) >= MEMBERS_A_STEP:
            _check(values, outer)
            values, size = [], 0
            yield
    _check(values, outer)
    return LongMembers(ours, extra, renamed)


def _check(values: list[bytes], outer: int) -> None:
    """Check short values in so many objects and arrays."""
    go_json.decode_any(b"%b%b%b" % (b"[" * outer, b",".join(values), b"]" * outer))


def stand_in(value: bytes, outer: int) -> Generator[None, None, bytes]:
    """A short value of the same type as one that is long, which is checked. For `outer` see `read_members`."""
    if len(value) <= LONG_BYTES:
        return value
    if value[:1] == b'"' == value[-1:]:
        yield from check_string(value, 0, len(value))
        return b'""'
    yield from check_in_steps(value, outer)
    if value[:1] == b"{":
        return b'{"":0}' if value[1:-1].strip() else b"{}"
    return b"[]" if value[:1] == b"[" else value
