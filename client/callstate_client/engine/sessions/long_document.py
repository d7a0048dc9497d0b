"""Documents of a store, read in steps where they are long: eight megabytes take twenty milliseconds to decode.

The history is cut at commas between turns, and each piece is checked by itself. To be cut it has to be found
without reading all of the document. Daemons write it as the last member (layout.py), Go before the metrics:

    {"id":…,"metrics":{…},"history":[{…},{…}]}
    {"id":…,"status":…,"history":[{…},{…}],"metrics":{…}}

If what surrounds it is an object without a history, and what is within are turns, the document is these two. One
that is written in another way, or damaged, is read at once. Pure: no I/O.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import Final, NamedTuple

from callstate_client.engine.sessions.layout import END
from callstate_client.engine.sessions.tail import cut_run
from callstate_client.errors import DocumentError
from callstate_client.model import documents
from callstate_client.model.documents import Parts

LONG_BYTES: Final = 128 * 1024
"""Longer documents are read in steps: this long, one takes half a millisecond."""

TRIES: Final = 4
"""How many members called `history` are taken for the session's: recovery data may have one."""

PIECE_BYTES: Final = 64 * 1024
"""About how long the pieces of a history are."""

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
    found = None
    if len(document) > LONG_BYTES:
        found = yield from _apart(document, session_id)
    if found is not None:
        parts, turns = found
        pieces = yield from _pieces(turns)
        if pieces is not None:
            return ReadDocument(parts, pieces)
    return ReadDocument(documents.read_stored(document, session_id), [])


def _pieces(turns: bytes) -> Generator[None, None, list[tuple[bytes, int]] | None]:
    """Turns in pieces that were read; None: these are no turns."""
    pieces: list[tuple[bytes, int]] = []
    for piece, _ in (yield from cut_run(turns, sys.maxsize, PIECE_BYTES)):
        try:
            pieces.append(documents.read_turns(piece))
        except DocumentError:
            return None
        yield
    return pieces


def _apart(document: bytes, session_id: str) -> Generator[None, None, tuple[Parts, bytes] | None]:
    """What surrounds the history, read, and the turns; None if the history is not where it is expected."""
    start = 0
    for _ in range(TRIES):
        start = document.find(_HISTORY, start + 1)
        if start < 0:
            return None
        yield
        head, turns = _around(document, start)
        try:
            parts = documents.read_stored(head, session_id)
        except DocumentError:
            continue  # it was a member of something else
        return None if parts.has_history or not turns else (parts, turns)
    return None


def _around(document: bytes, start: int) -> tuple[bytes, bytes]:
    """What surrounds a history that begins at an offset, as an object, and the turns."""
    before, first = document[:start].rstrip(), start + len(_HISTORY)
    if document.endswith(END):
        return before.removesuffix(b",") + b"}", document[first : -len(END)].strip()
    end = document.rfind(_METRICS)
    return before + document[end + 2 :], document[first : max(end, first)].strip()
