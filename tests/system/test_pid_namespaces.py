"""A daemon in a PID namespace of its own, as in a container: its workers have no pid there, and are watched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemon import Daemon
from support.wire import Wire

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")]

UNSHARE = ["unshare", "--pid", "--fork", "--kill-child", "--"]
LINUX_WITH_INODES = (6, 9)

WORKER = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.sendall(sys.stdin.buffer.readline())
sys.stdout.buffer.write(sock.recv(65536))
sys.stdout.buffer.flush()
sys.stdin.read()
"""
"""Says its one line, tells what the daemon answered, and stays."""


class Contained(Daemon):
    """A daemon that is process 1 of its namespace."""

    def command(self) -> list[str]:
        """What is run."""
        return [*UNSHARE, *super().command()]

    def end_with(self, number: signal.Signals) -> int:
        """To the daemon: `unshare` waits for it, and leaves with its status."""
        assert self.process is not None
        pid = self.process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(child), number)
        return self.process.wait(20)


@pytest.fixture(scope="module")
def contained() -> Iterator[Daemon]:
    if tuple(map(int, os.uname().release.split("-")[0].split(".")[:2])) < LINUX_WITH_INODES:
        pytest.skip("pidfds have inodes of their own since Linux 6.9")
    try:
        subprocess.run([*UNSHARE, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a PID namespace can't be made here: {error}")
    with Contained("--set", "reaper.reconnect_grace_s=3600") as daemon:
        yield daemon


class Worker:
    """A process outside of the daemon's namespace, registered as `w1`."""

    def __init__(self, daemon: Daemon) -> None:
        command = [sys.executable, "-S", "-c", WORKER, str(daemon.socket)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        register = b'{"jsonrpc":"2.0","id":1,"method":"worker.register","params":{"worker_id":"w1"}}'
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(register + b"\n")
        self.process.stdin.flush()
        self.answer = self.process.stdout.readline()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_two_processes_with_one_id_are_distinguished_and_a_death_is_noticed(contained: Daemon) -> None:
    first = Worker(contained)
    try:
        assert b'"result"' in first.answer
        second = Worker(contained)
        second.kill()
        assert b'"conflict"' in second.answer, "the first lives"
        with Wire(contained.socket) as wire:
            stats = wire.call("server.stats")
            assert (stats["workers"], stats["workers_unwatched"]) == (1, 0)
            wire.call("session.save", session={"id": "c1"})
            wire.call("session.claim", session_id="c1", worker_id="w1")
            wire.call("events.subscribe", types=["worker.left", "suspect"])
            first.kill()
            told = [json.loads(wire.line())["params"] for _ in range(2)]
            assert [(event["type"], event["reason"]) for event in told] == [
                ("worker.left", "exited"),
                ("suspect", "worker_exited"),
            ]
        third = Worker(contained)
        third.kill()
        assert b'"result"' in third.answer, "the first is dead"
    finally:
        first.kill()
