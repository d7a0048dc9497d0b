"""Processes behind sockets: real ones, which exit, fork, hang up and are killed."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from callstate_client.engine.process import Gone, Process
from callstate_sidecar.system import peers as module
from callstate_sidecar.system.host import boot_id
from callstate_sidecar.system.peers import SO_PEERPIDFD, Peers, PeerSocket
from callstate_sidecar.system.pidfd import Peer, Watch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pidfds are Linux's")

WAIT_S = 20.0

CONNECT = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
"""
STAY = CONNECT + "sys.stdin.read()"
LEAVE_A_CHILD = CONNECT + "os.fork() and os._exit(0)\nsys.stdin.read()"
"""Exits at once; its child has the connection until our end of the pipe to its stdin is closed."""


class Line:
    """A child process and the connection it made, from the daemon's side."""

    def __init__(self, listener: socket.socket, script: str) -> None:
        command = [sys.executable, "-S", "-c", script, listener.getsockname()]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE)
        self.sock = listener.accept()[0]

    @property
    def pid(self) -> int:
        return self.child.pid

    def kill(self, *, reap: bool = True) -> None:
        """kill -9; without `reap` it is left a zombie."""
        self.child.send_signal(signal.SIGKILL)
        if reap:
            self.child.wait()
        else:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def close(self) -> None:
        self.child.kill()
        assert self.child.stdin is not None
        self.child.stdin.close()
        self.child.wait()
        self.sock.close()


@pytest.fixture
def start(short_dir: Path) -> Iterator[Callable[[str], Line]]:
    """Starts a child that connects."""
    lines: list[Line] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_dir / "s"))
        listener.listen()
        listener.settimeout(WAIT_S)

        def one(script: str = STAY) -> Line:
            lines.append(Line(listener, script))
            return lines[-1]

        yield one
        for line in lines:
            line.close()


@pytest.fixture
def peers() -> Peers:
    return Peers(boot_id())


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    """Of pidfds: asyncio may keep others until the loop is closed."""
    yield
    assert pidfds() == []


def pidfds() -> list[str]:
    """The pidfds of this process."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            continue  # the directory's own
        if "pidfd" in target:
            found.append(entry.name)
    return found


class Altered:
    """A socket some of whose options are answered otherwise."""

    def __init__(self, sock: socket.socket, answers: dict[int, bytes | OSError]) -> None:
        self._sock = sock
        self._answers = answers

    def fileno(self) -> int:
        return self._sock.fileno()

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        answer = self._answers.get(optname)
        if isinstance(answer, OSError):
            raise answer
        return self._sock.getsockopt(level, optname, buflen) if answer is None else answer


def before_6_5(sock: socket.socket) -> PeerSocket:
    """As on a kernel without SO_PEERPIDFD."""
    return Altered(sock, {SO_PEERPIDFD: OSError(errno.ENOPROTOOPT, "Protocol not available")})


def unaltered(sock: socket.socket) -> PeerSocket:
    return sock


WAYS = pytest.mark.parametrize("way", [unaltered, before_6_5])


@contextmanager
def no_descriptors() -> Iterator[None]:
    """No file can be opened in here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def told(event: asyncio.Event) -> None:
    async with asyncio.timeout(WAIT_S):
        await event.wait()


# -- who it is ---------------------------------------------------------------------------------------------------


@WAYS
def test_the_process_that_connected_is_identified(start: Any, peers: Peers, way: Any) -> None:
    line = start()
    peer = peers.identify(way(line.sock))
    assert peer.process is not None
    assert (peer.process.pid, peer.process.boot_id) == (line.pid, boot_id())
    assert not peer.exited
    assert peer.watchable
    assert not os.get_inheritable(peer.pidfd)
    peer.close()
    assert not peer.watchable
    peer.close()


def test_both_ways_find_the_same_process(start: Any, peers: Peers) -> None:
    line = start()
    found = [peers.identify(way(line.sock)) for way in (unaltered, before_6_5)]
    assert found[0].process == found[1].process
    for peer in found:
        peer.close()


def test_the_start_time_is_read_behind_any_name(start: Any, peers: Peers) -> None:
    ticks_a_second = os.sysconf("SC_CLK_TCK")
    before = float(Path("/proc/uptime").read_text().split()[0])
    line = start(CONNECT + "open('/proc/self/comm', 'w').write('a) S (1 2')\nsys.stdin.read()")
    while "a) S" not in Path(f"/proc/{line.pid}/comm").read_text():
        os.sched_yield()
    peer = peers.identify(line.sock)
    peer.close()
    after = float(Path("/proc/uptime").read_text().split()[0])
    assert peer.process is not None
    assert before - 0.1 <= peer.process.start_ticks / ticks_a_second <= after + 0.1


