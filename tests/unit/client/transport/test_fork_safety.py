"""Forks: real ones. A child has nothing of its parent's connections, however far they have got."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from callstate_client.transport import fork_safety
from support.blocking_peer import WITHIN_S, Peer, Side

IS_LINUX = sys.platform == "linux"


@pytest.fixture
def peer(short_dir: Path) -> Iterator[Peer]:
    peer = Peer(short_dir / "s")
    yield peer
    peer.stop()


def is_dev_null(fd: int) -> bool:
    return os.path.samestat(os.fstat(fd), Path(os.devnull).stat())


def in_child(check: Callable[[], bool]) -> bool:
    """What a forked child says."""
    child = os.fork()
    if not child:
        status = 1
        try:
            status = 0 if check() else 1
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


# -- descriptors --------------------------------------------------------------------------------------------------


def test_a_child_has_dev_null_in_the_place_of_a_socket(peer: Peer) -> None:
    made, others = fork_safety.connected(str(peer.path)), os.pipe()
    made.setblocking(True)
    side = peer.accept()
    fd = made.fileno()

    def check() -> bool:
        is_null = is_dev_null(fd)
        made.close()  # whatever the child still has of it closes nobody else's
        os.fstat(others[0])
        return is_null

    assert in_child(check)
    side.send(b"still here")
    assert made.recv(100) == b"still here"
    made.close()
    for fd in others:
        os.close(fd)


def test_a_child_leaves_alone_what_took_the_number_of_a_closed_socket() -> None:
    made = fork_safety.unix_socket()
    fd = made.fileno()
    made.close()
    reading, writing = os.pipe()
    assert fd in (reading, writing)
    assert in_child(lambda: not is_dev_null(fd))
    os.close(reading)
    os.close(writing)


def test_a_child_without_dev_null_has_no_socket_either(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    made = fork_safety.connected(str(peer.path))
    fd = made.fileno()
    monkeypatch.setattr(os, "devnull", "/no/such/device")

    def check() -> bool:
        with pytest.raises(OSError):  # noqa: PT011 - EBADF
            os.fstat(fd)
        return True

    assert in_child(check)
    made.close()


def test_a_grandchild_too(peer: Peer) -> None:
    made = fork_safety.connected(str(peer.path))
    side = peer.accept()

    def let_go() -> bool:
        return is_dev_null(made.fileno())

    assert in_child(lambda: let_go() and in_child(let_go))
    made.close()
    assert side.line() == b""


def test_collected_objects_are_not_notified_of_a_fork() -> None:
    told: list[str] = []

    class Watching:
        def __init__(self, name: str) -> None:
            self.name = name

        def forked(self) -> None:
            told.append(self.name)

    kept, dropped = Watching("kept"), Watching("dropped")
    fork_safety.watch(kept)
    fork_safety.watch(dropped)
    del dropped
    assert in_child(lambda: told == ["kept"])
    assert told == [], "in the parent nothing is"


def test_a_refused_connection_leaves_no_socket_behind(short_dir: Path) -> None:
    before = len(fork_safety._sockets)
    with pytest.raises(FileNotFoundError):
        fork_safety.connected(str(short_dir / "nobody"))
    assert len(fork_safety._sockets) <= before


BETWEEN = """
import os, socket, sys
from threading import Event, Thread
from callstate_client.transport import fork_safety

making, go, forking = Event(), Event(), Event()

class Slow(socket.socket):
    def __init__(self, *args):
        super().__init__(*args)
        making.set()
        go.wait()

fork_safety.sockets.socket = Slow
maker = Thread(target=fork_safety.unix_socket)
maker.start()
making.wait()
os.register_at_fork(before=forking.set)  # the last registered is the first called

def fork():
    child = os.fork()
    if not child:
        links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2
                 and os.path.lexists(f"/proc/self/fd/{fd}")]
        os._exit(any(link.startswith("socket:") for link in links))
    print(os.waitpid(child, 0)[1])

