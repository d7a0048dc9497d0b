"""What commands do where little is given: no room, no reader, no streams, no locale, no terminal, no home."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from callstate_client import SessionState, connect
from support.daemon import Daemon

Check = Callable[[list[str], str], None]

WITHIN_S = 30.0
CALL = "c"
WORDS = "Grüß Gott, 東京 🎉"

pytestmark = pytest.mark.system

PLAIN = {"PATH": os.environ["PATH"]}
SURROUNDINGS = {
    "nothing but PATH": PLAIN,
    "unbuffered": PLAIN | {"PYTHONUNBUFFERED": "1"},
    # as where Python can't find a UTF-8 locale to coerce C to
    "ASCII": PLAIN | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "dumb terminal": PLAIN | {"TERM": "dumb"},
    "home that can't be written": PLAIN | {"HOME": "/dev/null/home"},
}
surroundings = pytest.mark.parametrize("environ", SURROUNDINGS.values(), ids=SURROUNDINGS.keys())


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    with Daemon() as daemon:
        yield daemon


@pytest.fixture
def daemon(running: Daemon) -> Daemon:
    """A running daemon that holds one call."""
    save_one(running)
    return running


def save_one(daemon: Daemon) -> None:
    async def save() -> None:
        state = SessionState(CALL, status="active")
        state.add_turn("user", WORDS, 100)
        async with connect(daemon.socket, register=False) as store:
            await store.save(state)

    asyncio.run(save())


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state directory of a daemon that has stopped with one call."""
    with Daemon() as daemon:
        save_one(daemon)
        daemon.terminate()
        kept = tmp_path_factory.mktemp("stopped") / "state"
        daemon.state_dir.rename(kept)
        daemon.state_dir.mkdir()
    return kept


def callstate(daemon: Daemon, line: str) -> list[str]:
    return [sys.executable, "-m", "callstate_client.cli", "--socket", str(daemon.socket), *line.split()]


def callstated(line: str) -> list[str]:
    return [sys.executable, "-m", "callstate_sidecar", *line.split()]


COMMANDS = (
    "ping", "info", "info --json", "stats", "health", "latency --count 1", "config", "workers", "ls", "ls --json",
    "ls --watch", f"show {CALL}", f"end {CALL}", f"rm {CALL}",
    "drain --off", "tail --since nosuch:0", "simulate --calls 1 --rate 100 --speed 500 --turns 1",
    "--help", "ls --help", "--version",
)  # fmt: skip
DAEMON_COMMANDS = (
    "--help", "--version", "--check",
    "journal --help", "journal inspect {}", "journal verify {}", "journal export {}",
)  # fmt: skip


WAYS = ("full", "full, unbuffered", "closed", "nobody reads")
"""How output can't be written."""

IN_ALL_WAYS = ("ping", "ls", "ls --watch", "info --json", "--help", "journal export {}")
"""A command of each way to print: at once, as a table, on and on, as JSON, by argparse, line by line."""


def each_in_some_way(commands: Sequence[str]) -> pytest.MarkDecorator:
    """Every command with a full disk and without a reader; the other ways with a command of each kind."""
    pairs = [(line, way) for line in commands for way in WAYS if line in IN_ALL_WAYS or way in (WAYS[0], WAYS[3])]
    return pytest.mark.parametrize(("line", "check"), pairs, indirect=["check"])


class TestOutputThatCannotBeWritten:
    """Said once, by a line or a status; never a traceback, never status 120, never success."""

    @pytest.fixture(params=WAYS)
    def check(self, request: pytest.FixtureRequest) -> Check:
        def check(argv: list[str], name: str) -> None:
            environ = PLAIN | ({"PYTHONUNBUFFERED": "1"} if "unbuffered" in request.param else {})
            reading, nobody_reads = os.pipe()
            os.close(reading)
            expected = (1, f"{name}: [Errno 28] No space left on device\n")
            redirected = ">/dev/full"
            if request.param == "closed":
                expected, redirected = (1, f"{name}: [Errno 9] Bad file descriptor\n"), ">&-"
            elif request.param == "nobody reads":
                expected, redirected = (141, ""), ""
            try:
                done = subprocess.run(
                    ["sh", "-c", f'exec "$@" {redirected}', "sh", *argv], env=environ, stdout=nobody_reads,
                    stderr=subprocess.PIPE, text=True, timeout=WITHIN_S, check=False,
                )  # fmt: skip
            finally:
                os.close(nobody_reads)
            assert (done.returncode, done.stderr) == expected

        return check

    @each_in_some_way(COMMANDS)
    def test_callstate(self, daemon: Daemon, line: str, check: Check) -> None:
        check(callstate(daemon, line), "callstate")

    @each_in_some_way(DAEMON_COMMANDS)
    def test_callstated(self, stopped: Path, line: str, check: Check) -> None:
        check(callstated(line.format(stopped)), "callstated")

    def test_the_reference_file(self, check: Check) -> None:
        check([sys.executable, "-m", "callstate_sidecar.config.reference"], "configdoc")


