"""What a soak runs against: a daemon whose clock can be set, a Redis behind a faulty proxy, and a small disk."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from soak import clocked
from soak.oracles import Losses, Violation
from soak.resources import Sample, take
from support.daemon import TROUBLE, Daemon
from support.fault_proxy import FaultProxy
from support.redis_server import RedisServer, binaries
from support.redis_states import OPTIONS
from support.wire import Refused, Wire

HEARTBEAT_TIMEOUT_S = 20.0
"""Far more than any stop of a worker, so that a call of a worker that lives is never due."""

SETTINGS = {
    "store.flush_interval_s": 0.05, "store.timeout_s": 1.0, "store.beat_interval_s": 1.0,
    "journal.checkpoint_min_bytes": 262144, "journal.sync_interval_s": 0.05,
    "reaper.heartbeat_timeout_s": HEARTBEAT_TIMEOUT_S, "reaper.grace_s": 20.0, "reaper.retention_s": 20.0,
    "limits.events": 50_000, "limits.reply_bytes_total": 64 << 20, "server.core_dumps": "true",
}  # fmt: skip
"""Small intervals, so that much happens in three minutes; all events kept, so that each reconnect can resume. Core
dumps are allowed, as a daemon without them shows its descriptors to root alone."""

EXPECTED = "the store|Redis|superseded|journal|checkpoint|File too large|No space|disk|stalled"
"""Error lines of the daemon that the faults explain. A traceback is never one of them."""

STATS_WITHIN_S = 1.0
"""A daemon that is stopped, or busy with a flood, gives no figures."""

DISK_MIB = 96
SPARE_BYTES = 512 * 1024
"""What is left on a disk that is filled: no room for another segment."""

UP_WITHIN_S = 120.0


class SoakedDaemon(Daemon):
    """A daemon whose wall clock can be set."""

    @property
    def offset(self) -> Path:
        """The file with the offset of its clock."""
        return self.root / "clock"

    def command(self) -> list[str]:
        """The command line."""
        return [super().command()[0], clocked.__file__, str(self.offset), *super().command()]


class Stage:
    """Daemon, store and disk of a run; an asynchronous context manager.

    Args:
        seed: of the proxy's faults.
    """

    def __init__(self, seed: int) -> None:
        self.losses = Losses()
        self.redis = RedisServer(binaries()["valkey"], *OPTIONS)
        self.proxy = FaultProxy(self.redis.socket, seed)
        settings = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
        self.daemon = SoakedDaemon(*settings, store=self.proxy.url)
        self.daemon.offset.write_bytes(bytes(clocked.OFFSET.size))
        self._disk = self.daemon.root / "disk"
        self._mounted = False
        self._going = asyncio.Lock()

    async def __aenter__(self) -> Stage:
        self._mount()
        self.daemon.state_dir = self._disk / "state"
        await asyncio.to_thread(self.redis.start)
        await self.proxy.__aenter__()
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing: whether the directory is kept is known only outside."""

    async def close(self, *, keep: bool) -> None:
        """End daemon and store; `keep` the daemon's directory, with its log and a copy of its journal."""
        try:
            process = self.daemon.process
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
            await self.proxy.__aexit__()
            self.redis.close()
        finally:
            if keep and self._mounted:
                shutil.copytree(self._disk, self.daemon.root / "disk-copy")
            if self._mounted:
                subprocess.run(["umount", "-l", str(self._disk)], check=True)
            if not keep:
                shutil.rmtree(self.daemon.root, ignore_errors=True)

    # -- the disk -------------------------------------------------------------------------------------------

    def _mount(self) -> None:
        """A small file system if this user may mount one; else the disk is filled by a limit on files alone."""
        self._disk.mkdir()
        if os.geteuid() == 0:
            words = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=0700", "tmpfs", str(self._disk)]
            self._mounted = subprocess.run(words, capture_output=True, check=False).returncode == 0

    def fill_disk(self) -> None:
        """Leave no room on the daemon's disk."""
        if not self._mounted:
            self.limit_files()
            return
        room = os.statvfs(self._disk)
        ballast = room.f_bavail * room.f_frsize - SPARE_BYTES
        with (self._disk / "ballast").open("wb") as file:
            while ballast > 0:
                try:
                    os.posix_fallocate(file.fileno(), 0, ballast)
                except OSError:  # the daemon has taken some meanwhile
                    ballast -= SPARE_BYTES
                else:
                    return

    def empty_disk(self) -> None:
        """Make room again."""
        (self._disk / "ballast").unlink(missing_ok=True)
        self.unlimit_files()

    def limit_files(self) -> None:
        """No file of the daemon takes another byte."""
        self._limit(1)

    def unlimit_files(self) -> None:
        """They do again."""
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        with suppress(ProcessLookupError):
            hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (size if size < 2 else hard, hard))

    # -- the daemon -----------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Of the daemon."""
        assert self.daemon.process is not None
        return self.daemon.process.pid

    async def start(self) -> None:
        """Start the daemon, and return when it serves."""
        async with self._going:
            self.daemon.launch()
            deadline = time.monotonic() + UP_WITHIN_S
            while not await asyncio.to_thread(self.daemon.answers):
                assert self.daemon.process is not None
                if self.daemon.process.poll() is not None or time.monotonic() > deadline:
                    raise Violation(f"the daemon does not start ({self.daemon.process.returncode})")
                await asyncio.sleep(0.02)

    def set_clock(self, offset_us: int) -> None:
        """Set the daemon's wall clock."""
        clocked.set_offset(self.daemon.offset, offset_us)

    def sample(self) -> Sample | None:
        """Its figures now; None while there is no daemon."""
        try:
            return take(time.monotonic(), self.pid, self.daemon.state_dir, self._hot_bytes())
        except OSError:
            return None

    def _hot_bytes(self) -> float | None:
        """What its sessions take, as it says; None: it does not answer."""
        try:
            wire = Wire(self.daemon.socket, STATS_WITHIN_S)
            try:
                return float(wire.call("server.stats")["hot_bytes"])
            finally:
                wire.close()
        except (OSError, ValueError, RuntimeError, AssertionError, Refused):
            return None

    def check_log(self) -> None:
        """The daemon has logged no error that the faults don't explain."""
        check_lines(TROUBLE.findall(self.daemon.log()))


def check_lines(trouble: list[str]) -> None:
    """None of these lines of the log is a traceback, or an error that no fault explains."""
    for line in trouble:
        explained = any(word in line for word in EXPECTED.split("|"))
        if not explained or "Traceback" in line or "never retrieved" in line:
            raise Violation(f"the daemon has logged: {line}")
