"""What the engine asks of the daemon: the store, the barrier, processes, and the figures of `info` and `stats`.

Built last, from all other parts, and attached to the engine then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, cast

from callstate_client.engine.engine import Engine
from callstate_client.engine.interfaces import Caller, NotOurs, ShowStored
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.store_form import session_in_steps
from callstate_client.engine.sessions.stored import StoreDownError, StoreError
from callstate_client.errors import UnreadableError
from callstate_client.protocol.messages import FEATURES, PROTOCOL_VERSION
from callstate_client.protocol.results import CheckResult, Setting
from callstate_sidecar.config.schema import Config
from callstate_sidecar.erasure import Erasure
from callstate_sidecar.hosts.takeover import Takeovers
from callstate_sidecar.hot_memory import memory_findings
from callstate_sidecar.journal import Journal
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.read_through import ReadThrough
from callstate_sidecar.reaper import Reaper
from callstate_sidecar.serving.connection import ClientConnection
from callstate_sidecar.serving.resumed import Requester
from callstate_sidecar.serving.server import Server
from callstate_sidecar.slices import Slices, in_turns
from callstate_sidecar.stores.backend import Backend
from callstate_sidecar.system.clock import SystemClock
from callstate_sidecar.system.host import HostIdentity
from callstate_sidecar.system.peers import Peers
from callstate_sidecar.system.pidfd import Peer
from callstate_sidecar.write_behind import WriteBehind

READ_TOGETHER: Final = 50
"""Sessions of a listing that are read from the store in one go."""


class DaemonHost:
    """The daemon around an engine (callstate_client.engine.interfaces.Host)."""

    def __init__(
        self,
        *,
        identity: HostIdentity,
        config: Config,
        clock: SystemClock,
        metrics: Metrics,
        engine: Engine,
        backend: Backend,
        journal: Journal,
        peers: Peers,
        server: Server,
        read_through: ReadThrough,
        write_behind: WriteBehind,
        erasure: Erasure,
        reaper: Reaper,
        takeovers: Takeovers | None,
        settings: Callable[[], Iterable[Setting]],
        is_dead: Callable[[str], bool],
    ) -> None:
        self._identity = identity
        self._config = config
        self._clock = clock
        self._metrics = metrics
        self._engine = engine
        self._backend = backend
        self._journal = journal
        self._peers = peers
        self._server = server
        self._write_behind = write_behind
        self._reaper = reaper
        self._started_at = datetime.now(UTC)
        self._tasks: set[asyncio.Future[Any]] = set()
        self._showing = asyncio.Lock()
        """Held by the listing that works on what it has read: else hundreds would take a slice of each turn."""
        self._read_through = read_through
        self._takeovers = takeovers
        self.is_shared = takeovers is not None
        self.settings = settings
        self.is_dead = is_dead
        self.flush = write_behind.flush
        self.erase = erasure.run
        self.find = write_behind.reads.find
        self.stored_active_ids = write_behind.reads.active_ids
        self.read_stored = write_behind.reads.read
        self.retry_refused = write_behind.wake

    # -- the store ------------------------------------------------------------------------------------------

    @property
    def accepts_new(self) -> bool:
        """Whether what the store does not have yet is within its bound."""
        return (
            self._write_behind.store.status == "up"
            or self._engine.table.dirty.size_bytes < self._config.store.max_dirty_bytes
        )

    async def show_ids(self, session_ids: Sequence[str], show: ShowStored, /) -> None:
        """Show sessions of the store that don't have to be read for it, until `show` returns False."""
        async with self._showing:
            slices = Slices()
            for session_id in session_ids:
                if not show(session_id, None, 0):
                    return
                await slices.give_way()

    async def show_stored(self, session_ids: Sequence[str], show: ShowStored, /) -> None:
        """Read sessions of the store one after the other, until `show` returns False."""
        reads, host_id = self._write_behind.reads, self._identity.host_id
        slices = Slices()
        for start in range(0, len(session_ids), READ_TOGETHER):
            ids = session_ids[start : start + READ_TOGETHER]
            for session_id, stored in zip(ids, await reads.read_each(ids), strict=True):
                if isinstance(stored, StoreDownError):
                    raise stored
                found = None if isinstance(stored, StoreError) else stored
                if found is not None and found.unread_bytes:  # too long to be read with others
                    found = await reads.read(session_id)
                session, size = None, 0
                async with self._showing:
                    if found is not None:
                        size = len(found.document or b"")
                        with suppress(UnreadableError):
                            session = await in_turns(session_in_steps(session_id, found, host_id))
                    if session is not None:
                        self._engine.table.add_unflushed_beat(session)
                    if not show(session_id, session, size):
                        return
                await slices.give_way()

    def after(self, work: Awaitable[Any], done: Callable[[Any], None]) -> None:
        """Wait for work in a task of its own, then call `done` with its result or its exception."""

        def finished(task: asyncio.Future[Any]) -> None:
            self._tasks.discard(task)
            if not task.cancelled():
                done(task.exception() or task.result())

        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(finished)

    def when_known(self, caller: Caller, session_id: str, then: Callable[[], None]) -> None:
        """Call `then` once the store has been asked for this session."""
        self._read_through.when_known(session_id, then, _requester(caller))

    def when_taken(self, caller: Caller, theirs: NotOurs, then: Callable[[], None]) -> None:
        """Call `then` once the store has given another host's session to this one, or has said why not."""
        if self._takeovers is None:
            raise AssertionError("the store is not shared")
        self._takeovers.when_taken(theirs, then, _requester(caller))

    def when_written(self, caller: Caller, session: Session, then: Callable[[], None], /) -> None:
        """Call `then` once the history of this session, which is not hot, is in the journal, as far as possible."""
        self._read_through.when_written(session, then, _requester(caller))

    async def check_store(self, repair: bool) -> CheckResult:
        """The result of `server.check`: of the store, and whether memory is short."""
        result = await self._write_behind.check(repair)
        result.findings += memory_findings(self._engine)
        return result

    # -- workers --------------------------------------------------------------------------------------------

    def identify(self, caller: Caller) -> Peer | None:
        """The process behind a connection; None: it has hung up meanwhile."""
        transport = cast(ClientConnection, caller).transport
        return None if transport is None else self._peers.identify(transport.get_extra_info("socket"))

    def wake(self) -> None:
        """A worker has left: see to its sessions and publish it soon."""
        self._reaper.wake()
        self._server.group.schedule()

    # -- figures --------------------------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """The result of `server.info`."""
        return {
            "name": "callstated",
            "version": self._identity.version,
            "protocol": PROTOCOL_VERSION,
            "features": FEATURES,
            "store": self._backend.name,
            "durability": self._config.journal.durability,
            # how the death of a worker shows
            "liveness": "process" if self._peers.works else "connection",
            "heartbeat_timeout_s": self._engine.liveness.timeout_s,
            "host_id": self._identity.host_id,
            "boot_id": self._identity.boot_id,
            "started_at": self._started_at.isoformat().replace("+00:00", "Z"),
        }

    def stats(self) -> dict[str, Any]:
        """The result of `server.stats`."""
        engine, table, now = self._engine, self._engine.table, self._clock.mono()
        workers = engine.registry.workers
        oldest = table.dirty.oldest
        error = self._write_behind.store.error or self._backend.away
        return {
            "sessions": table.index.status_counts(),
            "suspects": len(engine.liveness.suspects),
            "orphans": len(table.index.orphans),
            "workers": len(workers),
            "workers_unwatched": workers.unwatched,
            "subscribers": engine.events.subscribers,
            "draining": engine.ctx.draining,
            "connections": len(self._server.connections),
            "connections_limit": self._server.clients.most,
            "dirty": table.dirty.sessions,
            "dirty_bytes": table.dirty.size_bytes,
            "oldest_dirty_s": 0.0 if oldest is None else round(now - oldest, 3),
            "hot_bytes": table.hot.total,
            "hot_bytes_limit": engine.ctx.limits.hot_bytes,
            "quarantined": len(table.quarantined) + len(table.set_aside),
            "store": self._write_behind.store.status,
            **({"store_error": error} if error else {}),
            "journal": self._server.group.journal_state,
            "journal_bytes": self._journal.log_bytes + self._journal.snapshot_bytes,
            "journal_disk_bytes": self._journal.disk_bytes(),
            "journal_unsynced": self._journal.unsynced,
            "loop_lag_s": round(self._metrics.loop_lag_s, 6),
            "stalled_s": round(self._clock.stalled_s, 3),
            **self._metrics.to_dict(),
        }


def _requester(caller: Caller) -> Requester | None:
    """A caller whose requests wait for their turns; None: one that does not share the time with others."""
    return Requester(caller) if isinstance(caller, ClientConnection) else None
