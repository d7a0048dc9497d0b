"""The parts of a daemon, built in the order in which they need each other. daemon.py starts and stops them.

First the journal and the server that commits to it, then what reads from the store and writes to it, then, where
hosts share the store, what makes this host one of several. Last the engine is given access to all of them. Nothing
here runs yet, and nothing but the table of descriptors is touched.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from callstate_client.engine.engine import Engine
from callstate_client.engine.table.replay import snapshot
from callstate_client.protocol.results import Setting
from callstate_sidecar.access.configured import configured_policy
from callstate_sidecar.access.control import AccessControl
from callstate_sidecar.config.schema import Config, LimitsConfig
from callstate_sidecar.engine_host import DaemonHost
from callstate_sidecar.erasure import Erasure
from callstate_sidecar.hosts.absence import AbsenceGate
from callstate_sidecar.hosts.adoption import Adopter
from callstate_sidecar.hosts.doubts import Doubts
from callstate_sidecar.hosts.lease import NOTE_NAME, HostIdTakenError, HostLease, LeaseNote
from callstate_sidecar.hosts.possession import Possessions
from callstate_sidecar.hosts.rereading import Rereading
from callstate_sidecar.hosts.rounds import HostRounds
from callstate_sidecar.hosts.sweep import ActiveSweep
from callstate_sidecar.hosts.takeover import Takeovers
from callstate_sidecar.hosts.watch import HostWatch
from callstate_sidecar.journal import Checkpointer, Files, Journal, Maintenance, PartsLog, SyncGate
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.read_through import ReadThrough
from callstate_sidecar.reaper import Reaper
from callstate_sidecar.reconcile import Reconciler
from callstate_sidecar.serving.server import Server
from callstate_sidecar.serving.timed_server import TimedServer
from callstate_sidecar.stores.backend import Backend
from callstate_sidecar.system import descriptors, host
from callstate_sidecar.system.clock import SystemClock, since_boot
from callstate_sidecar.system.peers import Peers
from callstate_sidecar.system.state_dir import JOURNAL_NAME
from callstate_sidecar.write_behind import WriteBehind

SWEEP_LEASES: Final = 2
"""The active set is swept once in so many leases: each minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the parts are built from.

    Args:
        config: of the daemon.
        limits: the limits in force, which depend on the memory that there is.
        metrics: the daemon's counters.
        backend: the store.
        host_id: of this host.
        state_dir: the daemon's directory, locked.
        settings: the configuration in force, for `server.config`.
        sync_failed: called when the journal can't be synced; the daemon has to stop.
        host_id_taken: called when another daemon uses this host's id; the daemon has to stop.
    """

    config: Config
    limits: LimitsConfig
    metrics: Metrics
    backend: Backend
    host_id: str
    state_dir: Path
    settings: Callable[[], Iterable[Setting]]
    sync_failed: Callable[[Exception], None]
    host_id_taken: Callable[[HostIdTakenError], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a daemon is made of. No other host shares the store: then `hosts` is None, else `rereading`."""

    engine: Engine
    access: AccessControl
    journal: Journal
    checkpointer: Checkpointer
    maintenance: Maintenance
    server: Server
    write_behind: WriteBehind
    read_through: ReadThrough
    reaper: Reaper
    hosts: HostRounds | None
    rereading: Rereading | None
    peers: Peers
    host: DaemonHost


