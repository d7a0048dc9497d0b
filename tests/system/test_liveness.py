"""Real workers of a real daemon, killed, stopped and continued; so is the daemon. Every wait is for an event."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.daemon import Daemon

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="pidfds")]

WITHIN_S = 20.0
BEAT_S = 0.1
TIMEOUT_S = 1.0
TICK_S = 0.05

WORKER = """
import json, os, socket, sys, time
path, worker_id, session_id, beat_s, fork = sys.argv[1:]
ids = 0
def connect():
    line = socket.socket(socket.AF_UNIX)
    line.connect(path)
    return line, line.makefile("rb")
def ask(method, **params):
    global ids
    ids += 1
    line.sendall(json.dumps({"jsonrpc": "2.0", "id": ids, "method": method, "params": params}).encode() + b"\\n")
    reply = replies.readline()
    if not reply:
        raise ConnectionResetError
    return json.loads(reply)
line, replies = connect()
ask("worker.register", worker_id=worker_id)
ask("session.save", session={"id": session_id, "status": "active"})
if fork:
    child = os.fork()  # it has the connection, and says nothing
    if not child:
        sys.stdin.read()
        os._exit(0)
    print(child)
print("ready", flush=True)
while True:
    try:
        ask("session.heartbeat", session_id=session_id)
    except OSError:
        while True:
            try:
                line, replies = connect()
                ask("worker.register", worker_id=worker_id)
                break
            except OSError:
                time.sleep(0.01)
    time.sleep(float(beat_s))
"""


class Worker:
    """A process with one call, which it beats for; it comes back when the daemon does."""

    def __init__(self, daemon: Daemon, session_id: str, fork: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(daemon.socket), f"of-{session_id}", session_id, str(BEAT_S), fork],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.child = int(self.line()) if fork else 0
        self.begun = self.line() == "ready"

    def line(self) -> str:
        """What it says next."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and return when the process is gone."""
        self.process.kill()
        self.process.wait(WITHIN_S)

    def close(self) -> None:
        """End it, and a child of it."""
        if self.child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child, signal.SIGKILL)
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Watcher:
    """Somebody who listens to all events, and may ask."""

    def __init__(self, daemon: Daemon) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(WITHIN_S)
        self.socket.connect(str(daemon.socket))
        self.file = self.socket.makefile("rb")
        self.seen: list[dict[str, Any]] = []
        self.unread: list[dict[str, Any]] = []
        self.ask("events.subscribe")

    def read(self) -> dict[str, Any]:
        """The next message; events are noted."""
        line = self.file.readline()
        assert line, "hung up on"
        message: dict[str, Any] = json.loads(line)
        if message.get("method") == "event":
            self.seen.append(message["params"])
            self.unread.append(message["params"])
        return message

    def ask(self, method: str, **params: Any) -> Any:
        """The result of a request."""
        self.socket.sendall(
            json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n"
        )
        while "id" not in (message := self.read()):
            pass
        return message["result"]

    def until(self, type_: str, session_id: str | None = None) -> dict[str, Any]:
        """The next event of this type (and session); what comes before it is passed over."""
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline:
            while self.unread:
                event = self.unread.pop(0)
                if event["type"] == type_ and session_id in (None, event.get("session_id")):
                    return event
            self.read()
        raise AssertionError(f"no {type_} of {session_id}; {self.seen}")

    def until_so(self, what: Callable[[], bool]) -> None:
        """Return when this is so, asked of the daemon again and again: no event tells of it."""
        deadline = time.monotonic() + WITHIN_S
        while not what():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def held(self, session_id: str) -> tuple[str, str, bool]:
        """Owner, status, and whether nothing was heard of it since a restart."""
        page = self.ask("session.list")
        one = next(each for each in page["sessions"] if each["session"]["id"] == session_id)
        return one.get("owner", ""), one["session"]["status"], one.get("restored", False)

    def close(self) -> None:
        """Hang up."""
        self.file.close()
        self.socket.close()


