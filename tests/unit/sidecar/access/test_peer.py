from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from callstate_client.engine.user import NOBODY, UNKNOWN
from callstate_client.engine.user import User as Known
from callstate_sidecar.access.peer import SO_PEERGROUPS, peer_user
from support.users import ALICE, TEAM, User, needs_root, why_no_namespaces

OVERFLOW = 65534


@pytest.fixture
def listener(short_dir: Path) -> Iterator[socket.socket]:
    short_dir.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(short_dir / "s"))
        (short_dir / "s").chmod(0o666)
        listening.listen()
        listening.settimeout(20)
        yield listening


def seen(listener: socket.socket, user: User) -> Known:
    """The user of a connection, at the daemon's end."""
    with user.connect(Path(listener.getsockname())), listener.accept()[0] as accepted:
        return peer_user(accepted)


class Told:
    """A socket of which the kernel says this."""

    def __init__(self, uid: int, gid: int, groups: tuple[int, ...] | int = ()) -> None:
        self._credentials = struct.pack("iII", 0, uid, gid)
        self._groups = groups

    def fileno(self) -> int:
        return -1

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        if optname == socket.SO_PEERCRED:
            return self._credentials
        assert optname == SO_PEERGROUPS
        assert buflen <= 1024, "Python takes no more"
        if isinstance(self._groups, int):
            raise OSError(self._groups, os.strerror(self._groups))
        return struct.pack(f"{len(self._groups)}I", *self._groups)


def test_our_own_user_is_told() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_user(ours) == (os.geteuid(), os.getegid(), frozenset({os.getegid(), *os.getgroups()}))


@needs_root
def test_another_user_is_told_with_its_groups(listener: socket.socket) -> None:
    with User(ALICE, groups=[TEAM, TEAM + 1]) as alice:
        assert seen(listener, alice) == (ALICE, ALICE, {ALICE, TEAM, TEAM + 1})


@needs_root
def test_a_thousand_and_more_groups_are_told(listener: socket.socket) -> None:
    many = range(20_000, 22_000)
    with User(ALICE, groups=many) as alice:
        assert seen(listener, alice).groups == {ALICE, *many}


@needs_root
def test_root_of_another_namespace_is_who_made_it(listener: socket.socket) -> None:
    if reason := why_no_namespaces():
        pytest.skip(reason)
    with User(ALICE, as_root=True) as alice:
        assert seen(listener, alice)[:2] == (ALICE, ALICE)


def test_the_overflow_ids_are_nobody() -> None:
    assert peer_user(Told(OVERFLOW, OVERFLOW, (OVERFLOW,))) == NOBODY
    assert peer_user(Told(OVERFLOW, 7, (OVERFLOW, 8))) == (UNKNOWN, 7, {7, 8})
    assert peer_user(Told(7, OVERFLOW)) == (7, UNKNOWN, frozenset())


def test_a_socket_that_nobody_has_connected_is_nobodys() -> None:
    assert peer_user(Told(2**32 - 1, 2**32 - 1)) == NOBODY
    with socket.socket(socket.AF_UNIX) as alone:
        assert peer_user(alone) == NOBODY


def test_a_socket_of_another_family_is_nobodys() -> None:
    with socket.socket(socket.AF_INET) as inet:
        assert peer_user(inet).uid == UNKNOWN


@pytest.mark.parametrize("error", [errno.ENOPROTOOPT, errno.ENODATA, errno.ERANGE])
def test_a_kernel_that_tells_no_groups_tells_the_primary_one(error: int) -> None:
    assert peer_user(Told(1, 2, error)) == (1, 2, {2})


def test_uids_above_31_bits_are_users() -> None:
    assert peer_user(Told(3_000_000_000, 3_000_000_001)) == (3_000_000_000, 3_000_000_001, {3_000_000_001})


def test_macos_tells_it_by_another_option(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mac:
        def fileno(self) -> int:
            return -1

        def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
            assert (level, optname) == (0, 1)
            return struct.pack("IIh2x16I", 0, 501, 3, 20, 12, 61, *([0] * 13))[:buflen]

    monkeypatch.setattr("sys.platform", "darwin")
    assert peer_user(Mac()) == (501, 20, {20, 12, 61})


def test_a_user_is_written_as_ids() -> None:
    assert str(Known(1000, 100)) == "uid 1000, gid 100"
    assert str(NOBODY) == "uid unknown, gid unknown"
