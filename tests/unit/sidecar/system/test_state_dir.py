"""One daemon a state directory, and the host's id in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from callstate_sidecar.system.state_dir import HOST_ID_NAME, AlreadyRunningError, StateDir


def test_it_is_made_for_us_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        state = StateDir(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    state.close()


def test_the_error_of_a_second_daemon_names_the_first(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    with pytest.raises(AlreadyRunningError, match=f"pid {os.getpid()}"):
        StateDir(tmp_path)
    state.close()
    StateDir(tmp_path).close()


def test_a_holder_that_died_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from callstate_sidecar.system.state_dir import StateDir\n"
        "StateDir(Path(sys.argv[1])); print('held', flush=True); os.kill(os.getpid(), 9)"
    )
    died = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, timeout=30
    )
    assert died.stdout == "held\n", died.stderr
    assert died.returncode == -9
    StateDir(tmp_path).close()


def test_the_host_id_stays(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    first = state.host_id("")
    assert len(first) == 16
    assert state.host_id("") == first
    state.close()
    again = StateDir(tmp_path)
    assert again.host_id("") == first
    again.close()


def test_hosts_differ(tmp_path: Path) -> None:
    states = [StateDir(tmp_path / name) for name in "ab"]
    assert len({state.host_id("") for state in states}) == 2
    for state in states:
        state.close()


def test_a_configured_id_goes_first_and_is_not_kept(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    assert state.host_id("pod-7") == "pod-7"
    assert not (tmp_path / HOST_ID_NAME).exists()
    state.close()


def test_an_empty_id_file_is_written_again(tmp_path: Path) -> None:
    """A crash may leave one."""
    (tmp_path / HOST_ID_NAME).write_text("\n")
    state = StateDir(tmp_path)
    fresh = state.host_id("")
    assert fresh
    assert (tmp_path / HOST_ID_NAME).read_text().strip() == fresh
    state.close()


@pytest.mark.parametrize("left", [b"", b"\0" * 17, b"3f2a", b"3f2a\n", b"\xff\xfe"])
def test_an_id_damaged_by_a_power_loss_is_restored_from_the_journal(tmp_path: Path, left: bytes) -> None:
    (tmp_path / HOST_ID_NAME).write_bytes(left)
    state = StateDir(tmp_path)
    assert state.host_id("", "3f2a00112233aabb") == "3f2a00112233aabb"
    assert (tmp_path / HOST_ID_NAME).read_text() == "3f2a00112233aabb\n"
    state.close()


def test_a_lost_id_is_restored_from_the_journal_and_a_whole_one_goes_first(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    assert state.host_id("", "pod-7") == "pod-7"
    (tmp_path / HOST_ID_NAME).write_text("0123456789abcdef\n")
    assert state.host_id("", "pod-7") == "0123456789abcdef"
    state.close()


def test_a_fresh_id_is_on_disk_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    for name in ("fsync", "fdatasync"):
        real = getattr(os, name)

        def noted(fd: int, real: Callable[[int], None] = real) -> None:
            synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)
            real(fd)

        monkeypatch.setattr(os, name, noted)
    state = StateDir(tmp_path)
    state.host_id("")
    assert synced == [f"{HOST_ID_NAME}.tmp", tmp_path.name]
    state.close()


def test_a_file_in_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(OSError, match="exists"):
        StateDir(tmp_path / "state")
