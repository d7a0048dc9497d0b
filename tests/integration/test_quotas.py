"""What one user's processes take, another's still find; and operators always get in. Real users, real daemons."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from callstate_client.cli.app import run
from callstate_sidecar.serving.connection import LINES_A_TURN
from support.daemon import Daemon
from support.users import ALICE, BOB, User, needs_root
from support.wire import Refused, Wire

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

STATS = b'{"jsonrpc":"2.0","id":2,"method":"server.stats"}\n'


def open_to_all(daemon: Daemon) -> Daemon:
    """Let every user reach the socket."""
    daemon.root.chmod(0o755)
    daemon.socket.chmod(0o666)
    return daemon


@contextlib.contextmanager
def serving(*settings: str) -> Iterator[Daemon]:
    with Daemon(*(word for setting in settings for word in ("--set", setting))) as daemon:
        yield open_to_all(daemon)


def served(connection: socket.socket, path: Path) -> bool:
    """Whether a connection has a place: it answers a ping."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        wire = Wire(path, connected=connection)
        return bool(wire.ask(b'{"jsonrpc":"2.0","id":1,"method":"server.ping"}')["id"] == 1)
    return False


@needs_root
def test_a_thousand_connections_of_one_user_lock_nobody_out() -> None:
    with serving() as daemon, User(ALICE) as alice, User(BOB) as bob, ExitStack() as stack:
        taken = [stack.enter_context(alice.connect(daemon.socket)) for _ in range(1000)]
        with bob.wire(daemon.socket) as wire:
            assert wire.call("worker.register", worker_id="bob-1")["worker_id"] == "bob-1"
            assert wire.call("session.save", session={"id": "c1"})["version"] > 0
            stats = wire.call("server.stats")
        assert stats["connections"] == 951
        assert stats["connections_refused"] == 50
        assert served(taken[0], daemon.socket)
        assert "limits.per_uid.connections (950) is reached: uid 12001" in daemon.log()


@needs_root
def test_junk_sessions_of_one_user_leave_room_for_anothers() -> None:
    with serving("limits.sessions=100") as daemon, User(ALICE) as alice, User(BOB) as bob:
        with alice.wire(daemon.socket) as wire:
            for number in range(95):
                wire.call("session.save", session={"id": f"junk-{number}"})
            with pytest.raises(Refused, match=r"limits\.per_uid\.sessions \(95\) is reached: uid 12001") as caught:
                wire.call("session.save", session={"id": "junk-95"})
            assert caught.value.kind == "overloaded"
            assert wire.call("session.save", session={"id": "junk-0", "provider": "twilio"})["version"] > 0
        with bob.wire(daemon.socket) as wire:
            for number in range(5):
                wire.call("session.save", session={"id": f"call-{number}"})
            wire.call("session.delete", session_id="call-0")


@needs_root
def test_the_count_of_sessions_survives_a_restart_and_falls_with_them() -> None:
    with serving("limits.per_uid.sessions=3") as daemon, User(ALICE) as alice:
        with alice.wire(daemon.socket) as wire:
            for number in range(3):
                wire.call("session.save", session={"id": f"c{number}"})
        daemon.kill()
        daemon.start()
        open_to_all(daemon)
        with alice.wire(daemon.socket) as wire:
            with pytest.raises(Refused, match=r"limits\.per_uid\.sessions \(3\)"):
                wire.call("session.save", session={"id": "c3"})
            wire.call("session.delete", session_id="c0")
            assert wire.call("session.save", session={"id": "c3"})["version"] > 0


@needs_root
def test_requests_that_come_too_fast_wait_and_anothers_do_not() -> None:
    with ExitStack() as stack:
        daemon = stack.enter_context(serving("limits.per_uid.requests_per_s=50"))
        fast, other = (
            stack.enter_context(stack.enter_context(User(uid)).wire(daemon.socket)) for uid in (ALICE, BOB)
        )
        began = time.monotonic()
        fast.send(b'{"jsonrpc":"2.0","id":1,"method":"server.ping"}\n' * 100)
        assert other.call("server.ping") == {}
        for _ in range(100):
            assert fast.reply()["result"] == {}
        assert time.monotonic() - began >= 0.9


