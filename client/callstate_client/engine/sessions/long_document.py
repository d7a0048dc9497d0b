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

from callstate_client.engine.sessions.json_steps import check_utf8
from callstate_client.engine.sessions.layout import END
from callstate_client.engine.sessions.long_members import LONG_BYTES, read_members, stand_in
from callstate_client.engine.sessions.tail import cut_run
from callstate_client.errors import DocumentError
from callstate_client.model import documents, go_json
from callstate_client.model.documents import METRICS_NAMES, SESSION_NAMES, TURN_NAMES, Parts

TRIES: Final = 4
"""How many members called `history` are taken for the session's: recovery data may have one."""

PIECE_BYTES: Final = 64 * 1024
"""About how long the pieces of a history are."""

HEAD_BYTES: Final = 1024 * 1024
"""How much may come before a history, or behind it, if it is to be found there at once."""

IN_TURN: Final = 3
"""The session, its history and the turn: what the values of a turn are in."""

_HISTORY: Final = b'"history":['
_METRICS: Final = b'],"metrics":{'


class ReadDocument(NamedTuple):
    """A document that was read.

    Args:
        parts: all of it but, if there are pieces, the history, and what follows.
        pieces: the turns of a long history, comma-joined, and how many there are in each.
        extra: more members of the session, as `joined_members` has them.
        metrics_extra: more members of its metrics.
    """

    parts: Parts
    pieces: list[tuple[bytes, int]]
    extra: bytes = b""
    metrics_extra: bytes = b""


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
            return found[0]._replace(pieces=(yield from _pieces(document, *found[1])))
        except DocumentError:
            pass  # they are no turns, or damaged
    try:
        read, turns = yield from _by_members(document, session_id)
        return read._replace(pieces=(yield from _pieces(document, *turns))) if turns else read
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
        members = yield from read_members(turn, TURN_NAMES, IN_TURN)
        values = {name: turn[start:end] for name, (_, start, end) in members.ours.items()}
        short: dict[str, bytes] = {}
        for name, value in values.items():
            short[name] = yield from stand_in(value, IN_TURN)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DocumentError(f"not a session document: {error} - at `$.history[{number}]`") from error
    documents.read_turns(go_json.join_members(short), number)
    extra = yield from members.extra.joined()
    if not members.renamed:
        return turn, 1
    known = go_json.join_members(values)
    return (b"%b%b}" % (known[:-1], extra) if values else b"{%b}" % extra[1:]), 1


def _by_members(
    document: bytes, session_id: str
) -> Generator[None, None, tuple[ReadDocument, tuple[int, int] | None]]:
    """A document of any spelling, read but for the turns, if these are long; and where they are.

    Raises:
        ValueError: it can't be read, or is another session's.
    """
    yield from check_utf8(document)
    ours, extra, _ = yield from read_members(document, SESSION_NAMES, 1)
    turns, recovery, metrics_extra = None, b"", b""
    kept: dict[str, bytes] = {}
    for name, (_, start, end) in ours.items():
        if (
            name == "history"
            and end - start > LONG_BYTES
            and document[start] == ord("[")
            and document[end - 1] == ord("]")
        ):
            turns, kept[name] = (start + 1, end - 1), b"[]"
            continue
        value = document[start:end]
        if name == "recovery_data":
            kept[name] = yield from stand_in(value, 1)
            recovery = b"" if kept[name] is value else value
        elif name == "metrics" and len(value) > LONG_BYTES:
            counters, others, _ = yield from read_members(value, METRICS_NAMES, 2)
            kept[name] = go_json.join_members({name: value[at:to] for name, (_, at, to) in counters.items()})
            metrics_extra = yield from others.joined()
        else:
            kept[name] = value
        yield
    parts = documents.read_stored(go_json.join_members(kept), session_id)
    yield
    if parts.recovery_data is not None and recovery:
        parts.recovery_data = recovery
    return ReadDocument(parts, [], (yield from extra.joined()), metrics_extra), turns


def _apart(document: bytes, session_id: str) -> Generator[None, None, tuple[ReadDocument, tuple[int, int]] | None]:
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
                read, others = ReadDocument(documents.read_stored(head, session_id), []), None
            else:
                read, others = yield from _by_members(head, session_id)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue  # it was a member of something else
        return None if read.parts.has_history or others else (read, (first, end))
    return None
