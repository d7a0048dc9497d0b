"""The layout of a document in the store: a head in a room of fixed size, then the history.

    {"id":"call-1", … ,"updated_at":…,"status":…,"metrics":{…}       ,"history":[{…},{…}]}
    |- fields, rarely changed -|-- counters, change with turns --|pad|- the turns, last -|

JSON allows the spaces, and Go reads them. So a turn can be written in place, for what it adds: the counters again
within the room, and the turn over the closing brackets. Such a patch fits only the very bytes it was made for; it
names the version that the store must have, and the store refuses it otherwise (`WriteOutcome.NOT_BASE`). Then the
whole document is written, as it is the first time, after an amended turn, when the head outgrows its room, and when
a write that did not raise the version was not answered: no version tells what the store has then.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from callstate_client.engine.sessions.facts import Facts

_ROOM_STEP: Final = 64
_ROOM_SPARE: Final = 48
"""Bytes that a head may grow by: digits of its counters, a longer status."""

HISTORY: Final = b',"history":['
END: Final = b"]}"


class InStore(Struct, frozen=True, gc=False):
    """A session as the store is known to have it: what a patch is made against.

    Args:
        version: its version there.
        room: length of the head with its padding, bytes.
        fields: `Document.fields` of that version.
        lineage: `Document.lineage`; another one means that turns were replaced since.
        history_bytes: length of the history, without brackets.
        facts, ops: those of that version.
        call_id: the call id it can be found by.
        state: `StoredMeta.state` of it.
    """

    version: int
    room: int
    fields: bytes
    lineage: int
    history_bytes: int
    facts: Facts
    ops: dict[str, bytes]
    call_id: str
    state: str


def room_for(head: bytes) -> int:
    """The room that a head gets when it is first written, bytes."""
    return -(-(len(head) + _ROOM_SPARE) // _ROOM_STEP) * _ROOM_STEP
