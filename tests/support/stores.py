"""A store in memory for the daemon's tests: it uses the real fencing rule, and fails on request."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from msgspec import structs

from callstate_client.engine.sessions.stored import (
    Query,
    StoredMeta,
    StoreDownError,
    StoredSession,
    StoreError,
    StorePartDownError,
    StoreRefusingError,
)
from callstate_client.engine.sessions.writes import Patch, Whole, Write
from callstate_client.protocol.results import Finding
from callstate_sidecar.stores.backend import (
    DOCUMENT_BYTES,
    TOGETHER_BYTES,
    Backend,
    Deviation,
    Flaw,
    StoredVersion,
    WriteOutcome,
    WriteResult,
)
from callstate_sidecar.stores.fencing import Stamp, superseded_by, takes, unseen
from callstate_sidecar.stores.hosts import HostRegistry


def down() -> StoreDownError:
    """The store can't be reached."""
    return StoreDownError("connection refused")


def refusing() -> StoreRefusingError:
    """The store answers, and refuses all writes."""
    return StoreRefusingError("OOM command not allowed")


class MemoryBackend:
    """A Backend whose state and failures a test controls.

    `failure`, while set, makes the exception that every call raises. `script` does so for the next writes, one
    after the other; None lets one succeed. While `cut` is set, writes are applied but their replies lost.
    After `hold`, calls wait for `let_go`. What
    is in `away_ids` is not written, or the reply is lost (`away_applies`), as the part of the store that has it is
    away.
    """

    def __init__(self) -> None:
        self.rows: dict[str, StoredSession] = {}
        self.active: set[str] = set()
        self.failure: Callable[[], Exception] | None = None
        self.script: deque[Callable[[], Exception] | None] = deque()
        self.cut = False
        self.rejected: set[str] = set()
        self.away_ids: set[str] = set()
        self.reads: list[str] = []
        self.joint_reads: list[list[str]] = []
        self.batches: list[list[Write]] = []
        self.beats: list[dict[str, int]] = []
        self.attempts = 0
        self.pings = 0
        self.checks: list[list[StoredVersion]] = []
        self.findings: list[Finding] = []
        self.closed = False
        self.data_losses = 0
        self.hosts: HostRegistry | None = None
        self.away_applies = False
        self.document_bytes = DOCUMENT_BYTES
        self.called = asyncio.Event()
        self._gate = asyncio.Event()
        self._gate.set()

    @property
    def name(self) -> str:
        """The name in `server.info`."""
        return "memory"

    @property
    def away(self) -> str:
        """Whether a part of the store is away."""
        return "a part of it does not answer" if self.away_ids else ""

    # -- control by the test ------------------------------------------------------------------------------

    def put(self, session_id: str, document: bytes | None, meta: StoredMeta | None, beat_ms: int = 0) -> None:
        """Write a row as another writer would; a document without meta is the Go package's."""
        self.rows[session_id] = StoredSession(document, meta, beat_ms)
        if document is not None and b'"status":"ended"' not in document:
            self.active.add(session_id)

    def hold(self) -> None:
        """Make calls wait from now on."""
        self._gate.clear()
        self.called.clear()

    def let_go(self) -> None:
        """Let waiting calls continue."""
        self._gate.set()

    async def _meet(self) -> None:
        self.called.set()
        await self._gate.wait()
        if self.failure is not None:
            raise self.failure()

    # -- Backend ------------------------------------------------------------------------------------------

    async def check_for_loss(self) -> None:
        """A test sets `data_losses`."""

    async def read(self, session_id: str) -> StoredSession | None:
        """Read the row as it is at the call, even if the reply is held back."""
        found = _within(self.rows.get(session_id), self.document_bytes)
        self.reads.append(session_id)
        if session_id in self.away_ids:
            raise StorePartDownError("no answer")
        await self._meet()
        return found

    async def read_each(self, session_ids: Sequence[str]) -> Sequence[StoredSession | StoreError | None]:
        """Read each row, in one call."""
        self.joint_reads.append([*session_ids])
        found = [_within(self.rows.get(session_id), TOGETHER_BYTES) for session_id in session_ids]
        await self._meet()
        away = StorePartDownError("no answer")
        return [away if i in self.away_ids else row for i, row in zip(session_ids, found, strict=True)]

    async def write(self, batch: Sequence[Write]) -> list[WriteResult]:
        """Apply each write by the fencing rule."""
        self.attempts += 1
        await self._meet()
        scripted = self.script.popleft() if self.script else None
        if scripted is not None:
            raise scripted()
        self.batches.append([*batch])
        results = [self._write_or_not(write) for write in batch]
        if self.cut:
            raise StoreDownError("connection reset by peer")
        return results

    def _write_or_not(self, write: Write) -> WriteResult:
        if write.session_id not in self.away_ids:
            return self._write(write)
        if self.away_applies:
            self._write(write)
        return WriteResult(WriteOutcome.AWAY)

    def _write(self, write: Write) -> WriteResult:
        if write.session_id in self.rejected:
            return WriteResult(WriteOutcome.REJECTED, "too big for this store")
        held, new = self.rows.get(write.session_id), write.meta
        meta = None if held is None else held.meta
        found = None if meta is None else Stamp(meta.host, meta.epoch, meta.version)
        stamp = Stamp(new.host, new.epoch, new.version)
        if isinstance(write, Patch):
            if found is not None and not takes(found, stamp):
                return WriteResult(WriteOutcome.SUPERSEDED, superseded_by(found))
            if held is None or held.document is None or held.foreign_stamp:
                return WriteResult(WriteOutcome.NOT_BASE)
            if found is None or found.version != write.base.version:
                return WriteResult(WriteOutcome.NOT_BASE)
            self.rows[write.session_id] = StoredSession(write.apply(held.document), new, write.beat_ms)
            self.active.add(write.session_id)
            return WriteResult(WriteOutcome.WRITTEN)
        foreign = held is not None and held.foreign_stamp not in (b"", write.seen_stamp)
        if foreign and not write.is_new:
            return WriteResult(WriteOutcome.UNSEEN)
        if unseen(found, stamp, write.seen, there=held is not None):
            return WriteResult(WriteOutcome.UNSEEN)
        if found is not None and not takes(found, stamp):
            return WriteResult(WriteOutcome.SUPERSEDED, superseded_by(found))
        self.rows[write.session_id] = StoredSession(write.document, new, write.beat_ms)
        (self.active.add if write.active else self.active.discard)(write.session_id)
        return WriteResult(WriteOutcome.WRITTEN, set_aside=foreign)

    async def check(self, sessions: Sequence[StoredVersion]) -> list[tuple[str, Deviation]]:
        """Compare with what is there."""
        self.checks.append([*sessions])
        await self._meet()
        found: list[tuple[str, Deviation]] = []
        for session in sessions:
            row = self.rows.get(session.session_id)
            if session.session_id in self.away_ids:
                continue
            if row is None or row.meta is None:
                found.append((session.session_id, Deviation.MISSING))
            elif row.document is None and not row.meta.deleted:
                found.append((session.session_id, Deviation.DELETED))
            elif row.meta.version != session.version or row.meta.deleted:
                found.append((session.session_id, Deviation.OTHER))
            elif row.foreign_stamp:
                found.append((session.session_id, Deviation.CHANGED))
        return found

    async def examine(self, sessions: Sequence[StoredVersion]) -> list[tuple[str, Flaw]]:
        """Nothing is beside the documents."""
        return []

    async def inspect(self, wall_us: Callable[[], int], *, repair: bool) -> AsyncIterator[Finding]:
        """The findings that a test has set."""
        await self._meet()
        for finding in self.findings:
            yield finding

    async def erase(self, session_id: str, timeout_s: float) -> list[str]:
        """Nothing is left of a deleted session."""
        await self._meet()
        return []

    async def write_beats(self, beats: Mapping[str, int]) -> None:
        """Record last heartbeats."""
        await self._meet()
        self.beats.append(dict(beats))

    async def active_ids(self, cursor: str = "") -> tuple[list[str], str]:
        """All active sessions."""
        await self._meet()
        return [*self.active], ""

    async def find(self, query: Query, cursor: str, limit: int) -> tuple[list[str], str]:
        """Any sessions, in the order of ids; the caller filters."""
        await self._meet()
        ids = sorted(i for i, row in self.rows.items() if row.document is not None and i > cursor)[:limit]
        return ids, ids[-1] if len(ids) == limit else ""

    async def ping(self) -> None:
        """Return once the store has answered."""
        self.pings += 1
        await self._meet()

    async def close(self) -> None:
        """Record that it was closed."""
        self.closed = True

    # -- state --------------------------------------------------------------------------------------------

    def versions(self) -> dict[str, int]:
        """Versions of the stored sessions."""
        return {i: row.meta.version if row.meta else 0 for i, row in self.rows.items() if row.document is not None}


