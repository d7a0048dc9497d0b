"""Durability `power`: no reply leaves before what it tells of is on disk."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from callstate_sidecar.journal import Files, Journal, SyncGate
from callstate_sidecar.serving.connection import ClientConnection
from callstate_sidecar.serving.server import Server
from support.core import Core
from support.journals import recovered
from support.wire import Wire

pytestmark = pytest.mark.usefixtures("unhurried")


class SlowDisk(Files):
    """Syncs that wait until they are let through."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.allowed = threading.Semaphore(0)
        self.held = False
        self.error: OSError | None = None
        self.syncs = 0

    def sync(self, fd: int) -> None:
        """Sync, when allowed."""
        if self.held:
            self.begun.release()
            assert self.allowed.acquire(timeout=20)
        if self.error is not None:
            raise self.error
        self.syncs += 1
        super().sync(fd)


class Served:
    """A server at durability `power` on a real socket, in this process."""

    def __init__(self, core: Core, journal: Journal, disk: SlowDisk, path: Path) -> None:
        self.core, self.journal, self.disk, self.path = core, journal, disk, path
        self.failed: list[OSError] = []
        gate = SyncGate(lambda: journal.unsynced, self._sync, self.failed.append)
        self.server = Server(core.engine, journal, core.metrics, core.config.limits, gate)
        core.serve(self.server, journal)

    async def _sync(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.journal.sync)

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_unix_server(
            lambda: ClientConnection(self.server, 1 << 20), str(self.path)
        )

    def _connection(self) -> ClientConnection:
        return ClientConnection(self.server, line_bytes=1 << 20)

    async def stop(self) -> None:
        self._listening.close()
        for connection in [*self.server.connections]:
            connection.close()
        await asyncio.sleep(0)
        self.journal.close()


@pytest.fixture
async def served(tmp_path: Path, short_dir: Path) -> AsyncIterator[Served]:
    disk = SlowDisk()
    journal = Journal(tmp_path, checkpoint_min_bytes=1 << 30, files=disk)
    journal.start()
    served = Served(Core(journal=journal), journal, disk, short_dir / "s")
    await served.start()
    yield served
    await served.stop()


async def ask(wire: Wire, method: str, **params: object) -> object:
    return await asyncio.to_thread(lambda: wire.call(method, **params))


async def test_a_write_is_answered_when_it_is_on_disk_and_so_is_a_read_that_saw_it(served: Served) -> None:
    with Wire(served.path) as writer, Wire(served.path) as reader:
        await ask(writer, "session.save", session={"id": "c1"})
        served.disk.held = True
        written = asyncio.ensure_future(ask(writer, "session.add_turn", session_id="c1", turn={"content": "hi"}))
        await asyncio.to_thread(served.disk.begun.acquire)
        read = asyncio.ensure_future(ask(reader, "session.load", session_id="c1"))
        await until_counted(served, "session.load")
        done, _ = await asyncio.wait([written, read], timeout=0.05)
        assert not done, "a reply left before the disk had it"
        served.disk.held = False
        served.disk.allowed.release()
        assert (await written)["turn_count"] == 1  # type: ignore[index]
        assert (await read)["turn_count"] == 1  # type: ignore[index]
        assert served.journal.unsynced == 0


async def until_counted(served: Served, method: str) -> None:
    """Return when the request has been run."""
    async with asyncio.timeout(10):
        while not served.core.metrics.requests.get(method):
            await asyncio.sleep(0)


async def test_turns_that_come_while_a_sync_is_under_way_share_the_next(served: Served) -> None:
    with Wire(served.path) as first:
        await ask(first, "session.save", session={"id": "c1"})
        before = served.disk.syncs
        served.disk.held = True
        opener = asyncio.ensure_future(ask(first, "session.record_interruption", session_id="c1"))
        await asyncio.to_thread(served.disk.begun.acquire)
        others = [Wire(served.path) for _ in range(3)]  # threads: the pool has six
        asked = [
            asyncio.ensure_future(ask(wire, "session.record_interruption", session_id="c1")) for wire in others
        ]
        async with asyncio.timeout(10):
            while served.core.metrics.requests.get("session.record_interruption", 0) < 4:
                await asyncio.sleep(0)
        served.disk.held = False
        served.disk.allowed.release()
        await asyncio.gather(opener, *asked)
        assert served.disk.syncs - before == 2
        for wire in others:
            wire.close()


async def test_after_a_sync_that_failed_nothing_is_acknowledged(served: Served, tmp_path: Path) -> None:
    with Wire(served.path) as wire:
        await ask(wire, "session.save", session={"id": "c1"})
        served.disk.error = OSError(errno.EIO, "Input/output error")
        asked = asyncio.ensure_future(ask(wire, "session.record_interruption", session_id="c1"))
        async with asyncio.timeout(10):
            while not served.failed:
                await asyncio.sleep(0)
        done, _ = await asyncio.wait([asked], timeout=0.05)
        assert not done
        served.disk.error = None
        for connection in [*served.server.connections]:
            assert connection.transport is not None
            connection.transport.abort()
        with pytest.raises(AssertionError):
            await asked
    assert "c1" in recovered(tmp_path)
