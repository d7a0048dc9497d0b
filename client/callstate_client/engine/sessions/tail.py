"""Find the last turns of a long run without parsing the earlier ones. Pure.

Turns are kept as comma-separated JSON objects. Splitting a run of megabytes, such as a transcript saved at once or
read back from the journal, takes tens of milliseconds, and most requests want only its end.

A turn begins at a `{` from which the rest parses as a list of objects. From a `{` inside a turn, more brackets are
closed than opened; from one inside a string, the number of remaining quotes is odd, which swaps the inside and the
outside of strings.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

from callstate_client.model import go_json

WINDOW_BYTES: Final = 4096
"""The first window for a few turns; quadrupled until it holds enough."""

TURN_BYTES: Final = 256
"""A typical turn's size."""

TRIES: Final = 32
"""How many `{` of a window are tried before the whole run is split: a turn may contain thousands."""

cut: Final = msgspec.json.Decoder(list[Raw]).decode


def last_turns(turns: bytes, count: int) -> tuple[int, list[bytes]]:
    """Return the last turns of a run.

    Args:
        turns: comma-joined, no brackets.
        count: how many are wanted.

    Returns:
        the offset of the first turn returned, and the turns: at least `count`, or all.
    """
    window = max(WINDOW_BYTES, TURN_BYTES * count)
    while window < len(turns):
        found = _within(turns, len(turns) - window)
        if found is None:
            break
        if len(found[1]) >= count:
            return found
        window *= 4
    return 0, go_json.raw_list(b"[%b]" % turns)


def _within(turns: bytes, start: int) -> tuple[int, list[bytes]] | None:
    """The turns that begin at or after this offset; None if TRIES attempts don't find one."""
    for _ in range(TRIES):
        start = turns.find(b"{", start)
        if start < 0:
            return len(turns), []
        try:
            return start, [bytes(part) for part in cut(b"[%b]" % turns[start:])]
        except msgspec.DecodeError:
            start += 1
        except RecursionError:
            return None
    return None
