"""A daemon: the order in which its parts are started and stopped, and what is done while they run.

Start: the state directory and its lock, the socket, the journal, the tasks around the store; then the journal is
replayed, and clients are served. Stop: accept no more, answer what is in flight, flush to the store until a
deadline, write a checkpoint, close. What could not be flushed is in the journal, and the next start flushes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from callstate_client.engine.sessions.stored import StoreError, StoreUnsuitableError
from callstate_sidecar.access.configured import configured_policy
from callstate_sidecar.access.policy import Policy
from callstate_sidecar.assembly import Given, Parts, assemble
from callstate_sidecar.background import cancel_and_wait, in_thread, supervise
from callstate_sidecar.config.errors import ConfigError
from callstate_sidecar.config.memory_limits import differing, resolve_limits
from callstate_sidecar.config.metrics_address import resolve_metrics
from callstate_sidecar.config.origins import Origins
from callstate_sidecar.config.resolve import resolve_socket, resolve_state_dir
from callstate_sidecar.config.schema import Config, LimitsConfig
from callstate_sidecar.garbage import collecting
from callstate_sidecar.hosts.lease import HostIdTakenError
from callstate_sidecar.journal import journal_host
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.logs.setup import REPORT_S, configure_logging, report_suppressed
from callstate_sidecar.long_turns import watching
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.named_backend import named_backend
from callstate_sidecar.reload import Reloads
from callstate_sidecar.restoring import restore
from callstate_sidecar.serving.acceptor import Acceptor
from callstate_sidecar.serving.connection import ClientConnection
from callstate_sidecar.serving.idle import LOOK_EVERY_S
from callstate_sidecar.serving.listener import KEY, Listener, check_passed
from callstate_sidecar.serving.timed_server import TimedServer
from callstate_sidecar.status import StatusReport, status_line
from callstate_sidecar.system import systemd
from callstate_sidecar.system.exits import Exit
from callstate_sidecar.system.heap import Heap
from callstate_sidecar.system.memory import memory_limit
from callstate_sidecar.system.signals import Signals, StoppedError
from callstate_sidecar.system.state_dir import JOURNAL_NAME, StateDir

log = EventLog(__name__)

DRAIN_S: Final = 2.0
"""How long a stop waits for requests in flight before it flushes, seconds."""

STORE_CHECK_S: Final = 1.0
"""How long a start waits for a store to say what it is, seconds."""

TRIM_EVERY_S: Final = 15.0
"""Seconds between two looks at whether memory can be given back."""


class Daemon:
    """One callstated.

    Args:
        config: of the daemon.
        origins: where its values come from.
        environ: the environment of the process.
        reload: reads the configuration again, for SIGHUP.
        signals: installed already.
    """

    def __init__(
        self,
        config: Config,
        origins: Origins,
        environ: MutableMapping[str, str],
        reload: Callable[[], tuple[Config, Origins]],
        signals: Signals,
    ) -> None:
        self._config = config
        self._signals = signals
        self._environ = environ
        self._manager = systemd.Notifier(environ)
        self._reload_config = reload
        self._reloads = Reloads(config, origins)
        self._limits = self._resolve_limits(config, origins)
        self._metrics = Metrics()
        self._metrics.long_turns.log_s = config.server.slow_turn_ms / 1000
        self._stop = asyncio.Event()
        self._exit = Exit.OK

    # -- start ----------------------------------------------------------------------------------------------

    async def run(self) -> Exit:
        """Start, serve until a signal or a fatal error, stop.

        Raises:
            AlreadyRunningError, JournalError, ConfigError, OSError: it can't start.
        """
        state = StateDir(resolve_state_dir(self._config, self._environ), strict=self._config.server.strict_modes)
        try:
            self._host_id = state.host_id(self._config.host.id, journal_host(state.path / JOURNAL_NAME))
            listener, sockets = self._listen()
            try:
                with watching(self._metrics.long_turns, self._metrics.gc_pauses):
                    await self._serve(state.path, sockets)
            except StoppedError as signal:
                log.info("stopped_early", "%s: stopped before it was ready", signal)
            finally:
                if listener is not None:
                    listener.close()
        finally:
            state.close()
        return self._exit

    def _listen(self) -> tuple[Listener | None, list[Any]]:
        """The sockets to serve. Those that systemd passed are not ours to remove."""
        try:
            passed = [sock for named in systemd.listen_fds(self._environ).values() for sock in named]
        except ValueError as error:
            raise ConfigError(str(error)) from error
        check_passed(passed)
        if passed:
            self._addresses = [str(sock.getsockname()) for sock in passed]
            return None, passed
        strict = self._config.server.strict_modes
        listener = Listener(resolve_socket(self._config, self._environ), KEY, strict)
        self._addresses = [str(listener.path)]
        return listener, [listener.socket]

    async def _serve(self, state_dir: Path, sockets: list[Any]) -> None:
        self._backend = named_backend(self._config, state_dir, self._host_id, self._environ)
        self._parts = self._assemble(state_dir)
        await self._check_store()
        self._restore()
        try:
            with collecting():
                await self._serve_restored(sockets)
        finally:
            # even if the stop failed: once the lock is released, no thread may touch the journal
            await self._parts.maintenance.stop()

    def _assemble(self, state_dir: Path) -> Parts:
        resolved = {
            "server.socket": ", ".join(self._addresses),
            "server.state_dir": str(state_dir),
            "host.id": self._host_id,
        }
        given = Given(
            config=self._config,
            limits=self._limits,
            metrics=self._metrics,
            backend=self._backend,
            host_id=self._host_id,
            state_dir=state_dir,
            settings=lambda: self._reloads.settings(resolved | self._differing_limits),
            sync_failed=self._sync_failed,
            host_id_taken=self._host_id_taken,
        )
        return assemble(given)

    async def _serve_restored(self, sockets: list[Any]) -> None:
        async with self._exporting():
            if self._parts.hosts is not None:
                await self._parts.hosts.begin(self._signals.check)
            await self._run_until_stopped(sockets)

    async def _check_store(self) -> None:
        """See that Redis is what the configuration says. One that does not answer is checked once it does; until
        then it is down, and calls are served."""
        if self._config.store.url.startswith("sqlite:"):
            return
        try:
            async with asyncio.timeout(STORE_CHECK_S):
                await self._backend.ping()
        except StoreUnsuitableError as error:
            await self._backend.close()
            raise ConfigError(f"store.url: {error}") from error
        except (StoreError, TimeoutError) as error:
            log.debug("store_unchecked", "the store does not answer at startup: %s", error)
        self._signals.check()

    @asynccontextmanager
    async def _exporting(self) -> AsyncIterator[None]:
        """Serve metrics meanwhile, if the configuration says where."""
        address = resolve_metrics(self._config.metrics)
        if address is None or not isinstance(self._parts.server, TimedServer):
            yield
            return
        # imported only if it is used: it needs prometheus-client
        from callstate_sidecar.monitoring.exporter import Exporter  # noqa: PLC0415

        exporter = Exporter(address, self._config, self._parts.host, self._metrics, self._parts.server)
        try:
            yield
        finally:
            await exporter.stop()

    async def _run_until_stopped(self, sockets: list[Any]) -> None:
        """Serve until a stop is requested, then stop."""
        parts = self._parts
        parts.write_behind.start()
        parts.reaper.start()
        parts.maintenance.start()
        if parts.hosts is not None:
            parts.hosts.start()
        if parts.rereading is not None:
            parts.rereading.start()
        loop = asyncio.get_running_loop()
        clients = parts.server.clients
        acceptors = [Acceptor(sock, self._connection, clients.refusal, clients.refused) for sock in sockets]
        self._signals.serve(loop.call_soon_threadsafe, self._request_stop, _stopped_at_once, self._reload)
        tasks = [
            supervise("watchdog", self._feed_watchdog, self._metrics),
            supervise("idle-connections", self._close_idle, self._metrics),
            supervise("log-report", _report_suppressed, self._metrics),
            supervise("heap", _trim_heap, self._metrics),
        ]
        status = StatusReport(self._manager, self._status, self._metrics)
        status.start()
        log.info(
            "serving",
            "serving on %s, host %s, store %s, durability %s, %d sessions restored",
            ", ".join(self._addresses), self._host_id, self._backend.name, self._config.journal.durability,
            len(parts.engine.table.sessions),
        )  # fmt: skip
        self._manager.ready(self._status())
        await self._stop.wait()
        await status.stop()
        await self._shut_down(acceptors)
        for task in tasks:
            await cancel_and_wait(task)

    def _restore(self) -> None:
        discard = self._config.journal.durability == "memory"
        parts = self._parts
        restore(parts.engine, parts.journal, parts.peers, self._signals, self._manager, discard=discard)

    def _connection(self) -> ClientConnection:
        return ClientConnection(self._parts.server, self._parts.server.limits.line_bytes)

    def _resolve_limits(self, config: Config, origins: Origins) -> LimitsConfig:
        """The limits in force: those that depend on the memory that there is, from what there is now."""
        memory = memory_limit()
        limits = resolve_limits(config.limits, origins, memory.size)
        self._differing_limits = differing(config.limits, limits)
        log.debug(
            "memory_bounded", "sessions may take %d bytes of memory, of %d by %s", limits.hot_bytes, memory.size,
            memory.source,
        )  # fmt: skip
        return limits

    # -- while it runs ------------------------------------------------------------------------------------------

    def _request_stop(self, signal: str) -> None:
        log.info("stopping", "%s: stopping", signal)
        self._stop.set()

    def _sync_failed(self, error: Exception) -> None:
        """Stop: the kernel may have dropped what it could not write, and a second sync would prove nothing."""
        log.critical(
            "journal_sync_failed",
            "the journal can't be synced: %s; stopping, as what is on disk is uncertain. "
            "Check the disk, then run: callstated journal verify %s",
            error, self._parts.journal.directory, exc_info=None if isinstance(error, OSError) else error,
        )  # fmt: skip
        self._exit = Exit.FAILED
        self._stop.set()

    def _host_id_taken(self, error: HostIdTakenError) -> None:
        """Stop: each of two daemons with one host id would take the other's writes for its own."""
        log.critical("host_id_taken", "this host's id is in use: %s; stopping", error)
        self._exit = Exit.ALREADY_RUNNING
        self._stop.set()

    async def _feed_watchdog(self) -> None:
        interval_s = systemd.watchdog_interval_s(self._environ)
        while interval_s is not None:
            self._manager.watchdog()
            await asyncio.sleep(interval_s)

    async def _close_idle(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self._parts.server.clients.close_idle()

    def _status(self) -> str:
        return status_line(self._parts.host.stats(), self._reloads.needs_restart)

    def _reload(self) -> None:
        """SIGHUP: apply what may change while running: access, limits, the default timeout, logging."""
        self._manager.reloading()
        try:
            config, origins = self._reload_config()
            policy = configured_policy(config.access)
            configure_logging(config.log.level, config.log.format, config.log.burst, self._environ)
        except (ConfigError, OSError) as error:
            log.error("reload_failed", "not reloaded: %s", error)
        else:
            self._apply(config, origins, policy)
        self._manager.ready(self._status())

    def _apply(self, config: Config, origins: Origins, policy: Policy) -> None:
        applied = self._reloads.take(config, origins)
        self._limits = self._resolve_limits(config, origins)
        parts = self._parts
        parts.server.limit(self._limits)
        parts.access.apply(policy)
        parts.engine.control(parts.access)
        parts.server.clients.turn_away()
        parts.engine.liveness.timeout_s = config.reaper.heartbeat_timeout_s
        log.info(
            "reloaded",
            "reloaded: %s",
            f"{', '.join(applied)} applied" if applied else "nothing to apply has changed",
        )
        if self._reloads.needs_restart:
            log.warning("restart_needed", "a restart is needed for %s", ", ".join(self._reloads.needs_restart))

    # -- stop -----------------------------------------------------------------------------------------------

    async def _shut_down(self, acceptors: list[Acceptor]) -> None:
        """Accept no more, answer what is in flight, flush, write a checkpoint, close."""
        parts, server = self._parts, self._parts.server
        self._manager.stopping(f"stopping; {parts.engine.table.dirty.sessions} sessions to write to the store")
        for acceptor in acceptors:
            acceptor.close()
        server.clients.stopping = True
        await parts.reaper.stop()
        if parts.hosts is not None:
            await parts.hosts.stop()
        if parts.rereading is not None:
            await parts.rereading.stop()
        parts.engine.close()
        await server.answered(DRAIN_S)
        # a daemon that turned out to have another's host id writes nothing more under it
        flush_s = 0.0 if self._exit is Exit.ALREADY_RUNNING else self._config.server.shutdown_flush_s
        unflushed = await parts.write_behind.flush_before_stop(flush_s)
        await parts.write_behind.stop()
        await parts.read_through.close()
        await server.group.close()
        if unflushed:
            log.warning("stopped_unflushed", "%d sessions not yet in the store; the journal has them", unflushed)
        await parts.maintenance.stop()
        if self._exit is Exit.OK:
            self._checkpoint_at_stop()
        parts.journal.close()
        for connection in [*server.connections]:
            connection.close()
        await self._backend.close()
        log.info("stopped", "stopped, %d sessions in the journal", len(parts.engine.table.sessions))

    def _checkpoint_at_stop(self) -> None:
        """Write a checkpoint for a quick start. If that fails, the log has the same, and the start takes longer."""
        try:
            self._parts.checkpointer.run_now()
        except Exception as error:
            fault = None if isinstance(error, OSError) else error
            log.error("checkpoint_failed", "no checkpoint at shutdown: %s", error, exc_info=fault)


def _stopped_at_once(signal: str) -> None:
    log.warning("stopped_at_once", "%s again: exiting at once; the journal has what is not in the store", signal)


async def _trim_heap() -> None:
    heap = Heap()
    while True:
        await asyncio.sleep(TRIM_EVERY_S)
        await in_thread(heap.trim)


async def _report_suppressed() -> None:
    while True:
        await asyncio.sleep(REPORT_S)
        report_suppressed()
