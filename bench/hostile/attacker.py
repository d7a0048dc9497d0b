"""What attackers are made of: connections that send what they like, and may or may not read.

An attacker is a process of its own; under root it becomes another user, so that what is counted by user is counted
apart from its victim.
"""

from __future__ import annotations

import json
import os
import re
import resource
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

NOBODY: Final = 65534
KIND: Final = re.compile(rb'"kind":"(\w+)"')
READ_BYTES: Final = 1 << 20
RETRY_S: Final = 0.005

Attack = Callable[["Attacker"], None]


def request(method: str, params: str = "{}") -> bytes:
    """A request line, with params as JSON."""
    return f'{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}\n'.encode()


class Attacker:
    """One attack under way.

    Args:
        path: the daemon's socket.
        seconds: how long it goes on.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self._path = str(path)
        self._until = time.monotonic() + seconds
        self.outcome: Counter[str] = Counter()
        """How often requests were done, refused as what, cut off …"""

    @property
    def goes_on(self) -> bool:
        """Whether there is time left."""
        return time.monotonic() < self._until

    def connect(self) -> socket.socket | None:
        """A connection; None if there can't be one."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(1.0)
        while self.goes_on:
            try:
                connection.connect(self._path)
            except BlockingIOError:  # the backlog is full
                self.outcome["backlog full"] += 1
                time.sleep(RETRY_S)
            except OSError as error:
                self.outcome[f"connect: {error.strerror}"] += 1
                break
            else:
                return connection
        connection.close()
        return None

    def many(self, count: int) -> list[socket.socket]:
        """So many connections, as far as the system and the daemon allow."""
        found: list[socket.socket] = []
        for _ in range(count):
            try:
                connection = self.connect()
            except OSError as error:  # no more descriptors of its own
                self.outcome[f"own: {error.strerror}"] += 1
                break
            if connection is None:
                break
            found.append(connection)
        return found

    def send(self, connection: socket.socket, data: bytes) -> bool:
        """Send; whether all of it was taken."""
        try:
            connection.settimeout(max(0.001, self._until - time.monotonic()))
            connection.sendall(data)
        except TimeoutError:
            self.outcome["not read from"] += 1
            return False
        except OSError:
            self.outcome["cut off"] += 1
            return False
        return True

    def ask(self, connection: socket.socket, data: bytes, replies: int = 1) -> bool:
        """Send requests and read their replies; False once that is over."""
        if not self.send(connection, data):
            return False
        tail = b""
        while replies > 0:
            try:
                connection.settimeout(max(0.001, self._until - time.monotonic()))
                chunk = connection.recv(READ_BYTES)
            except OSError:
                return False
            if not chunk:
                self.outcome["cut off"] += 1
                return False
            *lines, tail = (tail + chunk).split(b"\n")
            for line in lines:
                self.note(line)
            replies -= len(lines)
        return True

    def note(self, line: bytes) -> None:
        """Count a reply."""
        if b'"method":"event"' in line[:60]:
            return
        found = KIND.search(line[:2000]) if b'"error"' in line[:100] else None
        self.outcome[found[1].decode() if found else "done"] += 1

    def repeat(self, lines: Callable[[], Iterable[bytes]], connections: int = 1) -> None:
        """Send these lines over and over, and read each reply."""
        opened = self.many(connections)
        while self.goes_on and opened:
            for line in lines():
                for connection in [*opened]:
                    if not self.ask(connection, line, line.count(b"\n")):
                        opened.remove(connection)
                if not self.goes_on or not opened:
                    return

    def flood(self, data: bytes, connections: int) -> None:
        """Register as many workers, and have all of them send this over and over; what comes back is counted."""
        unsent: dict[int, tuple[socket.socket, bytes]] = {}
        poll = select.poll()
        for number, connection in enumerate(self.many(connections)):
            worker = request("worker.register", f'{{"worker_id":"flood-{number}"}}')
            connection.setblocking(False)
            unsent[connection.fileno()] = connection, worker + data
            poll.register(connection, select.POLLIN | select.POLLOUT)
        while self.goes_on and unsent:
            for fd, ready in poll.poll(100):
                connection, rest = unsent[fd]
                try:
                    if ready & ~select.POLLOUT:
                        self._drain(connection)
                    if ready & select.POLLOUT:
                        unsent[fd] = connection, rest[connection.send(rest) :] or data
                except BlockingIOError:
                    pass
                except OSError:
                    self.outcome["cut off"] += 1
                    poll.unregister(fd)
                    del unsent[fd]

    def _drain(self, connection: socket.socket) -> None:
        chunk = connection.recv(READ_BYTES)
        if not chunk:
            raise ConnectionResetError
        self.outcome["done"] += chunk.count(b"\n")

    def deaf(self, data: bytes, connections: int) -> list[socket.socket]:
        """Connections that send this, and read nothing."""
        opened = self.many(connections)
        for connection in opened:
            connection.setblocking(False)
            try:
                connection.sendall(data)
            except BlockingIOError:
                self.outcome["not read from"] += 1
            except OSError:
                self.outcome["cut off"] += 1
        return opened

    def wait(self, connections: Iterable[socket.socket] = ()) -> None:
        """Go on for the rest of the time, and see which connections are closed at the other end."""
        poll = select.poll()
        for connection in connections:
            poll.register(connection, select.POLLHUP | select.POLLERR)
        while (left := self._until - time.monotonic()) > 0:
            for fd, _ in poll.poll(min(left, 0.2) * 1000):
                poll.unregister(fd)
                self.outcome["cut off"] += 1
        self.outcome["held"] += 1


def launch(attack: Attack, path: Path, seconds: float, same_user: bool) -> tuple[int, int]:
    """Fork an attacker; returns its pid, and a pipe on which it reports its outcome when it is over."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid:
        os.close(theirs)
        return pid, ours
    try:
        os.close(ours)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
        if os.geteuid() == 0 and not same_user:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        attacker = Attacker(path, seconds)
        attack(attacker)
        os.write(theirs, json.dumps(attacker.outcome).encode())
    except BaseException as error:  # noqa: BLE001 - of a fork: it must not go on as its parent
        os.write(theirs, json.dumps({f"failed: {error!r}"[:200]: 1}).encode())
    finally:
        sys.stderr.flush()
        os._exit(0)