class TestMessagesThatCannotBeWritten:
    @pytest.mark.parametrize("to", ["2>/dev/full", "2>&-", ">&- 2>&- <&-", ">/dev/full 2>&1"])
    @pytest.mark.parametrize(
        ("argv", "status"),
        [
            (["-m", "callstate_client.cli", "--socket", "/dev/null/s", "info"], 3),
            (["-m", "callstate_client.cli", "nosuch"], 2),
            (["-m", "callstate_sidecar", "--nosuch"], 2),
            (["-m", "callstate_sidecar", "journal", "verify", "/dev/null/nosuch"], 2),
            (["-m", "callstate_sidecar", "--socket", "/dev/null/s"], 1),
        ],
    )
    def test_the_status_is_that_of_the_failure(self, to: str, argv: list[str], status: int, tmp_path: Path) -> None:
        environ = PLAIN | {"HOME": str(tmp_path)}
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {to}', "sh", sys.executable, *argv],
            capture_output=True, text=True, env=environ, timeout=WITHIN_S, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


class TestSurroundings:
    @surroundings
    def test_callstate_prints_what_was_said(self, daemon: Daemon, environ: dict[str, str]) -> None:
        for line in (f"show {CALL}", f"show {CALL} --json", "ls", "info"):
            done = subprocess.run(
                callstate(daemon, line), capture_output=True, env=environ, timeout=WITHIN_S, check=False
            )
            assert (done.returncode, done.stderr) == (0, b""), line
            assert "show" not in line or WORDS.encode() in done.stdout, line

    @surroundings
    def test_callstate_prints_on_a_terminal(self, daemon: Daemon, environ: dict[str, str]) -> None:
        ours, theirs = pty.openpty()
        with subprocess.Popen(callstate(daemon, "ls"), env=environ, stdout=theirs, stderr=theirs) as process:
            os.close(theirs)
            seen = os.read(ours, 65536)
            assert process.wait(WITHIN_S) == 0
        os.close(ours)
        assert b"STATUS" in seen

    @surroundings
    def test_callstated_exports_what_was_said(self, stopped: Path, environ: dict[str, str]) -> None:
        done = subprocess.run(
            callstated(f"journal export {stopped}"), capture_output=True, env=environ, timeout=WITHIN_S, check=True
        )
        assert json.loads(done.stdout)["session"]["history"][0]["content"] == WORDS

    @surroundings
    def test_callstated_serves(self, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as bare:
            for name in os.environ:
                bare.delenv(name)
            for name, value in environ.items():
                bare.setenv(name, value)
            with Daemon() as daemon:
                daemon.restart()

    def test_callstated_serves_where_its_streams_are_closed(self) -> None:
        class Closed(Daemon):
            def command(self) -> list[str]:
                return ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *super().command()]

        with Closed() as daemon:
            assert daemon.process is not None
            targets = [str(Path(f"/proc/{daemon.process.pid}/fd/{fd}").readlink()) for fd in range(3)]
            assert targets == ["/dev/null"] * 3, "a file of the daemon's would be written to by whoever prints"
            assert daemon.terminate() == 0

    def test_callstated_stops_normally_although_its_log_has_no_room(self) -> None:
        class Full(Daemon):
            def command(self) -> list[str]:
                return ["sh", "-c", 'exec "$@" >/dev/full 2>&1', "sh", *super().command()]

        with Full() as daemon:
            assert daemon.terminate() == 0

    def test_a_home_that_cannot_be_written_is_named_with_a_way_out(self) -> None:
        done = subprocess.run(
            callstated(""), capture_output=True, text=True, env=SURROUNDINGS["home that can't be written"],
            timeout=WITHIN_S, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "/dev/null/home/.local/state/callstate" in done.stderr
        assert "--state-dir" in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
    def test_a_user_without_a_home_gets_an_error_that_names_the_option(self) -> None:
        code = (
            "import os, sys; from callstate_sidecar import launch\n"
            "os.setuid(54321); sys.exit(launch.main(['--check']))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=PLAIN, timeout=WITHIN_S, check=False
        )
        assert done.returncode == 2, done.stderr
        assert "server.state_dir" in done.stderr
        assert "--state-dir" in done.stderr
