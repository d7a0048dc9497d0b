"""What the verbs ask of the daemon around them: the store, the barrier, and what `server.info` and `stats` say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from callstate_client.engine.context import Context
from callstate_client.engine.interfaces import Caller
from callstate_client.engine.liveness import Liveness
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.stored import (
    Query,
)
from callstate_client.engine.table.cache import Cache
from callstate_client.errors import UnreadableError
from callstate_client.protocol.messages import (
    FEATURES,
    PROTOCOL_VERSION,
)
from callstate_sidecar.config.schema import Config
from callstate_sidecar.journal import Journal
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.read_through import ReadThrough
from callstate_sidecar.serving.server import Server
from callstate_sidecar.stores.backend import (
    Backend,
)
from callstate_sidecar.system import host
from callstate_sidecar.system.clock import Clock
from callstate_sidecar.worker_monitor import Attendance
from callstate_sidecar.write_behind import WriteBehind


class Services:
    """One daemon's (commands.context.Services)."""

    def __init__(
        self,
        backend: Backend,
        config: Config,
        cache: Cache,
        liveness: Liveness,
        clock: Clock,
        metrics: Metrics,
        host_id: str,
    ) -> None:
        self._backend = backend
        self._config = config
        self._cache = cache
        self._liveness = liveness
        self._clock = clock
        self._metrics = metrics
        self._host_id = host_id
        self._started_at = datetime.now(UTC)
        self.boot_id = host.boot_id()  # files are read now: `server.info` is asked for in the loop
        self._version = host.own_version()
        self._tasks: set[asyncio.Future[Any]] = set()

    def join(
        self,
        server: Server,
        journal: Journal,
        read_through: ReadThrough,
        writer: WriteBehind,
        attendance: Attendance,
        ctx: Context,
    ) -> None:
        """Make the parts known that are built upon this one."""
        self._server = server
        self._journal = journal
        self._read_through = read_through
        self._write_behind = writer
        self._attendance = attendance
        self._ctx = ctx

    @property
    def accepts_new(self) -> bool:
        """Whether what the store does not have yet is within its bound."""
        return self._write_behind.state == "up" or self._cache.dirty_bytes < self._config.store.max_dirty_bytes

    def when_known(self, session_id: str, then: Callable[[], None]) -> None:
        """Call `then` once the store was asked for this session."""
        self._read_through.when_known(session_id, then)

    def flush(self, session_ids: list[str] | None, timeout_s: float | None) -> Awaitable[dict[str, int]]:
        """Wait until the store has what is dirty now."""
        return self._write_behind.flush(session_ids, timeout_s)

    def stored_active_ids(self, cursor: str) -> Awaitable[tuple[list[str], str]]:
        """Some of the active sessions in the store."""
        return self._backend.active_ids(cursor)

    async def find(self, query: Query, cursor: str, limit: int) -> tuple[list[Session], str]:
        """Some of the sessions in the store; what can't be read is passed over."""
        found, cursor = await self._backend.find(query, cursor, limit)
        sessions: list[Session] = []
        for session_id, stored in found:
            with suppress(UnreadableError):
                session = Session.of_stored(session_id, stored, self._host_id)
                if session is not None:
                    sessions.append(session)
        return sessions, cursor

    def register(self, caller: Caller, worker_id: str, instance: str, process: str) -> None:
        """This connection is one of this worker's from now on."""
        self._attendance.register(caller, worker_id, instance, process)

    def left(self, caller: Caller) -> None:
        """This connection is gone."""
        self._attendance.closed(caller)

    def workers_due(self, now: float) -> None:
        """Those who did not come back in time have left. `now`: seconds of the clock's `live`."""
        self._attendance.tick(now)

    def is_connected(self, worker_id: str, instance: str = "") -> bool:
        """Whether the worker, or this instance of it, has a registered connection."""
        return self._attendance.is_connected(worker_id, instance)

    def after(self, work: Awaitable[Any], done: Callable[[Any], None]) -> None:
        """Wait for work beside the loop's turns, then tell its outcome."""

        def finished(task: asyncio.Future[Any]) -> None:
            self._tasks.discard(task)
            if not task.cancelled():
                done(task.exception() or task.result())

        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(finished)

    def info(self) -> dict[str, Any]:
        """The result of `server.info`."""
        return {
            "name": "callstated",
            "version": self._version,
            "protocol": PROTOCOL_VERSION,
            "features": FEATURES,
            "store": self._backend.name,
            "durability": self._config.journal.durability,
            "liveness": self._attendance.evidence,
            "heartbeat_timeout_s": self._liveness.timeout_s,
            "host_id": self._host_id,
            "boot_id": self.boot_id,
            "started_at": self._started_at.isoformat().replace("+00:00", "Z"),
        }

    def stats(self) -> dict[str, Any]:
        """The result of `server.stats`."""
        cache, now = self._cache, self._clock.mono()
        oldest = next(iter(cache.dirty.values()), None)
        return {
            "sessions": dict(cache.index.by_status),
            "suspects": len(self._liveness.suspects),
            "orphans": len(cache.index.orphans),
            "workers": len(self._attendance.workers),
            "workers_unwatched": self._attendance.workers.unwatched,
            "subscribers": self._ctx.events.subscribers,
            "draining": self._ctx.draining,
            "connections": len(self._server.connections),
            "dirty": len(cache.dirty) + len(cache.flying),
            "dirty_bytes": cache.dirty_bytes,
            "oldest_dirty_s": round(now - oldest[0], 3) if oldest else 0.0,
            "quarantined": len(cache.quarantined),
            "store": self._write_behind.state,
            **({"store_error": self._write_behind.error} if self._write_behind.error else {}),
            "journal": self._server.turn.journal_state,
            "journal_bytes": self._journal.log_bytes + self._journal.snapshot_bytes,
            "journal_disk_bytes": self._journal.disk_bytes(),
            "journal_unsynced": self._journal.unsynced,
            "loop_lag_s": round(self._metrics.loop_lag_s, 6),
            "stalled_s": round(self._clock.stalled_s, 3),
            **self._metrics.to_dict(),
        }
