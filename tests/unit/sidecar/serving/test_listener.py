"""The socket of our own: private, and never anybody else's."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

import pytest

from callstate_sidecar.config.errors import ConfigError
from callstate_sidecar.serving.listener import Listener
from callstate_sidecar.system.state_dir import AlreadyRunningError


def closed(listener: Listener) -> None:
    listener.socket.close()
    listener.close()


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


def test_it_listens_for_us_alone(short_dir: Path) -> None:
    before = os.umask(0)
    try:
        listener = Listener(short_dir / "run" / "s")
        assert os.umask(0) == 0, "the umask is as it was"
    finally:
        os.umask(before)
    assert listener.path.stat().st_mode & 0o777 == 0o600
    assert listener.path.parent.stat().st_mode & 0o777 == 0o700
    assert connects(listener.path)
    closed(listener)
    assert not listener.path.exists()


def test_a_socket_somebody_listens_on_stays_theirs(short_dir: Path) -> None:
    path = short_dir / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as theirs:
        theirs.bind(str(path))
        theirs.listen()
        with pytest.raises(AlreadyRunningError, match=str(path)):
            Listener(path)
        assert connects(path)


def test_a_busy_socket_is_not_taken_for_a_dead_one(short_dir: Path) -> None:
    path = short_dir / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as theirs, socket.socket(socket.AF_UNIX) as waiting:
        theirs.bind(str(path))
        theirs.listen(0)
        waiting.connect(str(path))  # the queue is full: the next one finds no room
        with pytest.raises(AlreadyRunningError):
            Listener(path)
        assert path.exists()


def test_a_socket_nobody_listens_on_is_replaced(short_dir: Path) -> None:
    path = short_dir / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    assert path.exists()
    listener = Listener(path)
    assert connects(path)
    closed(listener)


def test_of_two_that_start_at_once_one_waits_for_the_lock_in_vain(short_dir: Path) -> None:
    path = short_dir / "s"
    fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(AlreadyRunningError):
        Listener(path)
    assert not path.exists()
    os.close(fd)
    closed(Listener(path))


def test_a_file_that_is_not_a_socket_is_left_unchanged(short_dir: Path) -> None:
    path = short_dir / "s"
    path.write_text("precious")
    with pytest.raises(ConfigError, match=f"{path} exists and is not a socket"):
        Listener(path)
    assert path.read_text() == "precious"
    path.unlink()
    closed(Listener(path))  # the failed one left no lock behind


def test_a_lock_that_is_a_link_is_not_followed(short_dir: Path) -> None:
    target = short_dir / "target"
    Path(f"{short_dir / 's'}.lock").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        Listener(short_dir / "s")
    assert not target.exists()


def test_a_directory_of_ours_in_tmp_that_others_may_enter_is_refused(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only /tmp/callstate-<uid> is looked at; which uid is ours is told differently here, so as to have one."""
    uid = int.from_bytes(os.urandom(3)) + 2**25
    directory = Path(f"/tmp/callstate-{uid}")
    monkeypatch.setattr(os, "getuid", lambda: uid)
    directory.mkdir(mode=0o700)
    try:
        with pytest.raises(PermissionError, match="0700"):
            Listener(directory / "s")
        assert not list(directory.iterdir())
    finally:
        directory.rmdir()
