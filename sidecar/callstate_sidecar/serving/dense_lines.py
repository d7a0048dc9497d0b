"""Lines with so many values in so few bytes that they would take the JSON decoder milliseconds.

A megabyte of `[],` has as many values as a hundred megabytes of conversations. A line that looks like that, by a
sample of it, is counted before it is read, in steps, as brackets and commas may be text; if it has too many values,
it is refused.
"""

from __future__ import annotations

import random
from time import monotonic
from typing import Final, Protocol

from callstate_client.engine.sessions.validation.parts import running_marks
from callstate_client.errors import ParseError, TooLargeError, WireError
from callstate_client.protocol import MAX_DEPTH
from callstate_sidecar.serving.connection import ClientConnection
from callstate_sidecar.serving.fair_queue import SHARE_S, Member

LONG_BYTES: Final = 128 * 1024
"""A shorter line takes less than a millisecond, whatever it is made of."""

MAX_VALUES: Final = 160_000
"""Objects, arrays, strings (names of members, too) and pairs of other values in one line: they take the decoder up
to a millisecond. The turns that fit in a line have less, be they few with many members or 20,000."""

SUSPECTED: Final = 0.9
"""A line is counted if it seems to have this share of MAX_VALUES: a sample is not exact."""

SAMPLE_BYTES: Final = 1024
"""Bytes to look at in each SAMPLED_BYTES of a line: looking at all of it would take as long as reading it."""

SAMPLED_BYTES: Final = 32 * 1024

_OTHERS: Final = bytes(set(range(256)) - set(b'"{[,'))


def may_be_dense(line: bytes) -> bool:
    """Whether a line of at least LONG_BYTES seems to have too many values, be it in its texts. The places of the
    sample are random, as a line could be made to look well at known ones."""
    room = SAMPLED_BYTES - SAMPLE_BYTES
    places = [start + random.randrange(room) for start in range(0, len(line), SAMPLED_BYTES)]
    sample = b"".join([line[at : at + SAMPLE_BYTES] for at in places])
    marks = sample.translate(None, _OTHERS)
    values = (len(marks) + marks.count(b"[") + marks.count(b"{")) / 2
    return values * len(line) > SUSPECTED * MAX_VALUES * len(sample)


class Counted(Protocol):
    """What gets a line once its values are counted: the server."""

    @property
    def untold(self) -> bool:
        """Whether requests that have waited for the store may be about to run."""
        ...

    def counted(self, connection: ClientConnection, line: bytes, refusal: WireError | None) -> None:
        """The line is counted. `refusal`: the error, if it has too many values; None: it may be read."""
        ...


class DenseLine:
    """A line that is counted, in its connection's share of each turn of the loop; those behind it wait.

    Args:
        connection: whose line it is.
        line: the line.
        server: gets the line once it is counted.
    """

    __slots__ = ("_connection", "_line", "_marks", "_server")

    def __init__(self, connection: ClientConnection, line: bytes, server: Counted) -> None:
        self._connection = connection
        self._line = line
        self._server = server
        self._marks = running_marks(line)
        connection.busy += 1
        connection.queue.add(self)

    @property
    def member(self) -> Member:
        """The connection whose time it takes."""
        return self._connection.member

    def serve(self) -> None:
        """Count some of it."""
        connection = self._connection
        began = monotonic()
        if connection.is_behind or self._server.untold:  # a request that was sent earlier runs first
            connection.queue.served(0.0)
            connection.queue.add(self)
            return
        try:
            self._count(began + SHARE_S)
        finally:
            connection.queue.served(monotonic() - began)

    def _count(self, until: float) -> None:
        for marks in self._marks:
            if marks.opened > MAX_DEPTH:
                self._end(ParseError(f"nested deeper than {MAX_DEPTH}"))
                return
            if marks.containers + marks.strings + marks.commas // 2 > MAX_VALUES:
                values = f"{MAX_VALUES} objects, arrays, strings and other values"
                self._end(TooLargeError(f"the line has more than {values}", path="$"))
                return
            if monotonic() > until:
                self._connection.queue.add(self)
                return
        self._end(None)

    def _end(self, refusal: WireError | None) -> None:
        connection = self._connection
        connection.busy -= 1
        connection.serve_soon()
        self._server.counted(connection, self._line, refusal)
