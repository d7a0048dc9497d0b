"""The line for `systemctl status`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from callstate_sidecar.metrics import Metrics
from callstate_sidecar.status import StatusReport, status_line
from callstate_sidecar.system.systemd import Notifier
from support.service_manager import ServiceManager

IDLE: dict[str, Any] = {
    "sessions": {}, "suspects": 0, "orphans": 0, "workers": 0, "draining": False,
    "dirty": 0, "oldest_dirty_s": 0.0, "store": "up", "journal": "ok",
}  # fmt: skip


@pytest.mark.parametrize(
    ("stats", "line"),
    [
        ({}, "0 calls, 0 workers; store up; journal ok"),
        (
            {"sessions": {"active": 1, "ended": 5}, "workers": 1},
            "1 call, 1 worker; store up; journal ok",
        ),
        (
            {"sessions": {"active": 3, "on_hold": 4}, "workers": 2, "suspects": 2, "orphans": 1},
            "7 calls (2 suspects, 1 orphans), 2 workers; store up; journal ok",
        ),
        (
            {"store": "down", "dirty": 12, "oldest_dirty_s": 3.456, "journal": "failing", "draining": True},
            "0 calls, 0 workers; store down, 12 dirty for 3.5 s; journal failing; draining",
        ),
    ],
)
def test_the_line_says_what_an_operator_asks_first(stats: dict[str, Any], line: str) -> None:
    assert status_line({**IDLE, **stats}) == line


def test_keys_that_wait_for_a_restart_are_named() -> None:
    line = status_line(IDLE, ["store.url", "server.socket"])
    assert line.endswith("; a restart is needed for store.url, server.socket")


async def test_a_change_is_sent_and_the_same_line_is_not(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callstate_sidecar.status.INTERVAL_S", 0.0)
    manager = ServiceManager(str(short_dir / "notify"))
    lines = iter(["one", "one", "two"])
    report = StatusReport(Notifier(manager.environ), lambda: next(lines, "two"), Metrics())
    report.start()
    await report.stop()  # not even begun: nothing is sent
    report.start()
    for _ in range(10):
        await _turn()
    await report.stop()
    assert (manager.received(), manager.received()) == (["STATUS=one"], ["STATUS=two"])
    assert manager.received_nothing()
    manager.close()


async def test_without_a_manager_there_is_no_task() -> None:
    report = StatusReport(Notifier({}), lambda: pytest.fail("asked for a line"), Metrics())
    report.start()
    await _turn()
    await report.stop()


async def _turn() -> None:
    """One turn of the loop."""
    import asyncio

    await asyncio.sleep(0)