def test_a_hidden_proc_leaves_the_start_time_unknown(start: Any, tmp_path: Path) -> None:
    line = start()
    peer = Peers(boot_id(), proc=tmp_path).identify(line.sock)
    peer.close()
    assert peer.process is not None
    assert (peer.process.pid, peer.process.start_ticks) == (line.pid, 0)


def test_inodes_that_all_pidfds_share_say_nothing(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As before Linux 6.9: there a pidfd is on the device of eventfds."""
    line = start()
    monkeypatch.setattr(os, "eventfd", lambda *_args: os.pidfd_open(os.getpid()))
    peer = Peers(boot_id()).identify(line.sock)
    peer.close()
    assert peer.process is not None
    assert peer.process.pidfs_inode == 0
    assert peer.process.start_ticks > 0


def test_a_peer_of_another_pid_namespace_is_known_by_its_inode(start: Any, peers: Peers) -> None:
    """The kernel gives it no pid here; tests/system/test_pid_namespaces.py has the real thing."""
    line, other = start(), start()
    known = peers.identify(line.sock)
    found = [peers.identify(Altered(sock, {socket.SO_PEERCRED: bytes(12)})) for sock in (line.sock, other.sock)]
    assert [peer.watchable for peer in found] == [True, True]
    first, second = (peer.process for peer in found)
    assert known.process is not None
    assert first is not None
    assert second is not None
    assert (first.pid, first.pidfs_inode) == (0, known.process.pidfs_inode)
    assert first.is_same(second) is False
    assert first.key != second.key
    again = peers.identify(Altered(line.sock, {socket.SO_PEERCRED: bytes(12)}))
    assert again.process is not None
    assert first.is_same(again.process)
    for peer in (known, *found, again):
        peer.close()


def test_one_that_has_exited_there_is_known_to_have(start: Any, peers: Peers) -> None:
    line = start()
    line.kill(reap=False)
    peer = peers.identify(Altered(line.sock, {socket.SO_PEERCRED: bytes(12)}))
    assert (peer.exited, peer.pidfd) == (True, -1)


@pytest.mark.parametrize("missing", ["a pidfd", "an inode"])
def test_a_peer_without_a_pid_or_marks_is_nobody(
    start: Any, peers: Peers, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    altered: dict[int, Any] = {socket.SO_PEERCRED: bytes(12)}
    if missing == "a pidfd":
        altered[SO_PEERPIDFD] = OSError(errno.ENOPROTOOPT, "")
    else:
        monkeypatch.setattr(os, "eventfd", lambda *_args: os.pidfd_open(os.getpid()))
    peer = peers.identify(Altered(start().sock, altered))
    assert (peer.process, peer.watchable, peers.failures) == (None, False, 0)


def test_a_system_that_does_not_say_who_is_there(start: Any, peers: Peers) -> None:
    peer = peers.identify(Altered(start().sock, {socket.SO_PEERCRED: OSError(errno.ENOPROTOOPT, "")}))
    assert (peer.process, peer.watchable, peers.failures) == (None, False, 0)


def test_a_tcp_connection_has_no_known_peer(peers: Peers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        accepted, _ = server.accept()
        with accepted:
            assert peers.identify(accepted).process is None
    assert peers.failures == 0


# -- that it has exited, or hung up, before we look ----------------------------------------------------------------


@WAYS
@pytest.mark.parametrize("reap", [True, False], ids=["reaped", "zombie"])
def test_a_parent_that_exited_is_known_dead_though_its_child_holds_the_connection(
    start: Any, peers: Peers, way: Any, reap: bool
) -> None:
    line = start(LEAVE_A_CHILD)
    if reap:
        line.child.wait()
    else:
        os.waitid(os.P_PID, line.pid, os.WEXITED | os.WNOWAIT)
    peer = peers.identify(way(line.sock))
    # since Linux 6.16 there is a pidfd even for a process that has been reaped
    assert peer.exited
    assert peer.watchable
    assert peer.process is not None
    assert peer.process.pid == line.pid
    assert peers.failures == 0


def test_a_kernel_that_gives_no_pidfd_of_the_dead_says_as_much(start: Any, peers: Peers) -> None:
    """Linux 6.5 to 6.15, once it has been reaped."""
    reaped = Altered(start().sock, {SO_PEERPIDFD: OSError(errno.EINVAL, "Invalid argument")})
    assert peers.identify(reaped).exited
    assert peers.failures == 0


def test_by_pid_nobody_is_known_once_they_hung_up(start: Any, peers: Peers) -> None:
    """Its pid may have been recycled by then."""
    line = start(CONNECT + "sock.close()\nsys.stdin.read()")
    poll = select.poll()
    poll.register(line.sock.fileno(), 0)
    assert poll.poll(WAIT_S * 1000)
    peer = peers.identify(before_6_5(line.sock))
    assert (peer.process, peer.watchable) == (None, False)


def test_by_pid_one_who_only_writes_no_more_is_known(start: Any, peers: Peers) -> None:
    line = start(CONNECT + "sock.shutdown(socket.SHUT_WR)\nsys.stdin.read()")
    assert line.sock.recv(1) == b""
    peer = peers.identify(before_6_5(line.sock))
    assert peer.process is not None
    peer.close()


# -- what can't be watched ---------------------------------------------------------------------------------------


@WAYS
def test_without_descriptors_there_is_a_pid_and_one_line_in_the_log(
    start: Any, peers: Peers, way: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sock = way(start().sock)
    with caplog.at_level(logging.WARNING), no_descriptors():
        found = [peers.identify(sock), peers.identify(sock)]
    for peer in found:
        assert peer.process is not None
        assert peer.process == Process(peer.process.pid, boot_id=boot_id())
        assert not peer.watchable
    assert peers.failures == 2
    assert len(caplog.records) == 1
    peer = peers.identify(sock)  # and as soon as there are some again …
    assert peer.watchable
    peer.close()


def test_a_descriptor_less_for_the_device_costs_the_inode_alone(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    sock = start().sock
    monkeypatch.setattr(os, "eventfd", refuse)
    peer = Peers(boot_id()).identify(sock)
    peer.close()
    assert peer.process is not None
    assert peer.process.pidfs_inode == 0
    assert peer.process.start_ticks > 0


def test_pidfds_work_here(peers: Peers) -> None:
    assert peers.works


def test_before_5_3_they_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_pid: int) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    assert not Peers(boot_id()).works


def test_on_another_system_everybody_is_nobody(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    line, gone = start(), start()
    gone.kill()
    monkeypatch.setattr(module.sys, "platform", "darwin")
    peers = Peers("")
    assert peers.works is False
    assert peers.identify(line.sock).process is None
    assert peers.find(Process(line.pid)) is None
    assert peers.find(Process(gone.pid)) is Gone.GONE
    assert peers.failures == 0


# -- found again after a restart -----------------------------------------------------------------------------------


def remembered(peers: Peers, line: Line) -> Process:
    peer = peers.identify(line.sock)
    peer.close()
    assert peer.process is not None
    assert peer.process.start_ticks
    return peer.process


async def test_a_remembered_process_is_watched_again(start: Any, peers: Peers) -> None:
    line = start()
    peer = Peers(boot_id()).find(remembered(peers, line))
    assert isinstance(peer, Peer)
    gone = asyncio.Event()
    Watch(peer, gone.set)
    line.kill()
    await told(gone)


def test_either_mark_suffices(start: Any, peers: Peers) -> None:
    process = remembered(peers, start())
    if not process.pidfs_inode:
        pytest.skip("needs Linux 6.9")
    for partly in (replace(process, start_ticks=0), replace(process, pidfs_inode=0)):
        peer = peers.find(partly)
        assert isinstance(peer, Peer)
        assert peer.process == process
        peer.close()


@pytest.mark.parametrize(
    "change",
    [{"start_ticks": 1}, {"pidfs_inode": 1}, {"boot_id": "another"}],
    ids=lambda change: next(iter(change)),
)
def test_a_recycled_pid_is_not_the_process_remembered(start: Any, peers: Peers, change: dict[str, Any]) -> None:
    process = remembered(peers, start())
    if "pidfs_inode" in change and not process.pidfs_inode:
        pytest.skip("needs Linux 6.9")
    assert peers.find(replace(process, **change)) is Gone.GONE


@pytest.mark.parametrize("reap", [True, False], ids=["reaped", "zombie"])
def test_a_dead_process_is_found_gone(start: Any, peers: Peers, reap: bool) -> None:
    line = start()
    process = remembered(peers, line)
    line.kill(reap=reap)
    assert peers.find(process) is Gone.GONE
    assert peers.find(Process(line.pid)) is Gone.GONE
    assert peers.failures == 0


def test_a_pid_that_is_now_a_threads_counts_as_gone(peers: Peers) -> None:
    begun, done = threading.Event(), threading.Event()

    def run() -> None:
        begun.set()
        done.wait(WAIT_S)

    thread = threading.Thread(target=run)
    thread.start()
    begun.wait(WAIT_S)
    assert thread.native_id is not None
    found = peers.find(Process(thread.native_id, 1, boot_id()))
    done.set()
    thread.join()
    assert found is Gone.GONE


def test_a_living_pid_without_marks_proves_nothing(start: Any, peers: Peers) -> None:
    line = start()
    assert peers.find(Process(line.pid, boot_id=boot_id())) is None
    assert peers.find(replace(remembered(peers, line), boot_id="")) is None
    assert peers.find(Process(0)) is None


def test_without_descriptors_only_the_dead_are_found(start: Any, peers: Peers) -> None:
    living, dead = start(), start()
    processes = [remembered(peers, line) for line in (living, dead)]
    dead.kill()
    with no_descriptors():
        found = [peers.find(process) for process in (*processes, replace(processes[0], boot_id="another"))]
    assert found == [None, Gone.GONE, Gone.GONE]


def test_a_process_of_another_user_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_pid: int, _signal: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "kill", refuse)
    monkeypatch.setattr(module.sys, "platform", "darwin")
    assert Peers("").find(Process(os.getpid())) is None


# -- being told --------------------------------------------------------------------------------------------------


class Taking(asyncio.Protocol):
    """Watches who connects, through what the loop gives out for the socket."""

    def __init__(self, way: Any, gone: asyncio.Event) -> None:
        self._way = way
        self._gone = gone
        self.peer: asyncio.Future[Peer] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = Peers(boot_id()).identify(self._way(transport.get_extra_info("socket")))
        Watch(peer, self._gone.set)
        self.peer.set_result(peer)


@WAYS
async def test_a_kill_is_reported_through_the_loop(start: Any, way: Any) -> None:
    line = start()
    gone = asyncio.Event()
    taking = Taking(way, gone)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_accepted_socket(lambda: taking, line.sock)
    peer = await taking.peer
    assert peer.process is not None
    assert peer.process.pid == line.pid
    line.kill(reap=False)  # whose child it is, and whether it has been waited for, is nothing to us
    await told(gone)
    assert peer.pidfd == -1
    transport.close()
    await asyncio.sleep(0)  # it does so a turn later


async def test_the_exit_of_a_parent_is_reported_while_its_child_has_the_connection(
    start: Any, peers: Peers
) -> None:
    line = start(CONNECT + "os.fork() or sock.send(b'.')\nsys.stdin.read()")
    assert line.sock.recv(1)  # there is a child
    gone = asyncio.Event()
    Watch(peers.identify(line.sock), gone.set)
    line.kill()
    await told(gone)
    poll = select.poll()
    poll.register(line.sock.fileno(), 0)
    assert poll.poll(0) == []  # nobody hung up


@WAYS
async def test_a_process_that_is_already_dead_is_reported_later(start: Any, peers: Peers, way: Any) -> None:
    line = start(LEAVE_A_CHILD)
    line.child.wait()
    gone = asyncio.Event()
    Watch(peers.identify(way(line.sock)), gone.set)
    assert not gone.is_set()
    await told(gone)


async def test_a_closed_watch_tells_nothing(start: Any, peers: Peers) -> None:
    lines = [start(), start(), start(LEAVE_A_CHILD)]
    lines[2].child.wait()
    told_of: list[int] = []
    gone = asyncio.Event()
    watches = [Watch(peers.identify(line.sock), lambda n=n: told_of.append(n)) for n, line in enumerate(lines)]
    for watch in watches:
        watch.close()
        watch.close()
    # the numbers of the closed ones are used again
    Watch(peers.identify(lines[1].sock), gone.set)
    for line in lines[:2]:
        line.kill()
    await told(gone)
    assert told_of == []


async def test_an_exit_is_reported_once_and_its_callback_may_close_the_watch(start: Any, peers: Peers) -> None:
    line = start()
    count = 0
    gone = asyncio.Event()

    def exited() -> None:
        nonlocal count
        count += 1
        watch.close()
        gone.set()

    watch = Watch(peers.identify(line.sock), exited)
    line.kill(reap=False)
    await told(gone)
    for _ in range(10):
        await asyncio.sleep(0)
    assert count == 1


async def test_without_a_pidfd_there_is_no_watch() -> None:
    with pytest.raises(ValueError, match="no pidfd"):
        Watch(Peer(Process(1)), lambda: None)


async def test_no_descriptor_is_lost_over_many(start: Any, peers: Peers) -> None:
    line = start()
    before = len([*Path("/proc/self/fd").iterdir()])
    for _ in range(200):
        for way in (unaltered, before_6_5):
            peer = peers.identify(way(line.sock))
            process = peer.process
            assert process is not None
            Watch(peer, lambda: None).close()
            found = peers.find(process)
            assert isinstance(found, Peer)
            found.close()
            assert peers.find(replace(process, start_ticks=1)) is Gone.GONE
            assert peers.find(Process(process.pid)) is None
    await asyncio.sleep(0)
    assert len([*Path("/proc/self/fd").iterdir()]) <= before
