"""A daemon that accepts no more clients: both fronts ask less and less often, and say why in one line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from callstate_client import NoDaemonError, OverloadedError, connect, sync
from callstate_client.cli.app import run
from callstate_client.transport import connection
from callstate_client.transport.backoff import CONNECT
from callstate_client.transport.discovery import Candidate
from callstate_client.transport.event_stream import EventStream

FULL = OverloadedError("limits.connections (3) is reached")
REFUSAL = b'{"jsonrpc":"2.0","id":null,"error":%b}\n' % json.dumps(FULL.to_wire()).encode()
FOR_S = 0.4
"""How long each client tries."""

MOST_CONNECTS = 9
"""In that time: one at once, one more without a delay, then after 10, 20, 40 … ms, of which jitter takes half."""

Behaviour = Callable[[socket.socket], None]


def refuse(connection: socket.socket) -> None:
    """As the daemon does, without reading."""
    connection.sendall(REFUSAL)


def hang_up(_: socket.socket) -> None:
    """As when there are no descriptors left."""


def greet(connection: socket.socket) -> None:
    """Answer a client's first line."""
    line = connection.makefile("rb").readline()
    connection.sendall(b'{"jsonrpc":"2.0","id":%d,"result":{"protocol":1}}\n' % json.loads(line)["id"])


def greet_and_refuse(connection: socket.socket) -> None:
    """Answer the handshake, and refuse what comes then."""
    greet(connection)
    connection.recv(4096)
    connection.sendall(REFUSAL)


def greet_and_hang_up(connection: socket.socket) -> None:
    """Answer the handshake, and nothing else."""
    greet(connection)
    connection.recv(4096)


def subscribe_and_hang_up(connection: socket.socket) -> None:
    """Take a subscription, and drop it."""
    connection.recv(4096)
    connection.sendall(b'{"jsonrpc":"2.0","id":1,"result":{"stream":"s","seq":0}}\n')


class Refusing:
    """A peer that does the same with each client and hangs up, and counts them."""

    def __init__(self, path: Path, behaviour: Behaviour) -> None:
        self.path = path
        self.connects = 0
        self.behaviour = behaviour
        self._ends = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, contextlib.suppress(OSError, ValueError):
                if self._ends:
                    return
                self.connects += 1
                self.behaviour(connection)

    def stop(self) -> None:
        self._ends = True
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            last.connect(str(self.path))
        self._thread.join()
        self._listener.close()


@pytest.fixture
def behaviour(request: pytest.FixtureRequest) -> Behaviour:
    found: Behaviour = request.param
    return found


@pytest.fixture
def peer(short_dir: Path, behaviour: Behaviour) -> Iterator[Refusing]:
    peer = Refusing(short_dir / "s", behaviour)
    yield peer
    peer.stop()


def attempts_of(peer: Refusing) -> Iterator[None]:
    """Let a client try for FOR_S, and count how often it connects: often enough, if the machine does not pause."""
    for _ in range(3):
        peer.connects = 0
        yield
        assert peer.connects <= MOST_CONNECTS
        if peer.connects >= 4:
            return
    pytest.fail(f"{peer.connects} attempts")


on_connecting = pytest.mark.parametrize("behaviour", [refuse, hang_up], indirect=True)
after_the_handshake = pytest.mark.parametrize("behaviour", [greet_and_refuse, greet_and_hang_up], indirect=True)


@on_connecting
async def test_connecting_is_tried_less_and_less_often(peer: Refusing) -> None:
    for _ in attempts_of(peer):
        with pytest.raises(NoDaemonError) as caught:
            await connect(peer.path, wait_s=FOR_S, register=False)
    assert caught.value.refused is (peer.behaviour is refuse)


