"""A scrape takes no more of the daemon's loop with more sessions: by counting steps, not by the clock."""

from __future__ import annotations

import sys
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")

from callstate_sidecar.monitoring.exporter import Exporter
from callstate_sidecar.monitoring.families import Snapshot, families
from callstate_sidecar.serving.timed_server import TimedServer
from support.core import Core

FEW, MANY = 10, 2000


class Served:
    """A core behind a timed server."""

    def __init__(self) -> None:
        self.core = Core()
        journal: Any = SimpleNamespace(log_bytes=0, snapshot_bytes=0, disk_bytes=lambda: 0, unsynced=0)
        self.server = TimedServer(self.core.engine, None, self.core.metrics, self.core.config.limits)
        self.core.serve(self.server, journal)

    async def save(self, session_id: str) -> None:
        """Create a session."""
        await self.core.call("session.save", session={"id": session_id, "status": "active"})

    def snapshot(self) -> Snapshot:
        """As the exporter takes it in the daemon's loop."""
        exporter: Any = SimpleNamespace(
            _config=self.core.config, _host=self.core.host, _metrics=self.core.metrics, _server=self.server
        )
        return Exporter.snapshot(exporter)


def steps(served: Served) -> tuple[int, Snapshot]:
    """How many instructions of the interpreter a snapshot takes, and the snapshot."""
    count = 0

    def trace(frame: FrameType, event: str, _arg: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        taken = served.snapshot()
    finally:
        sys.settrace(before)
    return count, taken


async def test_a_scrape_takes_no_more_of_the_loop_with_more_sessions() -> None:
    served = Served()
    for number in range(FEW):
        await served.save(f"call-{number}")
    few, first = steps(served)
    for number in range(FEW, MANY):
        await served.save(f"call-{number}")
    many, second = steps(served)
    assert (first.stats["sessions"], second.stats["sessions"]) == ({"active": FEW}, {"active": MANY})
    assert 0 < many < 2 * few  # any loop over the sessions takes a hundred times as many
    samples = [sum(len(family.samples) for family in families(taken)) for taken in (first, second)]
    assert samples[0] == samples[1]