def test_the_daemons_own_user_gets_in_to_look_and_for_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    """A thousand idle connections of the daemon's own user, who is also the one who looks."""
    with serving("limits.connections=20") as daemon, ExitStack() as stack:
        for _ in range(20):
            assert stack.enter_context(Wire(daemon.socket)).call("server.ping") == {}
        for command in ("stats", "doctor", "ls", "health"):
            assert run(["--socket", str(daemon.socket), command]) == 0
        with Wire(daemon.socket) as wire:
            wire.call("server.info")
            with pytest.raises(Refused, match=r"limits\.connections \(20\) is reached"):
                wire.call("worker.register", worker_id="w1")
            assert wire.at_eof()
        with Wire(daemon.socket) as wire:  # it asks nothing
            assert wire.reply()["error"]["data"]["kind"] == "overloaded"
            assert wire.at_eof()


def test_silent_and_idle_connections_are_closed_and_those_of_workers_and_subscribers_are_not() -> None:
    with serving("limits.first_line_s=0.5", "limits.idle_timeout_s=1") as daemon, ExitStack() as stack:
        silent, half, idle, worker, subscriber = (stack.enter_context(Wire(daemon.socket)) for _ in range(5))
        worker.call("worker.register", worker_id="w1")
        subscriber.call("events.subscribe")
        idle.call("server.ping")
        half.send(b'{"jsonrpc":"2.0",')
        for wire in (silent, half):
            assert "limits.first_line_s" in wire.reply()["error"]["message"]
            assert wire.at_eof()
        assert idle.at_eof(), "without a word"
        assert worker.call("server.ping") == subscriber.call("server.ping") == {}
        assert worker.call("server.stats")["connections_timed_out"] == 3


def test_a_reload_applies_the_limits_of_a_user(short_dir: Path) -> None:
    config = short_dir / "callstate.toml"
    config.write_text("[limits.per_uid]\nconnections = 1\n")
    with Daemon("--config", str(config)) as daemon, Wire(daemon.socket) as wire:
        while wire.call("server.stats")["connections"] > 1:
            pass
        config.write_text("[limits.per_uid]\nconnections = 2\n")
        with Wire(daemon.socket) as second:
            second.call("server.info")  # in the reserve
            with pytest.raises(Refused, match="overloaded"):
                second.call("events.subscribe")
        assert daemon.process is not None
        os.kill(daemon.process.pid, 1)
        while "limits.per_uid.connections applied" not in daemon.log():
            time.sleep(0.01)
        with Wire(daemon.socket) as second:
            assert second.call("events.subscribe")["seq"] >= 0


@needs_root
def test_a_users_flood_from_many_connections_does_not_precede_anothers_request() -> None:
    """All of it has arrived before the other's request does. The daemon says what it has served by then."""
    with serving() as daemon, User(ALICE) as alice, User(BOB) as bob, ExitStack() as stack:
        flooding = [stack.enter_context(alice.wire(daemon.socket)) for _ in range(200)]
        other = stack.enter_context(bob.wire(daemon.socket))

        def served() -> int:
            return int(other.reply()["result"]["requests"]["server.ping"])

        before = int(other.call("server.stats")["requests"].get("server.ping", 0))
        daemon.signal(signal.SIGSTOP)
        for wire in flooding:
            wire.send(b'{"jsonrpc":"2.0","id":1,"method":"server.ping"}\n' * 50)
        other.send(STATS)
        daemon.signal(signal.SIGCONT)
        assert served() - before < 200 * LINES_A_TURN / 2  # half of what a turn of each connection would be
        for wire in flooding:
            for _ in range(50):
                assert wire.reply()["result"] == {}
        other.send(STATS)
        assert served() - before == 200 * 50
