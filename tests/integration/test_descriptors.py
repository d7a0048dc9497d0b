"""A daemon that may open few files: connections are bounded, so that journal and store always find descriptors."""

from __future__ import annotations

import contextlib
import signal
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from callstate_client.cli.app import run
from support.daemon import Daemon
from support.redis_topologies import until
from support.wire import Refused, Wire

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc"),
]

FILES = 112
"""The hard limit; the soft one is half of it."""

FIT = 32
"""(112 - 48) / 2"""


class FewFiles(Daemon):
    """A daemon with a low limit on open files."""

    def command(self) -> list[str]:
        return ["sh", "-c", f'ulimit -Sn {FILES // 2}; ulimit -Hn {FILES}; exec "$@"', "sh", *super().command()]


def fill(daemon: Daemon, stack: ExitStack) -> list[Wire]:
    """Connect as many workers as get in."""
    workers: list[Wire] = []
    with contextlib.suppress(Refused):
        while len(workers) < FILES:
            wire = stack.enter_context(Wire(daemon.socket))
            wire.call("worker.register", worker_id=f"w{len(workers)}")
            workers.append(wire)
    return workers


def open_files(daemon: Daemon) -> int:
    assert daemon.process is not None
    return len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir()))


@pytest.mark.parametrize("durability", ["process", "power"])
def test_the_journal_goes_on_while_all_connections_are_taken(durability: str) -> None:
    checkpoints = ("--set", "journal.checkpoint_min_bytes=4096", "--set", "journal.sync_interval_s=0.05")
    settings = (*checkpoints, "--durability", durability)
    with FewFiles(*settings) as daemon, ExitStack() as stack:
        workers = fill(daemon, stack)
        assert len(workers) == FIT
        acknowledged: dict[str, int] = {}
        content = "x" * 100_000
        for number in range(400):  # 40 MB: log segments and checkpoints
            wire = workers[number % FIT]
            session_id = f"c{number % FIT}"
            if number < FIT:
                wire.call("session.save", session={"id": session_id})
            result = wire.call("session.add_turn", session_id=session_id, turn={"content": content})
            acknowledged[session_id] = result["turn_count"]
            if number % 10 == 0:  # a burst of clients that are refused
                burst = [socket.socket(socket.AF_UNIX) for _ in range(100)]
                for each in burst:
                    each.connect(str(daemon.socket))
                for each in burst:
                    each.close()
        until(lambda: workers[0].call("server.stats").get("checkpoints"))
        stats = workers[0].call("server.stats")
        assert (stats["journal"], stats["store"], stats["connections_limit"]) == ("ok", "up", FIT)
        assert "checkpoints_failed" not in stats
        assert "groups_not_durable" not in stats
        assert open_files(daemon) < FILES
        assert "accept_failed" not in daemon.log()
        daemon.kill()
        daemon.start()
        with Wire(daemon.socket) as wire:
            for session_id, turns in acknowledged.items():
                assert wire.call("session.load", session_id=session_id, history="none")["turn_count"] == turns


def test_operators_are_answered_while_all_connections_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with FewFiles() as daemon, ExitStack() as stack:
        fill(daemon, stack)
        for command in ("stats", "doctor", "health"):
            assert run(["--socket", str(daemon.socket), command]) == 0
        assert f"limits.connections is 1000, but the limit on open files allows only {FIT}" in daemon.log()


def test_a_burst_of_clients_is_told_why_and_by_the_daemon_itself() -> None:
    """Also those that waited in the backlog while the daemon was stopped; none is closed without a word."""
    with FewFiles() as daemon, ExitStack() as stack:
        fill(daemon, stack)
        daemon.signal(signal.SIGSTOP)
        burst = [stack.enter_context(Wire(daemon.socket)) for _ in range(300)]
        daemon.signal(signal.SIGCONT)
        assert all(wire.reply()["error"]["data"]["kind"] == "overloaded" for wire in burst)
        assert open_files(daemon) < FILES
