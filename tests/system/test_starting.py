"""Starts that are stopped early or can't succeed: each says what it is, and ends with a status of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from callstate_sidecar.system.exits import Exit
from support.daemon import Daemon
from support.journals import write_long_journal

pytestmark = [pytest.mark.system]

SIGNAL_ITSELF = """
import os, signal, sys
from callstate_sidecar.{module} import {where}
real = {where}.{method}
def hit(self, *args):
    result = real(self, *args)
    os.kill(os.getpid(), signal.{name})
    return result
{where}.{method} = hit
from callstate_sidecar.launch import main
sys.exit(main(sys.argv[1:]))
"""


def ended(daemon: Daemon, command: list[str] | None = None) -> tuple[int, str]:
    """Run it to its end; gives status and log."""
    done = subprocess.run(
        command or daemon.command(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize(
    ("module", "where", "method"),
    [
        ("system.state_dir", "StateDir", "host_id"),
        ("serving.listener", "Listener", "__init__"),
        ("daemon", "Daemon", "_restore"),
    ],
)
def test_a_signal_at_any_moment_of_startup_stops_it_with_a_log_line(
    name: str, module: str, where: str, method: str
) -> None:
    daemon = Daemon()
    try:
        code = SIGNAL_ITSELF.format(module=module, where=where, method=method, name=name)
        status, said = ended(daemon, [sys.executable, "-c", code, *daemon.command()[3:]])
        assert status == Exit.OK
        assert f"{name}: stopping" in said
        assert "stopped, 0 sessions in the journal" in said
        assert not daemon.socket.exists()
    finally:
        daemon.close()


def test_a_reload_during_startup_does_not_end_it() -> None:
    daemon = Daemon()
    code = SIGNAL_ITSELF.format(module="serving.listener", where="Listener", method="__init__", name="SIGHUP")
    plain = daemon.command()
    daemon.command = lambda: [sys.executable, "-c", code, *plain[3:]]  # type: ignore[method-assign]
    try:
        daemon.start()
        assert "reloaded:" in daemon.log()
    finally:
        daemon.close()


def test_a_stop_during_a_long_replay_waits_for_nothing() -> None:
    daemon = Daemon()
    try:
        write_long_journal(daemon.state_dir / "journal", turns=20_100)
        code = SIGNAL_ITSELF.format(module="system.state_dir", where="StateDir", method="host_id", name="SIGTERM")
        status, said = ended(daemon, [sys.executable, "-c", code, *daemon.command()[3:]])
        assert status == Exit.OK
        assert "SIGTERM: stopped before it was ready" in said
        daemon.start()
        daemon.kill()
    finally:
        daemon.close()


def no_directory(root: Path) -> list[str]:
    (root / "file").write_text("")
    return ["--state-dir", str(root / "file")]


def socket_is_a_file(root: Path) -> list[str]:
    (root / "taken").write_text("precious")
    return ["--socket", str(root / "taken")]


def socket_is_a_directory(root: Path) -> list[str]:
    (root / "taken").mkdir()
    return ["--socket", str(root / "taken")]


def socket_under_a_file(root: Path) -> list[str]:
    (root / "file").write_text("")
    return ["--socket", str(root / "file" / "s")]


def missing_ca(root: Path) -> list[str]:
    return ["--store", f"rediss://localhost:1/?ssl_ca_certs={root}/ca.pem"]


def ca_without_a_certificate(root: Path) -> list[str]:
    (root / "ca.pem").write_text("no certificate")
    return ["--store", f"rediss://localhost:1/?ssl_ca_certs={root}/ca.pem"]


def unknown_option(root: Path) -> list[str]:
    return ["--store", "redis://:hunter2@localhost:1/?socket_timeot=1"]


def journal_is_a_file(root: Path) -> list[str]:
    (root / "state").mkdir()
    (root / "state" / "journal").write_text("")
    return []


def host_id_is_a_directory(root: Path) -> list[str]:
    (root / "state" / "host-id").mkdir(parents=True)
    return []


@pytest.mark.parametrize(
    ("prepare", "status", "names"),
    [
        (no_directory, Exit.FAILED, "{root}/file"),
        (socket_is_a_file, Exit.USAGE, "{root}/taken"),
        (socket_is_a_directory, Exit.USAGE, "{root}/taken"),
        (socket_under_a_file, Exit.FAILED, "{root}/file"),
        (missing_ca, Exit.USAGE, "ssl_ca_certs: No such file or directory: {root}/ca.pem"),
        (ca_without_a_certificate, Exit.USAGE, "{root}/ca.pem"),
        (unknown_option, Exit.USAGE, "socket_timeot: no such option of redis://; did you mean socket_timeout?"),
        (journal_is_a_file, Exit.FAILED, "{root}/state/journal"),
        (host_id_is_a_directory, Exit.FAILED, "{root}/state/host-id"),
    ],
)
def test_the_obstacle_to_a_start_is_named(prepare: object, status: Exit, names: str) -> None:
    daemon = Daemon()
    try:
        command = [*daemon.command(), *prepare(daemon.root)]  # type: ignore[operator]
        found, said = ended(daemon, command)
        assert found == status, said
        assert names.format(root=daemon.root) in said
        assert "Traceback" not in said
        assert len(said.splitlines()) == 1
        assert "hunter2" not in said
        if prepare in (missing_ca, ca_without_a_certificate, unknown_option):
            found, checked = ended(daemon, [*command, "--check"])
            assert found == status
            assert names.format(root=daemon.root) in checked
    finally:
        daemon.close()


@pytest.mark.parametrize("free", [0, 4096, 16384, 1024 * 1024])
def test_a_start_on_a_full_disk_names_the_file_and_the_next_one_works(short_dir: Path, free: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    mount = short_dir / "disk"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(mount)], check=False)
    if done.returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    daemon = Daemon()
    daemon.state_dir = mount / "state"
    try:
        daemon.state_dir.mkdir()
        room = os.statvfs(mount)
        ballast = mount / "ballast"
        ballast.write_bytes(bytes(room.f_bavail * room.f_frsize - free))
        for _ in range(2):
            status, said = ended(daemon)
            assert status == Exit.FAILED, said
            assert "No space left on device" in said
            assert str(daemon.state_dir) in said
            assert "Traceback" not in said
        ballast.unlink()
        daemon.start()
        assert daemon.end_with(signal.SIGTERM) == 0
    finally:
        daemon.close()
        subprocess.run(["umount", "-l", str(mount)], check=True)