def _within(row: StoredSession | None, most: int) -> StoredSession | None:
    """The row, without a document that has more bytes."""
    if row is None or len(row.document or b"") <= most:
        return row
    return structs.replace(row, document=b"", unread_bytes=len(row.document or b""))


def refuse_changes(path: Path) -> None:
    """Let an SQLite file refuse any change of the sessions that are in it, until `take_changes`."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "CREATE TRIGGER refusal BEFORE UPDATE ON session BEGIN SELECT RAISE(ABORT, 'no change'); END"
        )


def take_changes(path: Path) -> None:
    """End what `refuse_changes` began."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TRIGGER refusal")


async def taken_over(backend: Backend, host_id: str = "host-2", owner: str = "w9") -> None:
    """Another host claims all active sessions of a store."""
    for session_id in await all_active(backend):
        stored = await backend.read(session_id)
        assert stored is not None
        assert stored.meta is not None
        meta = structs.replace(stored.meta, host=host_id, epoch=1 << 20, owner=owner)
        await backend.write([Whole(session_id, stored.document, meta, active=True)])


async def all_active(backend: Backend) -> list[str]:
    """The active sessions of a store, each once."""
    found: dict[str, None] = {}
    cursor = ""
    while True:
        ids, cursor = await backend.active_ids(cursor)
        found.update(dict.fromkeys(ids))
        if not cursor:
            return [*found]


async def all_found(backend: Backend, query: Query, limit: int = 2) -> dict[str, StoredSession]:
    """All sessions that a store returns for a query."""
    found: dict[str, StoredSession] = {}
    cursor = ""
    while True:
        ids, cursor = await backend.find(query, cursor, limit)
        for session_id, stored in zip(ids, await backend.read_each(ids), strict=True):
            assert not isinstance(stored, StoreError)
            if stored is not None and stored.document is not None:
                found[session_id] = stored
        if not cursor:
            return found
