"""One line about the daemon for `systemctl status`, kept up to date."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from callstate_client.model.state import Status
from callstate_sidecar.background import BackgroundTask
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.system.systemd import Notifier

INTERVAL_S: Final = 5.0
"""How often the line is renewed, seconds: current for a person, and of no cost to the daemon."""


def status_line(stats: Mapping[str, Any], needs_restart: Sequence[str] = ()) -> str:
    """The line.

    Args:
        stats: the result of `server.stats`.
        needs_restart: keys whose configured value is not in force yet.
    """
    sessions: Mapping[str, int] = stats["sessions"]
    live = sum(count for status, count in sessions.items() if status != Status.ENDED)
    calls = _counted(live, "call")
    doubtful = [f"{stats[name]} {name}" for name in ("suspects", "orphans") if stats[name]]
    if doubtful:
        calls += f" ({', '.join(doubtful)})"
    store = f"store {stats['store']}"
    if stats["dirty"]:
        store += f", {stats['dirty']} dirty for {stats['oldest_dirty_s']:.1f} s"
    parts = [f"{calls}, {_counted(stats['workers'], 'worker')}", store, f"journal {stats['journal']}"]
    if stats["draining"]:
        parts.append("draining")
    if needs_restart:
        parts.append(f"a restart is needed for {', '.join(needs_restart)}")
    return "; ".join(parts)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


class StatusReport(BackgroundTask):
    """Sends the line to the service manager when it has changed.

    Args:
        manager: receives it; without one nothing is done.
        line: makes it.
        metrics: counts failures of the task.
    """

    def __init__(self, manager: Notifier, line: Callable[[], str], metrics: Metrics) -> None:
        super().__init__(metrics)
        self._manager = manager
        self._line = line

    def start(self) -> None:
        """Start the task, if there is a manager."""
        if self._manager.enabled:
            super().start()

    async def _run(self) -> None:
        sent = ""
        while True:
            line = self._line()
            if line != sent:
                self._manager.status(line)
                sent = line
            await asyncio.sleep(INTERVAL_S)
