"""What the journal says, as data: the bodies of its records, and how each is put on the wire of the log.

Bodies are msgpack arrays (typed, compact, a microsecond to write). A record is absolute for the head and a
delta for the history, and carries the version it leads to, so replay can skip what a session already has.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec
from msgspec import Struct, structs

from callstate_client.engine.sessions.facts import Facts
from callstate_client.engine.sessions.head import CallMetrics


class HistoryMode(IntEnum):
    """What a record's turns are to the history before it."""

    KEEP = 0
    REPLACE = 1
    APPEND = 2
    AMEND = 3
    """The one turn replaces that at the record's `index`."""


class OpResult(Struct, array_like=True, frozen=True):
    """A repeatable mutation and the result it got the first time."""

    op: str
    result: bytes


class MergeBase(Struct, array_like=True, frozen=True):
    """A state of a session than which the store had none newer, as far as is known; see merging.py.

    Version 0: nothing is known, for the store could not be asked. None for status, labels or metrics, and -1 for
    `turns`: ours counts, whatever the store has.
    """

    version: int = 0
    epoch: int = -1
    owner: str = ""
    status: str | None = None
    labels: dict[str, str] | None = None
    heartbeat_timeout_s: float | None = None
    max_duration_s: float | None = None
    fields: bytes = b""
    metrics: CallMetrics | None = None
    turns: int = -1
    """The history's length."""
    amended: tuple[int, ...] = ()
    """Which of those turns have been amended since."""
    sent: int = 0
    """The first version made since that was sent to the store, which may have it; 0: none was."""

    def after(self, mode: int, index: int) -> MergeBase:
        """With what a change of the history means for it."""
        if mode == HistoryMode.REPLACE:
            return structs.replace(self, turns=-1)
        if mode == HistoryMode.AMEND and index < self.turns and index not in self.amended:
            return structs.replace(self, amended=(*self.amended, index))
        return self


class StateRecord(Struct, array_like=True, kw_only=True, tag=7):
    """A session's head and all that is kept beside the document, and a change of its history."""

    session_id: str
    version: int
    updated_us: int
    beat_us: int
    status: str
    fields: bytes
    provider: str
    call_id: str
    metrics: CallMetrics
    mode: int
    turns: bytes
    count: int
    facts: Facts
    maybe_stored: bool = False
    ops: list[OpResult] = []
    """The op of this mutation; in a snapshot all that are kept."""
    base: MergeBase | None = None
    """While the store may have changes that are not in here: what both come from."""


class StateRecordV3(Struct, array_like=True, tag=1):
    """A StateRecord as formats 1 to 3 have it; read only."""

    session_id: str
    version: int
    epoch: int
    updated_us: int
    beat_us: int
    status: str
    fields: bytes
    provider: str
    call_id: str
    metrics: CallMetrics
    mode: int
    turns: bytes
    count: int
    owner: str = ""
    labels: dict[str, str] = {}
    heartbeat_timeout_s: float | None = None
    max_duration_s: float | None = None
    ended_reason: str = ""
    ended_detail: str = ""
    ended_us: int = 0
    reaped: bool = False
    maybe_stored: bool = False
    ops: list[OpResult] = []
    orphan: str = ""
    status_before: str = ""
    claimed_us: int = 0
    handovers: int = 0
    crashes: int = 0
    base: MergeBase | None = None
    raised: tuple[int, int] = (-1, -1)
    instance: str = ""

    def to_current(self) -> StateRecord:
        """The same as the present format has it."""
        members = structs.asdict(self)
        facts = Facts(**{name: members.pop(name) for name in Facts.__struct_fields__})
        return StateRecord(facts=facts, **members)


class TurnsRecord(Struct, array_like=True, tag=2):
    """Turns said, one amended, or only a count raised: the most frequent mutation, kept small."""

    session_id: str
    version: int
    updated_us: int
    metrics: CallMetrics
    mode: int
    turns: bytes
    count: int
    ops: list[OpResult] = []
    index: int = -1
    """Of the turn that was amended, from 0; -1, as records of format 2 have it: the last."""


class RemovalRecord(Struct, array_like=True, tag=3):
    """A session deleted, or kept hot no longer; `pending`: the store has yet to be told of the deletion."""

    session_id: str
    version: int
    epoch: int = 0
    pending: bool = True
    ops: list[OpResult] = []
    """Of a deletion: all that were kept, its own the last."""


class BeatsRecord(Struct, array_like=True, tag=4):
    """Last beats, microseconds since 1970, by session: written seldom, for `updated_at` after a crash."""

    beats: dict[str, int]


class WorkerRecord(Struct, array_like=True, tag=5):
    """Which process a worker is, so that one that dies while the daemon is down is found dead by its successor.
    Pid and inode 0: it is gone, and whoever has its name from now on is another one."""

    worker_id: str
    pid: int
    start_ticks: int = 0
    boot_id: str = ""
    pidfs_inode: int = 0
    own_name: str = ""
    """What the worker calls its process: several workers of one name are all of it."""


class StoreRecord(Struct, array_like=True, tag=6):
    """Of sessions with a merge base: versions that are on their way to the store, and versions it has taken, from
    which on nothing has to be merged."""

    sent: dict[str, int]
    taken: dict[str, int]


Record = StateRecord | TurnsRecord | RemovalRecord | BeatsRecord | WorkerRecord | StoreRecord
AnyRecord = Record | StateRecordV3
"""What may lie in a journal."""

encode_record = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(AnyRecord).decode


def decode_record(body: bytes | memoryview) -> Record:
    """A record's body as data, in whatever format it was written.

    Raises:
        msgspec.MsgspecError: it is none.
    """
    record = _decode(body)
    return record.to_current() if isinstance(record, StateRecordV3) else record
