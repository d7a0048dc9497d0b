"""Directories in which other users could replace something are refused, and the message says what mends them."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from callstate_sidecar.serving.listener import Listener
from callstate_sidecar.system import strict_modes
from callstate_sidecar.system.state_dir import StateDir
from callstate_sidecar.system.strict_modes import UnsafePathError, check_path

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
STRANGER = 23456
"""A user without a name."""


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory right below the sticky /tmp, as short as a socket needs it."""
    path = Path(tempfile.mkdtemp(prefix="cs-")).resolve()
    yield path
    shutil.rmtree(path)


def made(path: Path, mode: int) -> Path:
    path.mkdir()
    path.chmod(mode)
    return path


def refusal(path: Path, *, sticky: bool = False) -> str:
    with pytest.raises(UnsafePathError) as caught:
        check_path(path, "server.state_dir", sticky=sticky)
    return str(caught.value)


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755, 0o711])
def test_a_directory_that_only_we_can_write_to_is_accepted(base: Path, mode: int) -> None:
    check_path(made(base / "state", mode), "server.state_dir")


@pytest.mark.parametrize(
    ("mode", "command"), [(0o777, "chmod go-w"), (0o702, "chmod go-w"), (0o1777, "chmod go-w")]
)
def test_a_state_directory_that_all_may_write_to_is_refused(base: Path, mode: int, command: str) -> None:
    state = made(base / "state", mode)
    said = refusal(state)
    assert f"mode {mode:04o}" in said
    assert f"owner {strict_modes._name(os.geteuid())}" in said  # pyright: ignore[reportPrivateUsage]
    assert f"{command} {state}" in said
    assert "server.strict_modes" in said
    state.chmod(0o700)
    check_path(state, "server.state_dir")


def test_the_command_in_the_message_mends_it(base: Path) -> None:
    state = made(base / "a place with spaces", 0o777)
    subprocess.run(shlex.split(refusal(state).partition("Run: ")[2].partition(";")[0]), check=True)
    check_path(state, "server.state_dir")


def test_a_parent_that_all_may_write_to_is_refused_and_named(base: Path) -> None:
    parent = made(base / "parent", 0o777)
    assert f": {parent} (owner" in refusal(made(parent / "state", 0o700))
    assert f": {parent} (owner" in refusal(parent / "not" / "there yet")


def test_a_sticky_parent_is_accepted_if_the_next_directory_is_ours(base: Path) -> None:
    parent = made(base / "tmp", 0o1777)
    check_path(made(parent / "state", 0o700), "server.state_dir")
    check_path(parent / "absent", "server.state_dir")


@needs_root
def test_a_directory_of_somebody_else_in_a_sticky_one_is_refused(base: Path) -> None:
    parent = made(base / "tmp", 0o1777)
    state = made(parent / "state", 0o700)
    os.chown(state, STRANGER, STRANGER)
    said = refusal(state)
    assert f"owner {STRANGER}, mode 0700" in said
    assert f"chown root {state}" in said


@needs_root
def test_a_parent_of_somebody_else_is_refused(base: Path) -> None:
    parent = made(base / "parent", 0o755)
    state = made(parent / "state", 0o700)
    os.chown(parent, STRANGER, STRANGER)
    assert f": {parent} (owner {STRANGER}, mode 0755) belongs to somebody else" in refusal(state)


def test_both_sides_of_a_link_are_judged(base: Path) -> None:
    real = made(base / "real", 0o755)
    state = made(real / "state", 0o700)
    links = made(base / "links", 0o755)
    (links / "state").symlink_to(state)
    check_path(links / "state", "server.state_dir")
    real.chmod(0o777)
    assert f": {real} (owner" in refusal(links / "state")
    real.chmod(0o755)
    links.chmod(0o777)
    assert f": {links} (owner" in refusal(links / "state")


def test_links_are_followed_as_the_system_does(base: Path) -> None:
    open_to_all = made(base / "open", 0o777)
    made(open_to_all / "state", 0o700)
    made(base / "deep", 0o755)
    (base / "deep" / "up").symlink_to("../open/./state")
    (base / "link").symlink_to("deep/up")
    assert f": {open_to_all} (owner" in refusal(base / "link" / "journal")
    (base / "round").symlink_to("round")
    with pytest.raises(OSError, match="symbolic links"):
        check_path(base / "round", "server.state_dir")


