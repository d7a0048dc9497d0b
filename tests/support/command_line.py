"""`callstate` as a process, on a terminal or not, beside a daemon with some calls."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from callstate_client import CallStore, SessionState, connect
from support.daemon import Daemon

T = TypeVar("T")

WITHIN_S = 20.0
TERMINAL = {"PATH": os.environ["PATH"], "TERM": "xterm-256color"}


def using(daemon: Daemon, work: Callable[[CallStore], Awaitable[T]]) -> T:
    """What `work` gives for a store connected to the daemon."""

    async def run() -> T:
        async with connect(daemon.socket, register=False) as store:
            return await work(store)

    return asyncio.run(run())


def command(daemon: Daemon, line: str) -> list[str]:
    """The same command as a process of its own."""
    return [sys.executable, "-m", "callstate_client.cli", "--socket", str(daemon.socket), *line.split()]


def wait_until(daemon: Daemon, condition: Callable[[dict], bool]) -> None:
    """Return when the daemon's stats meet the condition."""

    async def look(store: CallStore) -> None:
        deadline = time.monotonic() + WITHIN_S
        while not condition(await store.stats()):
            assert time.monotonic() < deadline, await store.stats()

    using(daemon, look)


def requests(stats: dict, verb: str) -> int:
    return stats["requests"].get(verb, 0)


def on_a_terminal(
    argv: list[str], stream: str, environ: dict[str, str], look: Callable[[bytes], None] = lambda _: None
) -> tuple[bytes, bytes]:
    """What a command wrote to the stream that was a terminal, and to its other, a pipe; `look` sees it grow."""
    ours, theirs = pty.openpty()
    other = {"stdout": "stderr", "stderr": "stdout"}[stream]
    streams: dict[str, Any] = {stream: theirs, other: subprocess.PIPE}
    seen = b""
    with subprocess.Popen(argv, env=environ, **streams) as process:
        os.close(theirs)
        with contextlib.suppress(OSError):  # EIO: nobody has the other side open any more
            while chunk := os.read(ours, 65536):
                seen += chunk
                look(seen)
        os.close(ours)
        piped = getattr(process, other).read()
    assert process.returncode == 0, piped
    return seen, piped


def save_three(daemon: Daemon) -> None:
    """a: active, 30 turns; b: on hold; c: ended."""

    async def save(store: CallStore) -> None:
        first = SessionState(
            "a", provider="twilio", direction="inbound", from_="+442079460123", to="+15550100", status="active"
        )
        first.call_id = "CA1"
        first.extra["tenant"] = {"name": "north", "depth": [1, 2.5, None]}
        for number in range(30):
            first.add_turn("user", f"words {number}", 100, extra={"mood": "fine"})
        await store.save(first, labels={"app": "sales", "team": "x"})
        await store.save(SessionState("b", provider="sip", status="on_hold"), labels={"app": "sales"})
        await store.save(SessionState("c", provider="sip", status="active"))
        await store.end("c", "caller_hangup")

    using(daemon, save)


def ids(out: str) -> list[str]:
    return sorted(each["session"]["id"] for each in json.loads(out))


class Running:
    """A command as a process; `line()` gives its next line."""

    def __init__(self, daemon: Daemon, line: str) -> None:
        self.process = subprocess.Popen(command(daemon, line), stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def line(self) -> str:
        return self.process.stdout.readline().decode()

    def interrupt(self) -> tuple[int, bytes]:
        """Ctrl-C; gives exit code and stderr."""
        self.process.send_signal(signal.SIGINT)
        self.out, err = self.process.communicate(timeout=WITHIN_S)
        return self.process.returncode, err

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:
            if self.process.poll() is None:
                self.process.kill()


class OnTerminal:
    """A command whose streams are a terminal of this size, as a person starts it."""

    def __init__(self, daemon: Daemon, line: str, columns: int = 80, lines: int = 24) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.seen = b""
        self.process = subprocess.Popen(
            command(daemon, line), env=TERMINAL, stdin=theirs, stdout=theirs, stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - a thread holds no lock of it
        )  # fmt: skip
        os.close(theirs)

    def until(self, text: bytes) -> bytes:
        """Read until this has been written after what was read before; gives all of that."""
        begin = len(self.seen)
        while text not in self.seen[begin:]:
            self.seen += os.read(self._ours, 65536)
        return self.seen[begin:]

    def ctrl_c(self) -> None:
        """Typed, so that the terminal sends the signal."""
        os.write(self._ours, b"\x03")

    def rest(self) -> bytes:
        """All that is written until it ends."""
        begin = len(self.seen)
        with contextlib.suppress(OSError):  # EIO: nobody has the other side open any more
            while chunk := os.read(self._ours, 65536):
                self.seen += chunk
        return self.seen[begin:]

    def __enter__(self) -> OnTerminal:
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:
            if self.process.poll() is None:
                self.process.kill()
        os.close(self._ours)
