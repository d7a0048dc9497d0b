"""The examples do what they say, run as a person would run them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from callstate_client.sync import Store, connect
from support.daemon import Daemon
from support.wire import Wire

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

QUICK = ["--set", "reaper.heartbeat_timeout_s=0.2", "--set", "reaper.grace_s=0.1", "--set", "reaper.tick_s=0.02"]


def test_a_killed_workers_call_goes_on_with_another(short_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "failover.py")],
        capture_output=True, text=True, timeout=60, check=False, env=os.environ | {"TMPDIR": str(short_dir)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"suspect +after [\d.]+ ms: worker_exited", done.stdout)
    assert re.search(r"claimed +after [\d.]+ ms by worker B, with 5 turns, at 'order'", done.stdout)
    assert "to 6 turns, and ended as 'completed'; 0 turns lost" in done.stdout
    assert not list(short_dir.iterdir()), "nothing is left behind"


class Supervisor:
    """One run of the supervisor."""

    def __init__(self, daemon: Daemon, cursor: Path) -> None:
        command = [sys.executable, str(EXAMPLES / "supervisor.py"), "--cursor", str(cursor), "--socket"]
        self._process = subprocess.Popen([*command, str(daemon.socket)], stdout=subprocess.PIPE, text=True)

    def until(self, line: str) -> list[str]:
        """What it says up to this line."""
        assert self._process.stdout is not None
        said: list[str] = []
        while line not in said:
            said.append(self._process.stdout.readline().strip())
            assert said[-1], f"it ended after {said}"
        return said

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon(*QUICK) as running:
        yield running


def lose(daemon: Daemon, session_id: str) -> None:
    """A call whose worker falls silent."""
    with Wire(daemon.socket) as wire:
        wire.call("session.save", session={"id": session_id, "call_id": f"CA-{session_id}", "status": "active"})


def test_a_supervisor_hangs_up_what_was_reaped_also_while_it_was_away(daemon: Daemon, tmp_path: Path) -> None:
    first = Supervisor(daemon, tmp_path / "cursor")
    first.until("watching")
    lose(daemon, "a")
    assert first.until("hung up CA-a") == ["hung up CA-a"]
    first.kill()
    lose(daemon, "b")
    second = Supervisor(daemon, tmp_path / "cursor")
    assert "hung up CA-b" in second.until("hung up CA-b")
    lose(daemon, "c")
    second.until("hung up CA-c")
    second.kill()


def test_a_supervisor_reconciles_after_a_gap(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "cursor").write_text('["a stream of another daemon", 7]')
    lose(daemon, "a")
    supervisor = Supervisor(daemon, tmp_path / "cursor")
    assert "reconciling" in supervisor.until("reconciling")
    supervisor.until("hung up CA-a")
    supervisor.kill()


class BlockingWorker:
    """One run of the worker with threads."""

    def __init__(self, daemon: Daemon) -> None:
        command = [
            sys.executable,
            str(EXAMPLES / "blocking_worker.py"),
            "--port",
            "0",
            "--socket",
            str(daemon.socket),
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), line + self.process.stdout.read()
        self.port = int(line.split()[-1])

    def end(self, number: signal.Signals) -> str:
        """Send a signal, and wait until it is gone; returns what it said."""
        self.process.send_signal(number)
        return self.process.communicate(timeout=30)[0]

    def __enter__(self) -> BlockingWorker:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGKILL)


class Call:
    """A caller of the worker with threads."""

    def __init__(self, worker: BlockingWorker) -> None:
        self._connection = socket.create_connection(("127.0.0.1", worker.port), 20)
        self._lines = self._connection.makefile("rw")
        self.say("call-1 +15550100 +15550199")

    def say(self, text: str) -> None:
        self._lines.write(f"{text}\n")
        self._lines.flush()

    def hear(self) -> str:
        """What the agent says; empty if it has hung up."""
        return self._lines.readline().strip()

    def hang_up(self) -> None:
        self._lines.close()
        self._connection.close()


@pytest.fixture
def store(daemon: Daemon) -> Iterator[Store]:
    with connect(daemon.socket) as connected:
        yield connected


def ended(store: Store) -> str | None:
    """Why the call has ended, once it has: its worker sees to that after the connection."""
    deadline = time.monotonic() + 20
    while (record := store.get("call-1")).state.is_active:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return record.ended_reason


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_order_goes_on_with_another_worker_of_threads(
    daemon: Daemon, store: Store, number: signal.Signals
) -> None:
    with BlockingWorker(daemon) as first:
        call = Call(first)
        assert call.hear() == "What would you like?"
        call.say("a pizza")
        assert call.hear() == "Anything else?"
        assert first.end(number) == ""
        assert call.hear() == ""
        call.hang_up()
    with BlockingWorker(daemon) as second:
        call = Call(second)
        assert call.hear() == "Sorry, we were cut off. Anything else?"
        call.say("a salad")
        assert call.hear() == "Anything else?"
        call.say("no")
        assert call.hear() == "So that is a pizza and a salad. Goodbye!"
        assert call.hear() == ""
        call.hang_up()
        assert ended(store) == "completed"
        assert second.end(signal.SIGTERM) == ""
        assert second.process.returncode == 0
    record = store.get("call-1")
    assert [turn.content for turn in record.state.history if turn.role == "user"] == ["a pizza", "a salad", "no"]
    assert record.turn_count == 8
    assert (record.state.from_, record.state.to) == ("+15550100", "+15550199")


def test_a_caller_who_hangs_up_on_a_worker_of_threads_ends_the_call(daemon: Daemon, store: Store) -> None:
    with BlockingWorker(daemon) as worker:
        call = Call(worker)
        assert call.hear() == "What would you like?"
        call.hang_up()
        assert ended(store) == "hung_up"
        assert worker.end(signal.SIGTERM) == ""
