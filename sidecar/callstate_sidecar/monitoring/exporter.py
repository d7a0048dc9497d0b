"""The exporter of one daemon: its socket, and what is shown of the daemon there."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Final

from callstate_sidecar.background import in_thread
from callstate_sidecar.config.errors import ConfigError
from callstate_sidecar.config.metrics_address import TcpAddress
from callstate_sidecar.config.schema import Config
from callstate_sidecar.engine_host import DaemonHost
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.monitoring.endpoint import Endpoint
from callstate_sidecar.monitoring.families import Snapshot
from callstate_sidecar.serving.listener import Listener
from callstate_sidecar.serving.timed_server import TimedServer

log = EventLog(__name__)

SOCKET_MODE: Final = 0o660
"""Mode of a Unix socket: Prometheus, or what forwards to it, is made a member of the daemon's group."""


class Exporter:
    """Serves the figures of one daemon.

    Args:
        address: where to listen.
        config: of the daemon.
        host: gives the figures of `server.info` and `server.stats`.
        metrics: the counters.
        server: measures durations.

    Raises:
        ConfigError: the address is in use, or not one of this host.
        AlreadyRunningError: a process listens on the Unix socket.
    """

    def __init__(
        self, address: Path | TcpAddress, config: Config, host: DaemonHost, metrics: Metrics, server: TimedServer
    ) -> None:
        self._config = config
        self._host = host
        self._metrics = metrics
        self._server = server
        self._listener: Listener | None = None
        if isinstance(address, Path):
            strict = config.server.strict_modes
            self._listener = Listener(address, key="metrics.listen", strict=strict, mode=SOCKET_MODE)
            listening, where = self._listener.socket, str(address)
        else:
            listening = _bound(address)
            name, port = listening.getsockname()[:2]
            where = f"http://[{name}]:{port}/metrics" if ":" in name else f"http://{name}:{port}/metrics"
        self._endpoint = Endpoint(listening, asyncio.get_running_loop(), self.snapshot)
        self._endpoint.start()
        log.info("metrics_served", "metrics are served on %s", where)

    async def stop(self) -> None:
        """Stop serving, and remove a Unix socket."""
        await in_thread(self._endpoint.stop)
        if self._listener is not None:
            self._listener.close()

    def snapshot(self) -> Snapshot:
        """The figures of this moment."""
        metrics, info, limits = self._metrics, self._host.info(), self._server.limits
        return Snapshot(
            stats=self._host.stats() | {"requests": dict(metrics.requests), "errors": dict(metrics.errors)},
            suspected=dict(metrics.suspected),
            reaped=dict(metrics.reaped),
            lag=metrics.loop_lag.copy(),
            gc_pauses=metrics.gc_pauses.pauses.copy(),
            durations={method: histogram.copy() for method, histogram in self._server.durations.items()},
            limits={
                "callstate_sessions_limit": limits.sessions,
                "callstate_connections_limit": self._server.clients.most,
                "callstate_dirty_bytes_limit": self._config.store.max_dirty_bytes,
            },
            info={name: info[name] for name in ("version", "store", "durability")},
        )


def _bound(address: TcpAddress) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise ConfigError(f"metrics.listen: {error.strerror}: {address.host} port {address.port}") from error
    listening.listen()
    listening.setblocking(False)
    return listening
