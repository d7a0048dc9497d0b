"""The daemon under a service manager: sockets passed to it, and what it tells the manager."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.service_manager import ServiceManager

STOPPED_WITHIN_S = 20.0
# Short enough for a test to see two of its notifications, long enough for a busy machine.
WATCHDOG_USEC = 400_000

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(
        shutil.which("systemd-socket-activate") is None, reason="systemd-socket-activate is not installed"
    ),
]


class Activated:
    """A daemon that systemd-socket-activate starts with the first connection, as the same process."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "callstate.sock"
        self.log = directory / "log"
        self.manager = ServiceManager(str(directory / "notify"))
        environ = {**self.manager.environ, "WATCHDOG_USEC": str(WATCHDOG_USEC)}
        options = [f"--setenv={name}={value}" for name, value in environ.items()]
        options += [f"--listen={self.socket}", "--fdname=callstate.socket"]
        daemon = [sys.executable, "-m", "callstate_sidecar", "--state-dir", str(directory / "state")]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["systemd-socket-activate", *options, *daemon],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.PIPE,
            )  # fmt: skip
        assert self.process.stderr is not None
        first = self.process.stderr.readline()  # "Listening on … as 3.": only then there is a socket
        assert b"Listening on" in first, first

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(STOPPED_WITHIN_S)
        connection.connect(str(self.socket))
        return connection

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOPPED_WITHIN_S)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.manager.close()


@pytest.fixture
def activated(short_dir: Path) -> Iterator[Activated]:
    started = Activated(short_dir)
    yield started
    started.close()


def ask(connection: socket.socket, method: str) -> dict[str, object]:
    connection.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method}).encode() + b"\n")
    with connection.makefile("rb") as replies:
        reply = json.loads(replies.readline())
    assert isinstance(reply, dict)
    return reply


def test_connections_made_before_the_daemon_runs_are_served(activated: Activated) -> None:
    with activated.connect() as first, activated.connect() as second:
        assert "result" in ask(first, "server.ping")
        assert "result" in ask(second, "server.ping")
    assert activated.stop() == 0


def test_the_socket_is_left_to_the_manager(activated: Activated) -> None:
    """A connection made while the daemon restarts waits in the socket: so it must survive the daemon."""
    with activated.connect() as connection:
        assert "result" in ask(connection, "server.ping")
    before = activated.socket.stat()
    assert activated.stop() == 0
    after = activated.socket.stat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)


def test_the_manager_is_notified_of_readiness_watchdog_and_stop(activated: Activated) -> None:
    with activated.connect() as connection:
        assert "READY=1" in activated.manager.received_until("READY=1")
        assert "result" in ask(connection, "server.ping")
    activated.manager.received_until("WATCHDOG=1")
    activated.manager.received_until("WATCHDOG=1")
    assert activated.stop() == 0
    activated.manager.received_until("STOPPING=1")


def test_a_reload_begins_and_ends_for_the_manager(activated: Activated) -> None:
    with activated.connect():
        activated.manager.received_until("READY=1")
        activated.process.send_signal(signal.SIGHUP)
        activated.manager.received_until("RELOADING=1")
        activated.manager.received_until("READY=1")
    assert activated.stop() == 0
