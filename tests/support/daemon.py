"""A real daemon for tests, in a process and on paths of its own."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from support.privacy import check_output

PING = b'{"jsonrpc":"2.0","id":1,"method":"server.ping"}\n'
STARTED_WITHIN_S = 20.0
STOPPED_WITHIN_S = 20.0
LOOK_EVERY_S = 0.01
TROUBLE = re.compile(r"^.*(?:\bERROR\b|\bCRITICAL\b|Traceback|Task exception was never).*$", re.MULTILINE)


class Daemon:
    """A callstated that keeps its paths over restarts.

    Args:
        args: further arguments, such as `--set`, `reaper.grace_s=1`.
        store: the `--store` URL; None leaves the default, SQLite in the state directory.

    The log goes to a file; `close()` asserts that it has no error and no traceback in it, and nothing private.
    """

    def __init__(self, *args: str, store: str | None = None) -> None:
        # not pytest's tmp_path: a Unix socket's path has 107 bytes at most
        self.root = Path(tempfile.mkdtemp(prefix="cs-"))
        self.socket = self.root / "s"
        self.state_dir = self.root / "state"
        self.log_path = self.root / "log"
        self.args = list(args)
        self.store = store
        self.process: subprocess.Popen[bytes] | None = None

    # -- starting ---------------------------------------------------------------------------------------------

    def command(self) -> list[str]:
        """The command line."""
        store = [] if self.store is None else ["--store", self.store]
        paths = ["--socket", str(self.socket), "--state-dir", str(self.state_dir)]
        return [sys.executable, "-m", "callstate_sidecar", *paths, *store, *self.args]

    def launch(self) -> None:
        """Start the process without waiting until it serves."""
        assert self.process is None or self.process.poll() is not None, "it is already running"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("CALLSTATE_")}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ
            )

    def start(self) -> Daemon:
        """Start the process and return when it has answered a ping."""
        self.launch()
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Return when it has answered a ping."""
        assert self.process is not None
        deadline = time.monotonic() + STARTED_WITHIN_S
        while not self.answers():
            assert self.process.poll() is None, f"it exited with {self.process.returncode}:\n{self.log()}"
            assert time.monotonic() < deadline, f"no ping was answered:\n{self.log()}"
            time.sleep(LOOK_EVERY_S)  # there is no event for the appearance of a socket

    def answers(self) -> bool:
        """Whether it answers a ping now."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(STARTED_WITHIN_S)
            try:
                connection.connect(str(self.socket))
                connection.sendall(PING)
                return b'"result"' in connection.recv(4096)
            except OSError:
                return False

    # -- stopping ---------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """kill -9, and return when the process is gone."""
        self.end_with(signal.SIGKILL)

    def terminate(self) -> int:
        """SIGTERM, and return the exit status."""
        return self.end_with(signal.SIGTERM)

    def end_with(self, number: signal.Signals) -> int:
        """Send a signal and return the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"it did not leave:\n{self.log()}") from error

    def restart(self) -> None:
        """SIGTERM, and start again; asserts a clean exit."""
        assert self.terminate() == 0, self.log()
        self.start()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, such as SIGSTOP."""
        assert self.process is not None
        self.process.send_signal(number)

    async def in_thread(self, name: str) -> None:
        """Run one of the methods above (`start`, `kill`, `restart` …) in a thread."""
        await asyncio.to_thread(getattr(self, name))

    def log(self) -> str:
        """What it has logged so far."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    def outputs(self) -> list[Path]:
        """The files with all that it has printed."""
        return [self.log_path]

    def close(self, *, expect: str = "") -> None:
        """Stop it and remove its files.

        Args:
            expect: a regular expression for error lines that the log may have.
        """
        try:
            if self.process is not None and self.process.poll() is None:
                self.process.send_signal(signal.SIGCONT)  # a stopped process would not get SIGTERM
                self.terminate()
            trouble = [line for line in TROUBLE.findall(self.log()) if not (expect and re.search(expect, line))]
            assert not trouble, self.log()
            check_output(self.socket, self.state_dir, self.outputs())
        finally:
            if self.process is not None and self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> Daemon:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()
