"""The examples do what they say, run as a person would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
