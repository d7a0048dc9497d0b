"""`callstate workers`, `health`, `latency` and `config` against real daemons."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable, Iterator

import pytest

from callstate_client import SessionState, connect
from callstate_client.cli import main
from support.command_line import OnTerminal, Running, using, wait_until
from support.daemon import Daemon
from support.stores import refuse_changes

Run = Callable[[str], tuple[int, str, str]]


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    with Daemon() as daemon:
        yield daemon


@pytest.fixture
def daemon(running: Daemon) -> Daemon:
    return running


@pytest.fixture
def callstate(daemon: Daemon, capfd: pytest.CaptureFixture[str]) -> Run:
    def run(line: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main(["--socket", str(daemon.socket), *line.split()])
        return status, *capfd.readouterr()

    return run


class TestWorkers:
    def test_with_their_process_and_calls(self, daemon: Daemon, callstate: Run) -> None:
        assert callstate("workers") == (0, "no workers\n", "")
        assert callstate("workers --json") == (0, "[]\n", "")

        async def hold() -> tuple[list[str], dict[str, object]]:
            async with connect(daemon.socket, worker_id="w1") as store, store.hold(SessionState("c1")):
                text = await asyncio.to_thread(callstate, "workers")
                listed = await asyncio.to_thread(callstate, "workers --json")
                return text[1].splitlines(), json.loads(listed[1])[0]

        (head, line), listed = asyncio.run(hold())
        assert head.split() == ["ID", "STATE", "PID", "CONNECTIONS", "SESSIONS", "SINCE"]
        assert line.split()[:3] == ["w1", "connected", str(os.getpid())]
        assert line.split()[4] == "1"
        assert (listed["worker_id"], listed["pid"], listed["watched"]) == ("w1", os.getpid(), True)
        assert isinstance(listed["connections"], int)
        assert listed["connections"] >= 1


class TestHealth:
    def test_all_is_well(self, callstate: Run) -> None:
        status, out, err = callstate("health")
        assert (status, err) == (0, "")
        assert [line.split()[:2] for line in out.splitlines()] == [
            ["daemon", "ok"], ["journal", "ok"], ["store", "ok"], ["drain", "ok"],
        ]  # fmt: skip
        assert callstate("health --ready")[0] == 0
        assert [line.split()[0] for line in callstate("health --live")[1].splitlines()] == ["daemon"]

    def test_as_json(self, callstate: Run) -> None:
        told = json.loads(callstate("health --json")[1])
        assert told["ok"] is True
        assert [*told["checks"]] == ["daemon", "journal", "store", "drain"]
        assert all(check["ok"] for check in told["checks"].values())

    def test_a_draining_daemon_is_alive_and_not_ready(self, callstate: Run) -> None:
        callstate("drain")
        try:
            assert callstate("health")[0] == 4
            assert callstate("health --ready")[0] == 4
            assert callstate("health --live")[0] == 0
            assert json.loads(callstate("health --json")[1])["checks"]["drain"]["ok"] is False
        finally:
            callstate("drain --off")


class TestHealthOfAStore:
    @pytest.fixture
    def daemon(self) -> Iterator[Daemon]:
        with Daemon(store="unix:///nonexistent/redis.sock") as daemon:
            yield daemon

    def test_one_that_is_down_is_a_fault_and_the_daemon_ready(self, daemon: Daemon, callstate: Run) -> None:
        using(daemon, lambda store: store.save(SessionState("c1")))
        wait_until(daemon, lambda stats: stats["store"] == "down" and stats["dirty"] == 1)
        status, out, _ = callstate("health")
        assert status == 5
        assert re.search(r"^store +failing +down: .+; 1 sessions to be written, the oldest for", out, re.MULTILINE)
        assert callstate("health --ready")[0] == 0


class TestHealthOfARefusal:
    @pytest.fixture
    def daemon(self) -> Iterator[Daemon]:
        daemon = Daemon()
        try:
            daemon.start()
            yield daemon
        finally:
            daemon.close(expect="the store refuses")

    def test_a_refused_session_is_a_fault(self, daemon: Daemon, callstate: Run) -> None:
        using(daemon, lambda store: store.save(SessionState("a", status="active")))
        using(daemon, lambda store: store.flush())
        refuse_changes(daemon.state_dir / "callstate.db")
        using(daemon, lambda store: store.add_turn("a", "user", "hello"))
        wait_until(daemon, lambda stats: stats["quarantined"] == 1)
        status, out, _ = callstate("health")
        assert status == 5
        assert "1 in quarantine" in out
        assert callstate("health --ready")[0] == 0


class TestLatency:
    def test_so_many_round_trips(self, callstate: Run) -> None:
        status, out, err = callstate("latency --count 5 --interval 0.001")
        assert (status, err) == (0, "")
        assert re.fullmatch(
            r"(?:(?:min|avg|p50|p99|max) \d+\.\d{3}, ){5}5 round trips \(ms\)\n",
            out,
        )
        told = json.loads(callstate("latency --count 5 --interval 0.001 --json")[1])
        assert told["count"] == 5
        assert 0 < told["min_ms"] <= told["p50_ms"] <= told["p99_ms"] <= told["max_ms"]
        assert told["min_ms"] <= told["avg_ms"] <= told["max_ms"]

    def test_an_interrupt_prints_the_summary(self, daemon: Daemon) -> None:
        before = using(daemon, lambda store: store.stats())["requests"].get("server.ping", 0)
        with Running(daemon, "latency --json") as measuring:
            wait_until(daemon, lambda stats: stats["requests"].get("server.ping", 0) > before + 25)
            assert measuring.interrupt() == (0, b"")
            assert json.loads(measuring.out)["count"] >= 20

    def test_on_a_terminal_the_figures_run_and_the_summary_stays(self, daemon: Daemon) -> None:
        with OnTerminal(daemon, "latency") as measuring:
            measuring.until(b" round trips (ms)")
            measuring.ctrl_c()
            rest = measuring.rest()
            assert measuring.process.wait() == 0
        assert re.search(rb"\rmin [^\r]+ round trips \(ms\)\r?\n$", rest) or b"min " in rest
        assert b"Traceback" not in measuring.seen

    def test_a_daemon_that_goes_away_ends_it_with_what_was_measured(self) -> None:
        with Daemon() as daemon, Running(daemon, "--timeout 0.5 latency") as measuring:
            wait_until(daemon, lambda stats: stats["requests"].get("server.ping", 0) > 5)
            daemon.kill()
            out, err = measuring.process.communicate(timeout=20)
            assert measuring.process.returncode in (1, 3)
            assert re.search(rb"max [\d.]+, \d+ round trips \(ms\)\n$", out)
            assert err.startswith(b"callstate: ")
            assert b"Traceback" not in err
            daemon.start()


class TestConfig:
    def test_every_key_and_where_it_comes_from(self, daemon: Daemon, callstate: Run) -> None:
        status, out, err = callstate("config")
        assert (status, err) == (0, "")
        rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
        assert rows["KEY"] == ["VALUE", "FROM"]
        assert rows["reaper.max_handovers"] == ["3", "default"]
        assert rows["server.socket"] == [f'"{daemon.socket}"', "flag", "--socket"]

    def test_some_of_it(self, callstate: Run) -> None:
        out = callstate("config journal store.url")[1]
        assert {line.split()[0].partition(".")[0] for line in out.splitlines()} == {"KEY", "journal", "store"}
        assert "store.ttl_s" not in out
        assert "default" not in callstate("config --changed")[1]
        assert callstate("config reaper.grace_s --changed") == (0, "everything is at its default\n", "")
        assert callstate("config nothing") == (1, "", "callstate: nothing: no such key\n")

    def test_as_json(self, callstate: Run) -> None:
        (setting,) = json.loads(callstate("config host.id --json")[1])
        assert (setting["key"], setting["value"], setting["source"]) == ("host.id", "", "default")
        assert setting["resolved"] == json.loads(callstate("info --json")[1])["host_id"]


class TestConfigWithSecrets:
    @pytest.fixture
    def daemon(self) -> Iterator[Daemon]:
        with Daemon("--set", "limits.events=77", store="redis://:hunter2@127.0.0.1:1/0") as daemon:
            yield daemon

    def test_a_password_never_leaves_the_daemon(self, callstate: Run) -> None:
        for line in ("config", "config --json"):
            out = callstate(line)[1]
            assert "hunter2" not in out
            assert "redis://:***@127.0.0.1:1/0" in out
        assert json.loads(callstate("config limits.events --json")[1]) == [
            {"key": "limits.events", "value": 77, "source": "flag", "name": "--set", "default": 10000}
        ]
