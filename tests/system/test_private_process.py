"""What other processes may learn of the daemon's memory and files, and starts that refuse because of it."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from callstate_sidecar.system.exits import Exit
from support.daemon import Daemon
from support.journals import write_long_journal
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


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="root becomes another user, on Linux")
class TestCoreDumps:
    def test_are_impossible_and_its_own_user_can_not_look_into_the_daemon(self) -> None:
        with AsStranger() as daemon:
            assert daemon.process is not None
            assert limit(daemon) == "0 0"
            # of a process that is not dumpable everything in /proc belongs to root (proc_pid_environ(5))
            assert Path(f"/proc/{daemon.process.pid}/environ").stat().st_uid == 0
            with closing(Wire(daemon.socket)) as wire:  # peers are known by their pidfds all the same
                wire.call("worker.register", worker_id="w")
                assert wire.call("server.info")["liveness"]
                assert wire.call("server.stats")["connections"] == 1
            assert daemon.terminate() == 0

    def test_are_possible_with_a_key(self) -> None:
        before = " ".join(
            "unlimited" if value == resource.RLIM_INFINITY else str(value)
            for value in resource.getrlimit(resource.RLIMIT_CORE)
        )
        with AsStranger("--set", "server.core_dumps=true") as daemon:
            assert limit(daemon) == before
            assert daemon.process is not None
            assert Path(f"/proc/{daemon.process.pid}/environ").stat().st_uid == STRANGER

    def test_are_impossible_for_what_it_forks(self) -> None:
        code = (
            "import ctypes, os, resource; from callstate_sidecar.system import core_dumps; core_dumps.forbid()\n"
            f"look = lambda: ctypes.CDLL(None).prctl({PR_GET_DUMPABLE}, 0, 0, 0, 0)\n"
            "pid = os.fork()\n"
            "assert look() == 0 and resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)\n"
            "if not pid: os.abort()\n"
            "status = os.waitpid(pid, 0)[1]; assert os.WTERMSIG(status) == 6 and not os.WCOREDUMP(status)\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


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


# Signals at the first moment that a program can know of: as the first module after the handlers is imported.
EARLY = """
import os, signal, sys
class Hit:
    def find_spec(self, name, path=None, target=None):
        if name == "uvloop":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.{name})
sys.meta_path.insert(0, Hit())
sys.argv[1:] = {argv}
from callstate_sidecar.__main__ import main
main()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_stop_during_the_imports_leaves_before_serving_with_status_0(name: str) -> None:
    daemon = Daemon()
    try:
        write_long_journal(daemon.state_dir / "journal", turns=50)
        files = {path.name: path.read_bytes() for path in (daemon.state_dir / "journal").iterdir()}
        code = EARLY.format(name=name, argv=daemon.command()[3:])
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == Exit.OK, done.stderr
        assert f"{name}: stopped before it was ready" in done.stderr
        assert {path.name: path.read_bytes() for path in (daemon.state_dir / "journal").iterdir()} == files
    finally:
        daemon.close()


def test_a_reload_during_the_imports_does_not_end_the_start() -> None:
    daemon = Daemon()
    plain = daemon.command()[3:]
    daemon.command = lambda: [sys.executable, "-c", EARLY.format(name="SIGHUP", argv=plain)]  # type: ignore[method-assign]
    try:
        daemon.start()
        assert daemon.end_with(signal.SIGTERM) == 0
        assert "reloaded:" in daemon.log()
    finally:
        daemon.close()


def test_a_check_is_ended_by_a_signal_as_usual() -> None:
    code = EARLY.format(name="SIGTERM", argv=["--check"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGTERM
