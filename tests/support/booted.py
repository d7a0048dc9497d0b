"""A systemd that has booted, in a container that shares this machine's /usr and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

BOOTED_WITHIN_S = 60.0
HALTED_WITHIN_S = 30.0
LOOK_EVERY_S = 0.05

# Services of this machine that a fresh /etc would enable. They have no part in the tests, and want ports or time.
MASKED = ("redis-server", "prometheus", "prometheus-node-exporter", "apt-daily.timer", "apt-daily-upgrade.timer")


def why_not() -> str:
    """Why no systemd can boot here; empty if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root can boot a systemd in a container"
    for program in ("systemd-nspawn", "nsenter", "unshare"):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: systemd-container, util-linux)"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--net", "--fork", "true"], capture_output=True, text=True, check=False
    )
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


def system_python() -> str:
    """A Python of /usr, which is all that a container here shares with this machine; skips the test without one."""
    for candidate in sorted(Path("/usr/bin").glob("python3.[0-9]*"), reverse=True):
        usable = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))"
        if subprocess.run([candidate, "-c", usable], capture_output=True, check=False).returncode == 0:
            return str(candidate)
    pytest.skip("no Python 3.11 or newer with venv in /usr")


class NoContainerError(Exception):
    """nspawn itself can't work here; says why."""


class Booted:
    """The container: volatile, with a network of its own that has a loopback interface only.

    Args:
        read_only: paths of this machine, and where they are to be seen inside; not in /tmp, which systemd mounts.

    Raises:
        NoContainerError: nspawn has given up before a systemd ran.
    """

    def __init__(self, read_only: Mapping[Path, str]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the container
        command = [
            "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", f"--machine=callstate-{os.getpid()}",
            "--directory=/", "--volatile=yes", "--private-network", "--console=pipe", "--boot",
            *(f"--bind-ro={source}:{target}" for source, target in read_only.items()),
            "systemd.firstboot=off", "systemd.unit=multi-user.target",
            *(f"systemd.mask={name}" for name in MASKED),
        ]  # fmt: skip
        self._nspawn = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            self._leader = self._wait_for_leader()
            # degraded is as good: what else this machine has installed is not looked at here
            self.run("systemctl", "is-system-running", "--wait", check=False)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Halt it."""
        if self._nspawn.poll() is None:
            self._nspawn.send_signal(signal.SIGTERM)  # an orderly halt
            try:
                self._nspawn.wait(HALTED_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._nspawn.kill()
                self._nspawn.wait()
        self._log.close()

    # -- running commands -------------------------------------------------------------------------------------

    def command(self, *words: str, user: str = "") -> list[str]:
        """What runs a command inside: as root, or as a user with the user's groups."""
        inside = ["nsenter", f"--target={self._leader}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        inside += ["env", "--ignore-environment", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/"]
        if user:
            inside += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
        return [*inside, *words]

    def run(
        self, *words: str, user: str = "", check: bool = True, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside, with `text` as its input."""
        done = subprocess.run(
            self.command(*words, user=user), input=text, capture_output=True, text=True, timeout=120, check=False
        )
        assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file inside, with the directories that it needs."""
        self.run("install", "-D", f"--mode={mode:o}", "/dev/stdin", path, text=text)

    def read(self, path: str) -> str:
        """A file inside."""
        return self.run("cat", path).stdout

    # -- units ------------------------------------------------------------------------------------------------

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()

    def log(self, unit: str, since: str) -> str:
        """What a unit has logged since a cursor."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", f"--unit={unit}", "--output=cat", f"--after-cursor={since}").stdout

    def cursor(self) -> str:
        """Where the journal ends now."""
        self.run("journalctl", "--sync")
        last = self.run("journalctl", "--lines=1", "--output=cat", "--show-cursor").stdout
        return last.rpartition("-- cursor: ")[2].strip()

    @contextmanager
    def drop_in(self, unit: str, text: str) -> Iterator[None]:
        """A drop-in for a unit, which is gone afterwards; neither restarts the unit."""
        folder = f"/run/systemd/system/{unit}.d"
        self.write(f"{folder}/test.conf", text)
        self.run("systemctl", "daemon-reload")
        try:
            yield
        finally:
            self.run("rm", "--recursive", folder)
            self.run("systemctl", "daemon-reload")

    # -- the leader -------------------------------------------------------------------------------------------

    def _wait_for_leader(self) -> int:
        """The process id of the container's systemd, once it is one."""
        until = time.monotonic() + BOOTED_WITHIN_S
        while time.monotonic() < until:
            if self._nspawn.poll() is not None:
                break
            for child in _children(self._nspawn.pid):
                if _accepts(child):
                    return child
            time.sleep(LOOK_EVERY_S)
        gave_up = self._nspawn.poll() is not None
        self._log.seek(0)
        said = self._log.read().decode(errors="replace")
        if gave_up:
            raise NoContainerError(said)
        raise AssertionError(f"no systemd has booted:\n{said}")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _accepts(pid: int) -> bool:
    """Whether a process is a systemd that systemctl can reach; it may be one of nspawn's helpers, and be gone."""
    try:
        is_systemd = Path(f"/proc/{pid}/comm").read_text().strip() == "systemd"
        return is_systemd and Path(f"/proc/{pid}/root/run/systemd/private").exists()
    except OSError:
        return False
