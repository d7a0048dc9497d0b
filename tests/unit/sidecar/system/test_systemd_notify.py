"""systemd.py over real sockets: what a manager receives, and which descriptors are taken over."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from callstate_sidecar.system.systemd import Notifier, listen_fds, watchdog_interval_s
from support.service_manager import ServiceManager


@pytest.fixture
def manager(short_dir: Path) -> Iterator[ServiceManager]:
    manager = ServiceManager(str(short_dir / "notify"))
    yield manager
    manager.close()


# -- notifications -------------------------------------------------------------------------------------------


def test_each_notification_is_one_datagram(manager: ServiceManager) -> None:
    notifier = Notifier(manager.environ)
    assert notifier.enabled
    notifier.ready()
    assert manager.received() == ["READY=1"]
    notifier.ready("serving 3 calls")
    assert manager.received() == ["READY=1", "STATUS=serving 3 calls"]
    notifier.stopping("flushing")
    assert manager.received() == ["STOPPING=1", "STATUS=flushing"]
    notifier.watchdog()
    assert manager.received() == ["WATCHDOG=1"]
    notifier.status("replaying")
    assert manager.received() == ["STATUS=replaying"]
    notifier.extend_timeout(2.5, "replaying")
    assert manager.received() == ["EXTEND_TIMEOUT_USEC=2500000", "STATUS=replaying"]
    assert manager.received_nothing()


def test_reloading_says_when_on_the_monotonic_clock(manager: ServiceManager) -> None:
    before = time.monotonic_ns() // 1000
    Notifier(manager.environ).reloading()
    reloading, at = manager.received()
    assert reloading == "RELOADING=1"
    name, _, usec = at.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(usec) <= time.monotonic_ns() // 1000


def test_a_status_stays_one_line(manager: ServiceManager) -> None:
    Notifier(manager.environ).status("a\nREADY=1\n\tb")
    assert manager.received() == ["STATUS=a READY=1 b"]


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_an_abstract_address_is_understood() -> None:
    manager = ServiceManager(f"@callstate-test-{os.getpid()}-{time.monotonic_ns()}")
    try:
        Notifier(manager.environ).ready()
        assert manager.received() == ["READY=1"]
    finally:
        manager.close()


@pytest.mark.parametrize("address", ["", "@", "vsock:2:1234", "relative/path"])
def test_without_a_manager_nothing_is_sent(address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address})
    assert not notifier.enabled
    notifier.ready()


def test_a_missing_manager_is_not_an_error(manager: ServiceManager, short_dir: Path) -> None:
    manager.close()
    Notifier(manager.environ).ready()  # nobody reads there any more
    Notifier({"NOTIFY_SOCKET": str(short_dir / "absent")}).ready()


# -- the watchdog --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "20000000"}, 10.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "77"}, 10.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "78"}, None),
        ({"WATCHDOG_USEC": "0", "WATCHDOG_PID": "77"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_at_half_its_time(environ: dict[str, str], interval_s: float | None) -> None:
    assert watchdog_interval_s(environ, pid=77) == interval_s


def test_the_watchdog_is_for_this_process_when_it_is_named() -> None:
    assert watchdog_interval_s({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}) == 1.0


# -- passed sockets ------------------------------------------------------------------------------------------

# Takes over what it was passed and says what became of it.
CHILD = """
import json, os, sys
from callstate_sidecar.system.systemd import listen_fds
try:
    passed = listen_fds(os.environ)
except ValueError as error:
    print(json.dumps({"error": str(error)}))
    sys.exit()
print(json.dumps({
    "paths": {name: [sock.getsockname() for sock in named] for name, named in passed.items()},
    "fds": sorted(sock.fileno() for named in passed.values() for sock in named),
    "inheritable": [sock.get_inheritable() for named in passed.values() for sock in named],
    "left": sorted(name for name in os.environ if name.startswith("LISTEN_")),
}))
"""

# Descriptors 3 and 4 must be ours in the child only, and LISTEN_PID its pid, which `exec` keeps.
SHELL = 'LISTEN_PID=${LISTEN_PID:-$$}; export LISTEN_PID; exec "$0" -c "$1"'


def out_of_the_way(fd: int) -> int:
    """A duplicate above 3 and 4, onto which the shell moves one after the other."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64)


def child(fds: list[int], **environ: str) -> dict[str, object]:
    moved = [f"{3 + index}<&{fd}" for index, fd in enumerate(fds)]
    done = subprocess.run(
        ["/bin/bash", "-c", " ".join([SHELL, *moved]), sys.executable, CHILD],
        env={**os.environ, **environ},
        pass_fds=fds,
        capture_output=True,
        check=True,
        timeout=30,
    )
    report = json.loads(done.stdout)
    assert isinstance(report, dict)
    return report


@pytest.fixture
def listening(short_dir: Path) -> Iterator[list[int]]:
    """Descriptors of two listening sockets, `a` and `b`."""
    fds = []
    for name in ("a", "b"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.bind(str(short_dir / name))
            sock.listen()
            fds.append(out_of_the_way(sock.fileno()))
    yield fds
    for fd in fds:
        os.close(fd)


def test_passed_sockets_are_taken_over_by_name(listening: list[int], short_dir: Path) -> None:
    assert child(listening, LISTEN_FDS="2", LISTEN_FDNAMES="callstate.socket:admin") == {
        "paths": {"callstate.socket": [str(short_dir / "a")], "admin": [str(short_dir / "b")]},
        "fds": [3, 4],
        "inheritable": [False, False],
        "left": [],
    }


def test_sockets_without_names_are_unknown(listening: list[int], short_dir: Path) -> None:
    report = child(listening, LISTEN_FDS="2")
    assert report["paths"] == {"unknown": [str(short_dir / "a"), str(short_dir / "b")]}


def test_a_descriptor_that_is_not_there_or_no_socket_is_named() -> None:
    with Path(os.devnull).open() as null:
        fd = out_of_the_way(null.fileno())
    try:
        report = child([fd], LISTEN_FDS="1", LISTEN_FDNAMES="x")
        assert report == {"error": "LISTEN_FDS: descriptor 3 (x): Socket operation on non-socket"}
    finally:
        os.close(fd)
    assert str(child([], LISTEN_FDS="1")["error"]).startswith("LISTEN_FDS: descriptor 3 (unknown): Bad file")


def test_variables_meant_for_another_process_are_removed_and_nothing_is_taken(
    listening: list[int],
) -> None:
    assert child(listening, LISTEN_FDS="2", LISTEN_PID="1") == {
        "paths": {}, "fds": [], "inheritable": [], "left": [],
    }  # fmt: skip


def test_without_a_manager_there_are_no_sockets() -> None:
    assert listen_fds({}) == {}
    assert listen_fds({"LISTEN_FDS": "2"}) == {}
    assert listen_fds({"LISTEN_PID": "77"}, pid=77) == {}


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"LISTEN_PID": "77", "LISTEN_FDS": "-1"}, "LISTEN_FDS: expected a number, got '-1'"),
        ({"LISTEN_PID": "77", "LISTEN_FDS": "two"}, "LISTEN_FDS: expected a number, got 'two'"),
        ({"LISTEN_PID": "77", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "a:b"}, "LISTEN_FDNAMES: expected 1 names"),
    ],
)
def test_variables_that_contradict_each_other_are_an_error(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        listen_fds(environ, pid=77)
    assert environ == {}
