"""Metrics of a real daemon, over TCP and over a Unix socket."""

from __future__ import annotations

import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.daemon import Daemon
from support.wire import Wire, request

parser = pytest.importorskip("prometheus_client.parser", reason="prometheus-client is not installed")

pytestmark = pytest.mark.system

GET = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextmanager
def exporting(listen: str, *more: str) -> Iterator[Daemon]:
    with Daemon("--set", f"metrics.listen={listen}", *more) as daemon:
        yield daemon


def asked(daemon: Daemon, request: bytes = GET) -> bytes:
    """The whole reply to a request; of the address that the daemon has logged."""
    found = re.search(r"metrics are served on (?:http://127\.0\.0\.1:(\d+)/metrics|(\S+))", daemon.log())
    assert found is not None
    tcp = found[1] is not None
    with socket.socket(socket.AF_INET if tcp else socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(("127.0.0.1", int(found[1])) if tcp else found[2])
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65536), b""))


def samples(daemon: Daemon) -> dict[tuple[str, ...], float]:
    head, _, body = asked(daemon).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    families = parser.text_string_to_metric_families(body.decode())
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize("durability", ["memory", "process", "power"])
def test_each_kind_of_work_is_counted(durability: str) -> None:
    with exporting("127.0.0.1:0", "--durability", durability) as daemon, Wire(daemon.socket) as wire:
        wire.call("session.save", session={"id": "secret-id", "from": "+4930123456", "status": "active"})
        for _ in range(5):
            wire.call("session.heartbeat", session_id="secret-id")
        assert (
            wire.refusal(request(99, "session.load", {"session_id": "another"}).rstrip())["data"]["kind"]
            == "not_found"
        )
        wire.call("server.flush", timeout_s=10)
        found = samples(daemon)
        assert found["callstate_sessions", "active"] == 1
        assert found["callstate_requests_total", "session.heartbeat"] == 5
        assert found["callstate_errors_total", "not_found"] == 1
        assert found["callstate_store_state", "up"] == 1
        assert found["callstate_dirty_sessions",] == 0
        assert found["process_resident_memory_bytes",] > 1e6
        count = "callstate_request_duration_seconds_count"
        expected = {"session.save": 1, "session.heartbeat": 5, "session.load": 1, "server.flush": 1}
        # those that waited for the store are there too
        assert {name: found.get((count, name)) for name in expected} == expected
        body = asked(daemon)
        assert b"secret" not in body
        assert b"123456" not in body


def test_over_a_unix_socket_of_the_group() -> None:
    with Daemon() as first:  # a directory with a short path
        path = first.root / "m"
        with exporting(str(path)) as daemon:
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            assert samples(daemon)["callstate_journal_up",] == 1
            daemon.restart()
            assert samples(daemon)["callstate_journal_up",] == 1
            assert daemon.terminate() == 0
            assert not path.exists()


def test_bad_and_slow_clients_do_no_harm() -> None:
    with exporting("127.0.0.1:0") as daemon, Wire(daemon.socket) as wire:
        port = int(re.search(r"127\.0\.0\.1:(\d+)/metrics", daemon.log())[1])  # type: ignore[index]
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(10)]
        try:
            assert asked(daemon, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 404 ")
            assert asked(daemon, b"POST /metrics HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 405 ")
            assert asked(daemon, b"HEAD /metrics HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")
            assert b"# EOF" in asked(
                daemon, b"GET /metrics HTTP/1.1\r\naccept: application/openmetrics-text; version=1.0.0\r\n\r\n"
            )
            for accept in (b"application/openmetrics-text; version=abc", b"text/plain;version=1.x", b";=,;,q"):
                reply = asked(daemon, b"GET /metrics HTTP/1.1\r\naccept: %b\r\n\r\n" % accept)
                assert reply.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4")
            assert samples(daemon)["callstate_journal_up",] == 1
            wire.call("server.ping")
        finally:
            for client in silent:
                client.close()


def test_an_address_in_use_keeps_it_from_starting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        daemon = Daemon("--set", f"metrics.listen=127.0.0.1:{taken.getsockname()[1]}")
        daemon.launch()
        assert daemon.process is not None
        assert daemon.process.wait(20) == 2
        assert "metrics.listen: Address already in use: 127.0.0.1" in daemon.log()


def test_check_refuses_what_other_hosts_can_reach(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "callstate_sidecar", "--check", "--set", "metrics.listen=0.0.0.0:9464"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert refused.returncode == 2
    assert "metrics.allow_remote" in refused.stderr
    allowed = subprocess.run([*command, "--set", "metrics.allow_remote=yes"], check=False, cwd=tmp_path)
    assert allowed.returncode == 0