@needs_root
def test_a_link_of_somebody_else_is_refused_and_not_what_it_leads_to(base: Path) -> None:
    made(base / "state", 0o700)
    link = base / "link"
    link.symlink_to(base / "state")
    os.lchown(link, STRANGER, STRANGER)
    assert f"chown -h root {link}" in refusal(link)


class TestGroups:
    """A group may write if there is nobody else in it (umask 0002)."""

    def write(self, base: Path) -> Path:
        return made(base / "state", 0o775)

    @needs_root
    def test_of_strangers_are_refused(self, base: Path) -> None:
        state = self.write(base)
        os.chown(state, 0, STRANGER)
        said = refusal(state)
        assert f"group {STRANGER}" in said
        assert f"chmod g-w {state}" in said

    @needs_root
    def test_of_us_alone_are_accepted(self, base: Path) -> None:
        state = self.write(base)
        os.chown(state, 0, 0)
        try:
            check_path(state, "server.state_dir")
        except UnsafePathError:
            pytest.skip("somebody else is in group root here")

    @needs_root
    def test_of_us_with_a_list_of_others_are_refused(self, base: Path) -> None:
        state = self.write(base)
        # user::rwx user:23456:rwx group::r-x mask::rwx other::r-x, as setxattr(2) takes it
        entries = [(1, 7, -1), (2, 7, STRANGER), (4, 5, -1), (0x10, 7, -1), (0x20, 5, -1)]
        acl = b"\x02\0\0\0" + b"".join(
            tag.to_bytes(2, "little") + mode.to_bytes(2, "little") + (who & 0xFFFFFFFF).to_bytes(4, "little")
            for tag, mode, who in entries
        )
        try:
            os.setxattr(state, "system.posix_acl_access", acl)
        except OSError:
            pytest.skip("this file system has no lists of access")
        assert "can be written to by group" in refusal(state)


class TestStateDirectory:
    def test_is_refused_before_anything_is_made_in_it(self, base: Path) -> None:
        state = made(base / "state", 0o777)
        with pytest.raises(UnsafePathError):
            StateDir(state)
        assert [*state.iterdir()] == []
        StateDir(state, strict=False).close()

    def test_is_judged_with_the_journal_that_is_kept_elsewhere(self, base: Path) -> None:
        state, elsewhere = made(base / "state", 0o700), made(base / "disk", 0o777)
        (state / "journal").symlink_to(elsewhere)
        with pytest.raises(UnsafePathError, match="disk"):
            StateDir(state)
        elsewhere.chmod(0o700)
        StateDir(state).close()


class TestSocket:
    def test_in_a_directory_that_all_may_write_to_is_refused(self, base: Path) -> None:
        run = made(base / "run", 0o777)
        with pytest.raises(UnsafePathError, match=r"server\.socket"):
            Listener(run / "s")
        assert [*run.iterdir()] == []
        listener = Listener(run / "s", strict=False)
        listener.socket.close()
        listener.close()

    @pytest.mark.parametrize("mode", [0o700, 0o750, 0o1777])
    def test_in_one_of_our_own_or_a_sticky_one_is_made(self, base: Path, mode: int) -> None:
        listener = Listener(made(base / "run", mode) / "s")
        assert listener.socket.family is socket.AF_UNIX
        listener.socket.close()
        listener.close()

    @needs_root
    def test_with_a_lock_of_somebody_else_is_refused(self, base: Path) -> None:
        run = made(base / "run", 0o1777)
        (run / "s.lock").write_text("")
        os.chown(run / "s.lock", STRANGER, STRANGER)
        # where fs.protected_regular is on, the kernel refuses it itself
        with pytest.raises((UnsafePathError, PermissionError), match=r"s\.lock"):
            Listener(run / "s")


@needs_root
@pytest.mark.parametrize(
    ("mapped", "accepted"), [("0 1000 1\n", True), ("0 0 4294967295\n", False), ("0 100000 65536\n", False)]
)
def test_owners_outside_of_a_user_namespace_count_as_root(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped: str, accepted: bool
) -> None:
    """As seen from inside of one, they have the overflow uid, unless that is the number of somebody in it."""
    (tmp_path / "uid_map").write_text(mapped)
    (tmp_path / "overflowuid").write_text(f"{STRANGER}\n")
    monkeypatch.setattr(strict_modes, "_UID_MAP", tmp_path / "uid_map")
    monkeypatch.setattr(strict_modes, "_OVERFLOW_UID", tmp_path / "overflowuid")
    state = made(base / "state", 0o700)
    os.chown(base, STRANGER, STRANGER)
    if accepted:
        check_path(state, "server.state_dir")
    else:
        refusal(state)