@pytest.mark.parametrize("behaviour", [refuse], indirect=True)
async def test_a_timer_that_rings_early_does_not_mean_more_attempts(
    peer: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep = asyncio.sleep
    monkeypatch.setattr(connection.asyncio, "sleep", lambda delay: sleep(delay / 2))
    with pytest.raises(NoDaemonError):
        await connect(peer.path, wait_s=0.01, register=False)
    assert peer.connects <= 4


@on_connecting
def test_connecting_is_tried_less_and_less_often_in_the_blocking_front(peer: Refusing) -> None:
    for _ in attempts_of(peer):
        with pytest.raises(NoDaemonError) as caught:
            sync.connect(peer.path, wait_s=FOR_S)
    assert caught.value.refused is (peer.behaviour is refuse)


@after_the_handshake
async def test_a_request_is_tried_less_and_less_often(peer: Refusing) -> None:
    async with connect(peer.path, wait_s=FOR_S, timeout_s=FOR_S, register=False) as store:
        with pytest.raises((OverloadedError, ConnectionError, TimeoutError)):
            await store.stats()
        assert peer.connects <= MOST_CONNECTS


@pytest.mark.parametrize("behaviour", [greet_and_hang_up], indirect=True)
def test_a_request_is_tried_less_and_less_often_in_the_blocking_front(peer: Refusing) -> None:
    with sync.connect(peer.path, wait_s=FOR_S, timeout_s=FOR_S) as store:
        with pytest.raises((ConnectionError, TimeoutError)):
            store.stats()
        assert peer.connects <= MOST_CONNECTS


@pytest.mark.parametrize("behaviour", [refuse, hang_up, subscribe_and_hang_up], indirect=True)
async def test_a_subscription_is_tried_less_and_less_often(peer: Refusing) -> None:
    for _ in attempts_of(peer):
        events = EventStream([Candidate(str(peer.path), "the test")])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FOR_S):
                await anext(events)
        events.close()


@pytest.mark.parametrize("behaviour", [refuse], indirect=True)
def test_the_command_line_says_so_in_one_line(peer: Refusing, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(10):  # whether its first write or the refusal comes first is chance
        assert run(["--socket", str(peer.path), "stats"]) == 1
        said = f"callstate: the daemon at {peer.path} accepts no more clients: {FULL.message}\n"
        assert capsys.readouterr().err == said
    assert peer.connects == 10


@pytest.mark.skipif(sys.platform != "linux", reason="a full backlog is ECONNREFUSED elsewhere")
class TestAFullBacklog:
    @pytest.fixture
    def full(self, short_dir: Path) -> Iterator[Path]:
        """A socket whose backlog is full; nobody accepts."""
        path = short_dir / "s"
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            listener.bind(str(path))
            listener.listen(0)
            with contextlib.suppress(BlockingIOError):
                while True:
                    waiting = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                    waiting.setblocking(False)
                    waiting.connect(str(path))
            yield path

    async def test_is_tried_less_and_less_often(self, full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        connects = 0
        plain = socket.socket.connect

        def counted(self: socket.socket, address: str) -> None:
            nonlocal connects
            connects += address == str(full)  # what other tests have left in this process may connect elsewhere
            plain(self, address)

        monkeypatch.setattr(socket.socket, "connect", counted)
        with pytest.raises(NoDaemonError, match="accepts no more clients") as caught:
            await connect(full, wait_s=FOR_S, register=False)
        assert caught.value.refused
        assert 4 <= connects <= MOST_CONNECTS

    def test_is_waited_for_in_the_blocking_front(self, full: Path) -> None:
        before = time.monotonic()
        with pytest.raises(NoDaemonError, match="accepts no more clients"):
            sync.connect(full, wait_s=0.2, timeout_s=0.2)
        assert time.monotonic() - before < FOR_S

    def test_is_one_line_of_the_command_line(self, full: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["--socket", str(full), "stats"]) == 1
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_delays_are_as_the_counts_above_expect() -> None:
    slept, connects = 0.0, 2
    while (slept := slept + CONNECT.after_s(connects - 1) / 2) < FOR_S:
        connects += 1
    assert connects + 1 <= MOST_CONNECTS