class LivenessSetup:
    """A daemon, its workers and who watches."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.ends = contextlib.ExitStack()
        self.watcher = self.watch()

    def watch(self) -> Watcher:
        self.watcher = Watcher(self.daemon)
        self.ends.callback(self.watcher.close)
        return self.watcher

    def worker(self, session_id: str, fork: str = "") -> Worker:
        worker = Worker(self.daemon, session_id, fork)
        self.ends.callback(worker.close)
        assert worker.begun
        return worker


@pytest.fixture
def setup() -> Iterator[LivenessSetup]:
    keys = {
        "heartbeat_timeout_s": TIMEOUT_S, "grace_s": 60.0, "reconnect_grace_s": 60.0, "tick_s": TICK_S,
    }  # fmt: skip
    settings = [part for key, value in keys.items() for part in ("--set", f"reaper.{key}={value}")]
    with Daemon(*settings) as daemon:
        setup = LivenessSetup(daemon)
        yield setup
        setup.ends.close()


def test_a_killed_worker_is_known_at_once_and_its_call_goes_on_elsewhere(setup: LivenessSetup) -> None:
    worker = setup.worker("a")
    assert setup.watcher.ask("server.info")["liveness"] == "process"
    began = time.monotonic()
    worker.kill()
    left, suspect = setup.watcher.until("worker.left"), setup.watcher.until("suspect")
    took_s = time.monotonic() - began
    assert (left["worker_id"], left["reason"]) == ("of-a", "exited")
    assert (suspect["session_id"], suspect["reason"], suspect["evidence"]) == (
        "a",
        "worker_exited",
        "process_exited",
    )
    assert took_s < TIMEOUT_S / 2, "not by silence"
    claimed = setup.watcher.ask("session.claim", session_id="a", worker_id="next")
    assert (claimed["epoch"], claimed["owner"]) == (1, "next")
    assert setup.watcher.until("claimed")["reason"] == "worker_exited"


def test_a_worker_that_hangs_is_suspected_by_silence_and_recovers(setup: LivenessSetup) -> None:
    worker = setup.worker("a")
    worker.signal(signal.SIGSTOP)
    suspect = setup.watcher.until("suspect")
    assert (suspect["reason"], suspect["evidence"], suspect["owner"]) == ("heartbeat_timeout", "silence", "of-a")
    worker.signal(signal.SIGCONT)
    assert setup.watcher.until("recovered")["session_id"] == "a"
    assert setup.watcher.held("a") == ("of-a", "active", False)
    assert not [event for event in setup.watcher.seen if event["type"] == "worker.left"]


def test_a_worker_killed_while_it_hung_is_known_as_dead(setup: LivenessSetup) -> None:
    worker = setup.worker("a")
    worker.signal(signal.SIGSTOP)
    setup.watcher.until("suspect")
    worker.kill()
    assert setup.watcher.until("worker.left")["reason"] == "exited"
    again = setup.watcher.ask("session.claim", session_id="a", worker_id="of-a")
    assert again["epoch"] == 1, "a new process of the same name"


def test_no_worker_is_suspected_for_the_time_the_daemon_was_suspended(setup: LivenessSetup) -> None:
    """Stopped for twice the timeout: beats sent meanwhile are read first, and the silent have their time again."""
    setup.worker("beats")
    setup.watcher.ask(
        "session.save", session={"id": "silent", "status": "active"}, heartbeat_timeout_s=3 * TIMEOUT_S
    )
    setup.daemon.signal(signal.SIGSTOP)
    # nothing can be waited for while nobody answers but time itself
    time.sleep(4 * TIMEOUT_S)
    setup.daemon.signal(signal.SIGCONT)
    setup.watcher.until_so(lambda: setup.watcher.ask("server.stats")["stalled_s"] > 3 * TIMEOUT_S)
    assert setup.watcher.ask("server.stats")["suspects"] == 0
    assert not [event for event in setup.watcher.seen if event["type"] in ("suspect", "worker.left", "expired")]
    assert setup.watcher.until("suspect")["session_id"] == "silent", "from now on it counts again"


def test_a_worker_that_died_while_the_daemon_was_down_is_suspected_at_startup(setup: LivenessSetup) -> None:
    dead, living = setup.worker("dead"), setup.worker("living")
    setup.daemon.kill()
    dead.kill()
    living.signal(signal.SIGSTOP)  # so that it says nothing before it was looked at
    setup.daemon.start()
    watcher = setup.watch()
    assert watcher.held("living") == ("of-living", "active", True)
    events = _since_start(setup)
    suspects = [(event["session_id"], event["reason"]) for event in events if event["type"] == "suspect"]
    assert suspects[:1] == [("dead", "worker_exited")]
    living.signal(signal.SIGCONT)
    watcher.until_so(lambda: watcher.held("living") == ("of-living", "active", False))


def _since_start(setup: LivenessSetup) -> list[dict[str, Any]]:
    """All events that this daemon has told."""
    stream = setup.watcher.ask("events.subscribe")["stream"]
    setup.watcher.unread.clear()
    setup.watcher.ask("events.subscribe", since={"stream": stream, "seq": 0})
    setup.watcher.ask("server.ping")
    return setup.watcher.unread


def test_a_worker_that_survived_while_the_daemon_was_down_keeps_its_call(setup: LivenessSetup) -> None:
    setup.worker("a")
    setup.daemon.kill()
    setup.daemon.start()
    watcher = setup.watch()
    watcher.until_so(lambda: watcher.held("a") == ("of-a", "active", False))
    claim = {"session_id": "a", "worker_id": "thief"}
    watcher.socket.sendall(
        json.dumps({"jsonrpc": "2.0", "id": 1, "method": "session.claim", "params": claim}).encode() + b"\n"
    )
    while "id" not in (reply := watcher.read()):
        pass
    assert reply["error"]["data"]["owner"] == "of-a"
    assert not [event for event in _since_start(setup) if event["type"] in ("suspect", "orphaned", "worker.left")]


def test_a_restored_worker_that_dies_later_is_known_at_once(setup: LivenessSetup) -> None:
    """By its pidfd, opened anew: it has not come back to the new daemon yet."""
    worker = setup.worker("a")
    worker.signal(signal.SIGSTOP)
    setup.daemon.kill()
    setup.daemon.start()
    watcher = setup.watch()
    worker.kill()
    suspect = watcher.until("suspect")
    assert (suspect["reason"], suspect["evidence"]) == ("worker_exited", "process_exited")


def test_a_child_that_holds_the_connection_keeps_its_parent_from_being_missed_only_until_it_is_silent(
    setup: LivenessSetup,
) -> None:
    worker = setup.worker("a", fork="fork")
    worker.kill()
    suspect = setup.watcher.until("suspect")
    assert (suspect["reason"], suspect["evidence"]) == ("heartbeat_timeout", "silence")
    os.kill(worker.child, signal.SIGKILL)
    assert setup.watcher.until("worker.left")["reason"] == "exited"
    again = setup.watcher.ask("session.claim", session_id="a", worker_id="of-a")
    assert again["epoch"] == 1
