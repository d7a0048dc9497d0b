"""One client that fills the daemon's memory: it is refused in time, and another client's call goes on."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.daemon import Daemon
from support.wire import Refused, Wire

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

MIB = 1024 * 1024
BOUND = 48 * MIB
WITHIN = 1.25 * 1.25 * BOUND + 24 * MIB
"""What the daemon's memory may grow by: the ceiling, the estimate's error, and what it needs while it works."""

TURN = {"role": "user", "content": "x" * 30_000}


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon("--set", f"limits.hot_bytes={BOUND}") as running:
        yield running


def resident(daemon: Daemon, name: str = "VmHWM") -> int:
    """The daemon's memory, or its peak, bytes."""
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) * 1024


class Victim:
    """Another client's call: a turn now and then, each of which has to be acknowledged."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.turns = 0
        wire.call("session.save", session={"id": "victim", "status": "active"})

    def go_on(self) -> None:
        turn = {"role": "user", "content": f"turn {self.turns}"}
        self.turns += 1
        assert self.wire.call("session.add_turn", session_id="victim", turn=turn)["turn_count"] == self.turns
        self.wire.call("session.heartbeat", session_id="victim")

    def end(self) -> None:
        history = self.wire.call("session.load", session_id="victim")["session"]["history"]
        assert [turn["content"] for turn in history] == [f"turn {number}" for number in range(self.turns)]
        self.wire.call("session.end", session_id="victim")


def until_refused(
    attempt: Callable[[int], tuple[str, dict[str, Any]]], wire: Wire, victim: Victim, most: int
) -> Refused:
    """Send requests until fifty in a row are refused; returns the last error."""
    refused, in_a_row = None, 0
    for number in range(most):
        method, params = attempt(number)
        try:
            wire.call(method, **params)
            in_a_row = 0
        except Refused as error:
            refused, in_a_row = error, in_a_row + 1
        if number % 20 == 0:
            victim.go_on()
        if in_a_row == 50:
            break
    else:
        pytest.fail(f"{most} requests were not refused")
    assert refused is not None
    assert refused.kind == "overloaded"
    assert refused.data["retryable"]
    assert refused.data["hot_bytes_limit"] == BOUND
    return refused


def test_sessions_of_one_client_fill_no_more_than_the_bound(daemon: Daemon) -> None:
    with Wire(daemon.socket) as hostile, Wire(daemon.socket) as wire:
        victim, before = Victim(wire), resident(daemon, "VmRSS")
        big = {"status": "active", "recovery_data": {"x": "x" * 400_000}}
        until_refused(
            lambda number: ("session.save", {"session": {"id": f"big-{number}", **big}}), hostile, victim, 1000
        )
        stats = wire.call("server.stats")
        assert BOUND <= stats["hot_bytes"] < BOUND + MIB
        assert stats["hot_bytes_limit"] == BOUND
        for number in range(stats["sessions"]["active"] - 1):
            hostile.call("session.end", session_id=f"big-{number}")
        wire.call("server.flush")
        while wire.call("server.stats")["hot_bytes"] >= BOUND:
            victim.go_on()  # until the next tick has evicted some
        assert wire.call("server.stats")["evicted"] > 0
        wire.call("session.save", session={"id": "new", "status": "active"})
        assert wire.call("session.load", session_id="big-0")["session"]["status"] == "ended"
        victim.end()
        assert resident(daemon) - before < WITHIN


def test_turns_of_one_client_stop_before_those_of_another(daemon: Daemon) -> None:
    with Wire(daemon.socket) as hostile, Wire(daemon.socket) as wire:
        victim, before = Victim(wire), resident(daemon, "VmRSS")
        for number in range(40):
            hostile.call("session.save", session={"id": f"c{number}", "status": "active"})
        refused = until_refused(
            lambda number: ("session.add_turn", {"session_id": f"c{number % 40}", "turn": TURN}),
            hostile, victim, 10_000,
        )  # fmt: skip
        assert refused.data["session_bytes"] > 100_000
        for _ in range(200):
            victim.go_on()
        while wire.call("server.stats").get("growth_refused", 0) < 50:
            victim.go_on()  # until the next tick has counted them
        assert resident(daemon) - before < WITHIN
        victim.end()


def test_unfinished_requests_of_one_client_fill_no_more_than_their_bound() -> None:
    with ExitStack() as stack:
        daemon = stack.enter_context(Daemon("--set", f"limits.reply_bytes_total={16 * MIB}"))
        victim, before = Victim(stack.enter_context(Wire(daemon.socket))), resident(daemon, "VmRSS")
        for _ in range(80):
            connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            connection.connect(str(daemon.socket))
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"x" * (MIB - 10_000))
            victim.go_on()
        assert victim.wire.call("server.stats")["connections_cut_off"] >= 60
        assert resident(daemon) - before < 48 * MIB
        victim.end()


def test_what_is_counted_is_what_the_memory_grows_by(daemon: Daemon) -> None:
    """Within a fifth, for small sessions: the constants of weight.py hold on this interpreter and allocator."""
    with Wire(daemon.socket) as wire:
        wire.call("session.save", session={"id": "first", "status": "active"})
        wire.call("server.flush")
        before, counted = resident(daemon, "VmRSS"), wire.call("server.stats")["hot_bytes"]
        history = [{"role": "user", "content": "x" * 150, "timestamp": "2026-01-01T00:00:00Z"} for _ in range(20)]
        for number in range(4000):
            wire.call("session.save", session={"id": f"c{number}", "status": "active", "history": history})
        wire.call("server.flush")
        grown = resident(daemon, "VmRSS") - before
        assert grown == pytest.approx(wire.call("server.stats")["hot_bytes"] - counted, rel=0.25)


def test_a_replayed_journal_is_counted_as_before(daemon: Daemon) -> None:
    with Wire(daemon.socket) as wire:
        for number in range(500):
            wire.call("session.save", session={"id": f"c{number}", "status": "active"}, labels={"app": "sales"})
        wire.call("server.flush")
        counted = wire.call("server.stats")["hot_bytes"]
    daemon.restart()
    with Wire(daemon.socket) as wire:
        wire.call("server.flush")
        events = 500 * 600  # kept for subscribers, and not over a restart
        assert counted - events < wire.call("server.stats")["hot_bytes"] <= counted
