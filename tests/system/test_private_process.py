"""What other processes may learn of the daemon's memory and files, and starts that refuse because of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from callstate_sidecar.system.exits import Exit
from support.daemon import Daemon
from support.wire import Wire

pytestmark = [pytest.mark.system]

STRANGER = 23456
PR_GET_DUMPABLE = 3
SESSION = {"id": "a", "provider": "p", "direction": "inbound", "from": "1", "to": "2"}

# Python may be in a directory of root's, so a stranger's daemon may read everything; it may write nothing more.
AS_STRANGER = [
    "setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups",
    "--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search", "--",
]  # fmt: skip


class AsStranger(Daemon):
    """A daemon of a user without any rights."""

    def __init__(self, *args: str) -> None:
        super().__init__(*args)
        os.chown(self.root, STRANGER, STRANGER)

    def command(self) -> list[str]:
        return [*AS_STRANGER, *super().command()]


def limit(daemon: Daemon) -> str:
    assert daemon.process is not None
    text = Path(f"/proc/{daemon.process.pid}/limits").read_text()
    found = re.search(r"^Max core file size +(\S+) +(\S+)", text, re.MULTILINE)
    assert found is not None
    return " ".join(found.groups())


class TestRefusedPlaces:
    @pytest.mark.parametrize("check", [[], ["--check"]])
    @pytest.mark.parametrize("what", ["state", "run"])
    def test_are_named_with_owner_mode_and_remedy(self, what: str, check: list[str]) -> None:
        daemon = Daemon(*check)
        place = daemon.root / what
        daemon.socket = daemon.root / "run" / "s"
        for name in ("state", "run"):
            (daemon.root / name).mkdir(mode=0o700)
        place.chmod(0o777)
        try:
            done = subprocess.run(daemon.command(), capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == Exit.USAGE, done.stderr
            assert len(done.stderr.splitlines()) == 1
            assert f"{place} (owner " in done.stderr
            assert "mode 0777" in done.stderr
            assert f"chmod go-w {place}" in done.stderr
            if what == "state":
                assert [*place.iterdir()] == []
            daemon.args.append("--set=server.strict_modes=false")
            if check:
                assert (
                    subprocess.run(daemon.command(), capture_output=True, timeout=60, check=False).returncode == 0
                )
            else:
                daemon.start()
                assert daemon.terminate() == 0
        finally:
            daemon.close()

    def test_include_that_of_an_sqlite_file_elsewhere(self) -> None:
        daemon = Daemon()
        (daemon.root / "elsewhere").mkdir()
        (daemon.root / "elsewhere").chmod(0o777)
        daemon.store = f"sqlite:{daemon.root}/elsewhere/calls.db"
        try:
            done = subprocess.run(daemon.command(), capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == Exit.USAGE, done.stderr
            assert "store.url: " in done.stderr
            assert not [*(daemon.root / "elsewhere").iterdir()]
        finally:
            daemon.close()


def test_every_file_is_for_its_owner_alone_whatever_the_umask() -> None:
    daemon, before = Daemon(), os.umask(0)
    try:
        daemon.start()
        with closing(Wire(daemon.socket)) as wire:
            wire.call("session.save", session=SESSION)
            wire.call("server.flush")
        modes = {path.name: path.stat().st_mode & 0o077 for path in daemon.root.rglob("*") if path.name != "log"}
        assert modes.keys() >= {"callstate.db-wal", "s.lock", "lock", "host-id", "MANIFEST"}
        assert not any(modes.values()), modes
    finally:
        os.umask(before)
        daemon.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root repairs what belongs to another user")
def test_a_repair_by_root_leaves_what_the_owner_can_open() -> None:
    daemon = AsStranger()
    try:
        daemon.start()
        with closing(Wire(daemon.socket)) as wire:
            wire.call("session.save", session=SESSION)
        assert daemon.terminate() == 0
        command = [sys.executable, "-m", "callstate_sidecar", "journal", "repair", str(daemon.state_dir)]
        subprocess.run(command, check=True, capture_output=True)
        owners = {path.stat().st_uid for path in daemon.state_dir.rglob("*")}
        assert owners == {STRANGER}
        daemon.start()
        with closing(Wire(daemon.socket)) as wire:
            assert wire.call("session.load", session_id="a")["session"]["id"] == "a"
    finally:
        daemon.close()
