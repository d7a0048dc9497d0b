"""The last turns of a long run of turns, without a look at those before. Pure.

Turns are kept as JSON objects with commas between. A run of megabytes, as a whole transcript that was saved at once
or read back from the journal, takes tens of milliseconds to be cut into its turns; what is asked for is most often
at its end.

Where does a turn begin? At a `{` from which on the text is a whole list of objects: from one inside of a turn
there are more brackets closed than opened; and from one inside of a string there is an odd number of quotes to the
end, and what is outside of strings is the other way round.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

from callstate_client.model import go_json

WINDOW_BYTES: Final = 4096
"""What is looked at first for a few turns; four times as much where that does not do."""

TURN_BYTES: Final = 256
"""A usual turn."""

TRIES: Final = 32
"""So many `{` of a window are tried: a turn may nest thousands of them. Then all of it is cut."""

cut: Final = msgspec.json.Decoder(list[Raw]).decode


def last_turns(turns: bytes, count: int) -> tuple[int, list[bytes]]:
    """The last turns of a run.

    Args:
        turns: comma-joined, no brackets.
        count: how many are wanted.

    Returns:
        where the first one given begins, and the turns: as many as were wanted or some more, or all.
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
    """The turns that begin behind this place; None where it can't be told in a few tries which do."""
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