forker = Thread(target=fork)
forker.start()
forking.wait()
go.set()
forker.join()
maker.join()
"""


@pytest.mark.skipif(not IS_LINUX, reason="/proc")
def test_no_thread_is_forked_away_between_a_socket_and_its_note() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BETWEEN], capture_output=True, text=True, timeout=WITHIN_S, check=True
    )
    assert done.stdout == "0\n"


# -- a worker that forks and dies, while its child goes on --------------------------------------------------------

WORKER = """
import asyncio, os, signal, sys, threading
import uvloop
from callstate_client import SessionState, connect, sync

path, what, loop_name = sys.argv[1:]

def fork(*_):
    if not os.fork():
        os.write(1, b"%d\\n" % os.getpid())
        sys.stdin.read()
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, fork)
    async with connect(path, "w1", 60, timeout_s=60) as store:
        if what == "beats":
            async with store.hold(SessionState("c1"), heartbeat_timeout_s=0.03):
                await asyncio.Event().wait()
        elif what == "events":
            async with store.events():
                await asyncio.Event().wait()
        await asyncio.Event().wait()

if what == "blocking":
    signal.signal(signal.SIGUSR1, fork)
    store = sync.connect(path, wait_s=60, timeout_s=60)
    threading.Thread(target=store.ping, daemon=True).start()
    store.ping()
else:
    with asyncio.Runner(loop_factory={"asyncio": asyncio, "uvloop": uvloop}[loop_name].new_event_loop) as runner:
        runner.run(main())
"""


class Worker:
    """The process above, and its child once it has forked."""

    def __init__(self, path: Path, what: str, loop: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(path), what, loop], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.child = 0

    def fork(self) -> None:
        """Let it fork, and return when the child goes on and it is dead itself."""
        self.process.send_signal(signal.SIGUSR1)
        assert self.process.stdout is not None
        self.child = int(self.process.stdout.readline())
        assert self.process.wait(WITHIN_S) == -signal.SIGKILL

    def close(self) -> None:
        if self.child:
            with suppress(ProcessLookupError):
                os.kill(self.child, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def known(peer: Peer) -> Side:
    """A connection that was told who answers."""
    side = peer.accept()
    request = side.request()
    assert request["method"] == "server.info"
    side.reply({"protocol": 1}, request["id"])
    return side


def greeted(peer: Peer) -> Side:
    """A worker's that was welcome."""
    side = known(peer)
    request = side.request()
    assert request["method"] == "worker.register"
    side.reply({"worker_id": "w1", "drain": False}, request["id"])
    return side


def is_greeting(peer: Peer) -> list[Side]:
    """The first connection, which waits for the answer to its greeting."""
    side = peer.accept()
    assert side.request()["method"] == "server.info"
    return [side]


def holds(peer: Peer) -> list[Side]:
    """The first connection, and those of the beats and of the events, which wait for their first answers."""
    first = greeted(peer)
    first.reply({"version": 1, "updated_at": "2026-01-02T03:04:05Z", "epoch": 0}, first.request()["id"])
    others = [peer.accept(), peer.accept()]
    assert {side.request()["method"] for side in others} == {"server.info", "events.subscribe"}
    return [first, *others]


def listens(peer: Peer) -> list[Side]:
    """The first connection, and one that waits for the answer to its subscription."""
    first, events = greeted(peer), peer.accept()
    assert events.request()["method"] == "events.subscribe"
    return [first, events]


def asks_twice(peer: Peer) -> list[Side]:
    """The connections of two threads that wait for their replies."""
    sides = [known(peer), known(peer)]
    assert [side.request()["method"] for side in sides] == ["server.ping"] * 2
    return sides


WAYS = {"greeting": is_greeting, "beats": holds, "events": listens, "blocking": asks_twice}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("what", WAYS)
def test_a_dead_workers_connections_are_closed_whatever_it_forked(peer: Peer, what: str, loop: str) -> None:
    worker = Worker(peer.path, what, loop)
    try:
        sides = WAYS[what](peer)
        worker.fork()
        for side in sides:
            while side.line():  # what was sent before the end
                pass
        os.kill(worker.child, 0)  # it is there, and holds none of them open
    finally:
        worker.close()
