"""Clients that send much and read nothing: the daemon's memory stays bounded, and others are served."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from callstate_sidecar.serving.listener import BACKLOG
from support.daemon import LOOK_EVERY_S, Daemon
from support.wire import Wire

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

MIB = 1024 * 1024

HUNDRED_BIG = 100
"""Sessions with a head of half a megabyte."""


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon("--set", f"limits.reply_bytes_total={64 * MIB}") as running:
        yield running


def memory(daemon: Daemon, name: str = "VmRSS") -> int:
    """Resident memory of the daemon, or its peak (`VmHWM`), bytes."""
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) * 1024


def growth(daemon: Daemon, before: int) -> float:
    """How far the peak of its memory lies above what it had before, MiB."""
    return (memory(daemon, "VmHWM") - before) / MIB


def flood(daemon: Daemon, line: bytes, count: int) -> socket.socket:
    """Send a line so many times, or until the daemon reads no more; the connection stays open and is never read."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(str(daemon.socket))
    connection.settimeout(0.5)
    with contextlib.suppress(TimeoutError, ConnectionError):
        connection.sendall((line + b"\n") * count)
    return connection


def requests(method: str, **params: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()


def cpu_ticks(daemon: Daemon) -> int:
    """Processor time that the daemon has taken."""
    assert daemon.process is not None
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def until_idle(daemon: Daemon) -> None:
    """Wait until the daemon has done what it will do: nothing announces that it reads no more."""
    idle, before = 0, -1
    while idle < 30:
        time.sleep(LOOK_EVERY_S)
        ticks = cpu_ticks(daemon)
        idle, before = idle + 1 if ticks - before <= 1 else 0, ticks


def served(daemon: Daemon) -> None:
    """Another client is answered, now and once the flood has been dealt with."""
    until_idle(daemon)
    with Wire(daemon.socket) as wire:
        assert wire.call("server.ping") == {}
        assert wire.call("session.save", session={"id": "another", "status": "active"})["version"] >= 1
        assert wire.call("session.heartbeat", session_id="another") == {}


def test_listings_of_the_store_that_nobody_reads(short_dir: Path) -> None:
    """Sessions of another host, so that each listing has to wait for the store."""
    store = f"sqlite:{short_dir / 'store'}"
    with Daemon("--set", "host.id=a", store=store) as other, Wire(other.socket) as wire:
        for number in range(10_000):
            wire.call("session.save", session={"id": f"{number:0200}", "status": "active"})
        assert wire.call("server.flush")["unflushed"] == 0
    with Daemon("--set", "host.id=b", "--set", f"limits.reply_bytes_total={64 * MIB}", store=store) as daemon:
        before = memory(daemon)
        with flood(daemon, requests("session.list_active", scope="all", limit=10_000), 1500):
            served(daemon)
            assert growth(daemon, before) < 96


def test_listings_of_big_sessions_that_nobody_reads(daemon: Daemon) -> None:
    with Wire(daemon.socket) as wire:
        for number in range(HUNDRED_BIG):
            session = {"id": f"big-{number}", "status": "active", "recovery_data": {"blob": "x" * (MIB // 2)}}
            wire.call("session.save", session=session)
        wire.call("server.flush")
    before = memory(daemon)
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(flood(daemon, requests("session.list"), 20))
        served(daemon)
        assert growth(daemon, before) < 160


def test_events_that_nobody_reads(daemon: Daemon) -> None:
    before = memory(daemon)
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(flood(daemon, requests("events.subscribe"), 1))
        with Wire(daemon.socket) as wire:
            labels = {f"label-{number}": "x" * 250 for number in range(16)}
            for number in range(3000):
                wire.call("session.save", session={"id": f"c{number}", "status": "active"}, labels=labels)
        served(daemon)
        assert growth(daemon, before) < 160


def test_as_many_clients_as_the_backlog_has_room_for_may_wait(daemon: Daemon) -> None:
    """While the daemon is stopped, connects succeed up to the backlog that it asks for; uvloop's default is 100."""
    daemon.signal(signal.SIGSTOP)
    with ExitStack() as stack:
        for _ in range(BACKLOG):
            connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            connection.setblocking(False)
            connection.connect(str(daemon.socket))
        daemon.signal(signal.SIGCONT)
        served(daemon)
