"""The bodies of the journal's records, as data, and their encoding.

Bodies are msgpack arrays (typed, compact, a microsecond to write). A record is absolute for the head and a
delta for the history, and carries the resulting version, so that a replay can skip what a session already has.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec
from msgspec import Struct, structs

from callstate_client.engine.sessions.facts import Facts
from callstate_client.engine.sessions.head import CallMetrics
from callstate_client.engine.user import UNKNOWN


class HistoryMode(IntEnum):
    """How a record's turns change the history."""

    KEEP = 0
    REPLACE = 1
    APPEND = 2
    AMEND = 3
    """The record's one turn replaces the turn at its `index`."""


class OpResult(Struct, array_like=True, frozen=True):
    """A repeatable mutation and its first result."""

    op: str
    result: bytes


class MergeBase(Struct, array_like=True, frozen=True):
    """The last state known to be common to the session and the store; see merging.py.

    Version 0: nothing is known, because the store was unreachable. None for status, labels or metrics, and -1 for
    `turns`: ours wins, whatever the store has.
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
    """Indexes of those turns that have been amended since."""
    sent: int = 0
    """The first later version that was sent to the store, which may have it; 0: none was."""

    def after(self, mode: int, index: int, count: int) -> MergeBase:
        """The merge base after a change of the history; `count`: how many turns the change gave."""
        if mode == HistoryMode.REPLACE:
            # an unverified save empties only what it has seen, which is nothing of the store
            return self if self.version == 0 and not count else structs.replace(self, turns=-1)
        if mode == HistoryMode.AMEND and index < self.turns and index not in self.amended:
            return structs.replace(self, amended=(*self.amended, index))
        return self


class StateRecord(Struct, array_like=True, kw_only=True, tag=7):
    """A session's head, everything kept beside the document, and a change of its history."""

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
    """The op of this mutation; in a snapshot all kept ones."""
    base: MergeBase | None = None
    """The common ancestor, while the store may have changes that are not in this record."""
    key: int = 0
    parts: int = 0
    """How many records of this key have the history, which is not in this one then; 0: none."""
    order: list[int] = []
    """The numbers of the parts that are the history, in its order; empty: all, as they are numbered."""


class PartRecord(Struct, array_like=True, frozen=True, tag=9):
    """Some turns of a session that is journaled in parts, whose StateRecord follows; see parts.py. A replay ignores
    parts that none refers to."""

    session_id: str
    key: int
    """Identifies the parts of one session: no other parts that a replay may find have the same key."""
    number: int
    """The number of this part, from 0."""
    turns: bytes
    count: int


class StateRecordV3(Struct, array_like=True, tag=1):
    """A StateRecord in formats 1 to 3, which are only read."""

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
        """Convert it to the present format."""
        members = structs.asdict(self)
        facts = Facts(**{name: members.pop(name) for name in Facts.__struct_fields__ if name in members})
        return StateRecord(facts=facts, **members)


class TurnsRecord(Struct, array_like=True, tag=2):
    """Turns added, one amended, or only a counter raised: the most frequent mutation, kept small."""

    session_id: str
    version: int
    updated_us: int
    metrics: CallMetrics
    mode: int
    turns: bytes
    count: int
    ops: list[OpResult] = []
    index: int = -1
    """Index of the amended turn, from 0; -1, as in records of format 2: the last."""


class RemovalRecord(Struct, array_like=True, tag=3):
    """A session deleted or evicted; `pending`: the deletion has still to be written to the store."""

    session_id: str
    version: int
    epoch: int = 0
    pending: bool = True
    ops: list[OpResult] = []
    """For a deletion: all kept ones, its own last."""


class BeatsRecord(Struct, array_like=True, tag=4):
    """Last heartbeats, microseconds since 1970, by session: written rarely, for `updated_at` after a crash."""

    beats: dict[str, int]


class WorkerRecord(Struct, array_like=True, tag=5):
    """The process of a worker, so that a death while the daemon is down is detected after its restart.
    Pid and inode 0: the worker has left, and a later one of the same id is another worker."""

    worker_id: str
    pid: int
    start_ticks: int = 0
    boot_id: str = ""
    pidfs_inode: int = 0
    own_name: str = ""
    """The worker's name for its process: workers that give the same name belong to the same process."""
    uid: int = UNKNOWN
    """The user that registered it."""


class StoreRecord(Struct, array_like=True, tag=6):
    """For sessions with a merge base: versions being sent to the store, and versions the store has accepted, after
    which nothing has to be merged."""

    sent: dict[str, int]
    taken: dict[str, int]


class BaseRecord(Struct, array_like=True, frozen=True, tag=10):
    """The merge base of a session, ahead of its first change after a restart: a replay derives it until then. It is
    of the version before that change; a session of another version has its base, too."""

    session_id: str
    base: MergeBase


class SetAsideRecord(Struct, array_like=True, frozen=True, tag=8):
    """A session that another host has taken over, as it was here; `dropped`: nobody needs the copy any more."""

    state: StateRecord
    host: str
    at_us: int
    dropped: bool = False


Record = (
    StateRecord
    | PartRecord
    | TurnsRecord
    | RemovalRecord
    | BeatsRecord
    | WorkerRecord
    | StoreRecord
    | BaseRecord
    | SetAsideRecord
)
AnyRecord = Record | StateRecordV3
"""Every record that a journal may contain."""

encode_record = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(AnyRecord).decode


def decode_record(body: bytes | memoryview) -> Record:
    """Decode a record's body, in any format.

    Raises:
        msgspec.MsgspecError: it is not a record.
    """
    try:
        record = _decode(body)
    except (UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise msgspec.DecodeError(str(error)) from error
    return record.to_current() if isinstance(record, StateRecordV3) else record
