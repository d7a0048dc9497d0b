"""Requests with far more ids, labels or types than they may have: they are refused without decoding all of them.

A line of a megabyte has room for a hundred thousand strings, which take ten milliseconds. What has more than it may
have, by the number of its quotes, is decoded with something short in its place that has too many as well. Pure: no
I/O.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from callstate_client.protocol.bounds import MAX_EVENT_TYPES, MAX_FLUSH_IDS, MAX_HEARTBEAT_IDS, MAX_RETRY_IDS
from callstate_client.protocol.ids import MAX_LABELS

CROPPED_BYTES: Final = 64 * 1024
"""Shorter lines take less than a millisecond."""

MANY_QUOTES: Final = 24_000
"""So do lines with fewer strings than half of this: the most that a heartbeat may name, and some."""

NEEDLE_BYTES: Final = 1024
"""So much of a long text is looked for."""

_IDS: Final = {"server.flush": MAX_FLUSH_IDS, "quarantine.retry": MAX_RETRY_IDS}
"""How many ids a request may name, where it is not as many as a heartbeat."""


class _Params(Struct, frozen=True):
    session_ids: Raw | UnsetType = UNSET
    types: Raw | UnsetType = UNSET
    labels: Raw | UnsetType = UNSET


class _Request(Struct):
    method: str = ""
    params: _Params = _Params()


_decode: Final = msgspec.json.Decoder(_Request).decode


def cropped(line: bytes) -> bytes:
    """The line, or one that is refused in its place for the same reason."""
    if line.count(b'"') <= MANY_QUOTES:
        return line
    try:
        request = _decode(line)
    except (ValueError, RecursionError):
        return line  # it is refused anyway
    for text, instead in _too_many(request):
        line = _replaced(line, text, instead)
    return line


def _replaced(line: bytes, text: bytes, instead: bytes) -> bytes:
    """The line with something else for a long text in it, wherever that is: what is too long is refused."""
    parts: list[bytes] = []
    needle, after = text[:NEEDLE_BYTES], 0
    while (start := line.find(needle, after)) >= 0:
        if not line.startswith(text, start):
            return line.replace(text, instead)  # which takes a millisecond
        parts += (line[after:start], instead)
        after = start + len(text)
    return b"".join((*parts, line[after:]))


def _too_many(request: _Request) -> Iterator[tuple[bytes, bytes]]:
    """The values that have too many strings, and such as have one too many."""
    params = request.params
    lists = ((params.session_ids, _IDS.get(request.method, MAX_HEARTBEAT_IDS)), (params.types, MAX_EVENT_TYPES))
    for value, most in lists:
        if not isinstance(value, UnsetType) and _strings(bytes(value)) > most:
            yield bytes(value), b"[%b]" % b",".join([b'""'] * (most + 1))
    if not isinstance(params.labels, UnsetType) and _strings(bytes(params.labels)) > 2 * MAX_LABELS:
        labels = b",".join(b'"%d":""' % number for number in range(MAX_LABELS + 1))
        yield bytes(params.labels), b"{%b}" % labels


def _strings(text: bytes) -> int:
    """The least number of strings in a JSON text without other values: a quote within one is escaped."""
    escaped = text.count(b'\\"') if b"\\" in text else 0
    return (text.count(b'"') - escaped) // 2