def assemble(given: Given) -> Parts:
    """Build the parts, and give the engine access to them."""
    config, metrics = given.config, given.metrics
    clock = SystemClock()
    engine = Engine(given.limits, config.reaper, clock, secrets.token_hex(8))
    access = AccessControl(configured_policy(config.access), clock.mono)
    engine.control(access)
    journaling = _Journaling(given, engine, access)
    server, parts_log = journaling.server, journaling.parts_log
    commit = server.group.commit
    reconciler = Reconciler(engine.ctx, given.host_id, metrics)
    write_behind = WriteBehind(
        engine.flush_queue,
        given.backend,
        clock,
        config.store,
        metrics,
        given.host_id,
        engine.events,
        commit,
        reconciler,
        parts_log,
    )
    read_through = ReadThrough(engine.ctx, write_behind.reads, given.host_id, parts_log)
    reaper = Reaper(engine, clock, metrics, config.reaper.tick_s, commit)
    doubts = Doubts(engine.ctx, read_through, commit)
    reconciler.in_doubt = doubts.session_ids
    hosts, takeovers = _hosts(
        given, engine, clock, server, write_behind, read_through, reconciler, doubts, parts_log
    )  # fmt: skip
    boot_id = host.boot_id()
    peers = Peers(boot_id)
    daemon_host = DaemonHost(
        identity=host.HostIdentity(given.host_id, boot_id, host.own_version()),
        config=config,
        clock=clock,
        metrics=metrics,
        engine=engine,
        backend=given.backend,
        journal=journaling.journal,
        peers=peers,
        server=server,
        read_through=read_through,
        write_behind=write_behind,
        erasure=Erasure(
            engine.table,
            write_behind.flush,
            given.backend,
            journaling.maintenance.erase,
            journaling.journal.directory,
            commit,
        ),
        reaper=reaper,
        takeovers=takeovers,
        settings=given.settings,
        is_dead=(lambda _: False) if hosts is None else hosts.is_dead,
    )
    engine.attach(daemon_host)
    return Parts(
        engine=engine,
        access=access,
        journal=journaling.journal,
        checkpointer=journaling.checkpointer,
        maintenance=journaling.maintenance,
        server=server,
        write_behind=write_behind,
        read_through=read_through,
        reaper=reaper,
        hosts=hosts,
        rereading=None if hosts else Rereading(write_behind.reads, engine.table, doubts, metrics),
        peers=peers,
        host=daemon_host,
    )


class _Journaling:
    """The journal, the server that commits to it, and its syncs and checkpoints."""

    def __init__(self, given: Given, engine: Engine, access: AccessControl) -> None:
        config, files = given.config, Files()
        journal = self.journal = Journal(
            given.state_dir / JOURNAL_NAME,
            checkpoint_min_bytes=config.journal.checkpoint_min_bytes,
            files=files,
            host_id=given.host_id,
        )
        durability = config.journal.durability
        gate = SyncGate(lambda: journal.unsynced, self._sync, given.sync_failed) if durability == "power" else None
        logged = None if durability == "memory" else journal
        self.parts_log = None if logged is None else PartsLog(logged)
        fit = descriptors.room_for_connections(descriptors.raise_limit())
        descriptors.make_table(min(fit, given.limits.connections))
        kind = TimedServer if config.metrics.listen else Server
        self.server = kind(engine, logged, given.metrics, given.limits, gate, fit)
        self.server.clients.access = access
        self.checkpointer = Checkpointer(journal, files, partial(snapshot, engine.table), self.server.group.commit)
        self.maintenance = Maintenance(
            journal,
            self.checkpointer,
            config.journal.sync_interval_s,
            given.sync_failed,
            given.metrics,
            logged=logged is not None,
        )

    async def _sync(self) -> None:
        await self.maintenance.sync()


def _hosts(
    given: Given,
    engine: Engine,
    clock: SystemClock,
    server: Server,
    write_behind: WriteBehind,
    read_through: ReadThrough,
    reconciler: Reconciler,
    doubts: Doubts,
    parts_log: PartsLog | None,
) -> tuple[HostRounds | None, Takeovers | None]:
    """What makes this host one of several; nothing if the store can't be shared."""
    registry = given.backend.hosts
    if registry is None:
        return None, None
    ctx, host_id, commit = engine.ctx, given.host_id, server.group.commit
    metrics, lease_s = given.metrics, given.config.store.host_lease_s
    lease = HostLease(registry, LeaseNote(given.state_dir / NOTE_NAME), host_id, lease_s)
    write_behind.may_write = lambda: lease.is_ours

    def check() -> None:
        write_behind.store.check()
        lease.check()

    in_doubt = doubts.session_ids
    takeovers = Takeovers(registry, read_through, check, host_id, in_doubt, metrics)
    watch = HostWatch(host_id, lease_s)
    adopter = Adopter(registry, ctx, reconciler, commit, host_id, lease.instance, in_doubt, metrics, parts_log)
    sweep_s = SWEEP_LEASES * lease_s
    possessions = Possessions(registry, ctx, reconciler, doubts, commit, host_id)
    gate = AbsenceGate(lease_s, possessions.look_at_all, since_boot)
    server.held = gate.holds
    rounds = HostRounds(
        registry=registry,
        lease=lease,
        watch=watch,
        possessions=possessions,
        doubts=doubts,
        adopter=adopter,
        sweep=ActiveSweep(given.backend, registry, watch, adopter, lease.instance, sweep_s, clock.mono),
        clock=clock,
        metrics=metrics,
        lease_s=lease_s,
        host_id_taken=given.host_id_taken,
        gate=gate,
    )
    return rounds, takeovers
