"""Documents of a store, read in steps where they are long: eight megabytes take twenty milliseconds to decode.

The history is cut at commas between turns, and each piece is checked by itself. To be cut it has to be found
without reading all of the document. Daemons write it as the last member (layout.py), Go before the metrics:

    {"id":…,"metrics":{…},"history":[{…},{…}]}
    {"id":…,"status":…,"history":[{…},{…}],"metrics":{…}}

If what surrounds it is an object without a history, and what is within are turns, the document is these two. One
that is written in another way, or damaged, is split at its brackets (json_steps.py), which takes ten times as long,
but no step of it. Pure: no I/O.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import Final, NamedTuple

import msgspec

from callstate_client.engine.sessions.json_steps import check_in_steps, check_string, check_utf8, members_in_steps
from callstate_client.engine.sessions.layout import END
from callstate_client.engine.sessions.tail import cut_run
from callstate_client.errors import DocumentError
from callstate_client.model import documents, go_json
from callstate_client.model.documents import HEAD_NAMES, SESSION_NAMES, Parts
from callstate_client.model.go_json import fold

LONG_BYTES: Final = 128 * 1024
"""Longer documents are read in steps: this long, one takes half a millisecond."""

TRIES: Final = 4
"""How many members called `history` are taken for the session's: recovery data may have one."""

PIECE_BYTES: Final = 64 * 1024
"""About how long the pieces of a history are."""

HEAD_BYTES: Final = 1024 * 1024
"""How much may come before a history, or behind it, if it is to be found there at once."""

_HISTORY: Final = b'"history":['
_METRICS: Final = b'],"metrics":{'


class ReadDocument(NamedTuple):
    """A document that was read.

    Args:
        parts: all of it but, if there are pieces, the history.
        pieces: the turns of a long history, comma-joined, and how many there are in each.
    """

    parts: Parts
    pieces: list[tuple[bytes, int]]


def read_in_steps(document: bytes, session_id: str) -> Generator[None, None, ReadDocument]:
    """As `documents.read_stored`, in steps.

    Raises:
        DocumentError: it can't be read, or is another session's.
    """
    if len(document) <= LONG_BYTES:
        return ReadDocument(documents.read_stored(document, session_id), [])
    found = yield from _apart(document, session_id)
    if found is not None:
        try:
            return ReadDocument(found[0], (yield from _pieces(document, *found[1])))
        except DocumentError:
            pass  # they are no turns, or damaged
    try:
        parts, turns = yield from _by_members(document, session_id)
        return ReadDocument(parts, (yield from _pieces(document, *turns)) if turns else [])
    except DocumentError:
        raise
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DocumentError(f"not a session document: {error}") from error


def _pieces(document: bytes, start: int, end: int) -> Generator[None, None, list[tuple[bytes, int]]]:
    """The turns in a part of a document, read in pieces.

    Raises:
        DocumentError: they can't be read.
    """
    pieces: list[tuple[bytes, int]] = []
    number = 0
    cut = yield from cut_run(document, sys.maxsize, PIECE_BYTES, start, end)
    cut.reverse()
    while cut:
        piece = cut.pop()[0].strip()  # to be freed one by one: 30 megabytes at once take milliseconds
        if len(piece) > LONG_BYTES:
            read = yield from _long_turn(piece, number)
        else:
            read = documents.read_turns(piece, number)
        if read[1]:
            pieces.append(read)
        elif cut or number:
            raise DocumentError(f"not a session document: Expected `object` - at `$.history[{number}]`")
        number += read[1]
        yield
    return pieces


def _long_turn(turn: bytes, number: int) -> Generator[None, None, tuple[bytes, int]]:
    """As `documents.read_turns`, of one turn that is long."""
    try:
        yield from check_utf8(turn)
        members = yield from members_in_steps(turn)
        short: list[bytes] = []
        for name, start, end in members:
            instead = yield from _stand_in(turn[start:end])
            short.append(b"%b:%b" % (name, instead))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DocumentError(f"not a session document: {error} - at `$.history[{number}]`") from error
    text = b"{%b}" % b",".join(short)
    read, _ = documents.read_turns(text, number)
    return (turn, 1) if read == text else documents.read_turns(turn, number)  # names are spelled differently


def _stand_in(value: bytes) -> Generator[None, None, bytes]:
    """A short value of the same type as one that is long, which is checked."""
    if len(value) <= LONG_BYTES:
        return value
    if value[:1] == b'"' == value[-1:]:
        yield from check_string(value, 0, len(value))
        return b'""'
    yield from check_in_steps(value)
    if value[:1] == b"{":
        return b'{"":0}' if value[1:-1].strip() else b"{}"
    return b"[]" if value[:1] == b"[" else value


def _by_members(document: bytes, session_id: str) -> Generator[None, None, tuple[Parts, tuple[int, int] | None]]:
    """A document of any spelling, read but for the turns, if these are long; and where they are.

    Raises:
        ValueError: it can't be read, or is another session's.
    """
    yield from check_utf8(document)
    members = yield from members_in_steps(document)
    names = [msgspec.json.decode(member.name, type=str) for member in members]
    known = {name: fold(name) if fold(name) in SESSION_NAMES else name for name in names}
    last = {known[name]: at for at, name in enumerate(names)}  # Go takes the last of each
    kept: list[bytes] = []
    long: dict[str, bytes] = {}
    turns = None
    for at, (written, start, end) in enumerate(members):
        name = known[names[at]]
        is_turns = name == "history" and document[start : start + 1] + document[end - 1 : end] == b"[]"
        if last[name] != at:
            go_json.decode_any((yield from _stand_in(document[start:end])))
            continue
        if is_turns and end - start > LONG_BYTES:
            turns, instead = (start + 1, end - 1), b"[]"
        elif name in HEAD_NAMES or name == "metrics":
            instead = document[start:end]
        else:
            value = document[start:end]
            instead = yield from _stand_in(value)
            if instead is not value:
                long[name] = value
        kept.append(b"%b:%b" % (written, instead))
        yield
    parts = documents.read_stored(b"{%b}" % b",".join(kept), session_id)
    if parts.recovery_data is not None:
        parts.recovery_data = long.get("recovery_data", parts.recovery_data)
    parts.extra.update((name, value) for name, value in long.items() if name in parts.extra)
    return parts, turns


def _apart(document: bytes, session_id: str) -> Generator[None, None, tuple[Parts, tuple[int, int]] | None]:
    """What surrounds the history, read, and where the turns are; None if they are not where they are expected."""
    start = 0
    for _ in range(TRIES):
        start = document.find(_HISTORY, start + 1, HEAD_BYTES)
        if start < 0:
            return None
        yield
        first = start + len(_HISTORY)
        end = len(document) - len(END) if document.endswith(END) else document.rfind(_METRICS, -HEAD_BYTES)
        if end <= first:
            continue
        behind = document[end + 1 :].removeprefix(b",")
        before = document[:start].rstrip()
        head = before + behind if behind != b"}" else before.removesuffix(b",") + behind
        try:
            if len(head) <= LONG_BYTES:
                parts, others = documents.read_stored(head, session_id), None
            else:
                parts, others = yield from _by_members(head, session_id)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue  # it was a member of something else
        return None if parts.has_history or others else (parts, (first, end))
    return None
