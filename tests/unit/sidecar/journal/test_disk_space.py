"""Checkpoints that fail, again and again, and what they take of the disk."""

from __future__ import annotations

import asyncio
import errno
import threading
from pathlib import Path

import pytest

from callstate_sidecar.journal import Checkpointer, Maintenance, maintenance
from callstate_sidecar.journal.layout import logs, snapshots, spares
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.system.files import Files
from support.journals import JournaledTable, recovered, turn

SEGMENT = 64 * 1024


class FullFor(Files):
    """A disk that has no room for some files any more, once it is full."""

    def __init__(self, name: str, call: str) -> None:
        self.full = False
        self._name = name
        real = getattr(self, call)

        def refuse(path: Path, *rest: object) -> object:
            if self.full and path.name.startswith(self._name):
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            return real(path, *rest)

        setattr(self, call, refuse)


def filled(directory: Path, files: Files) -> JournaledTable:
    journaled = JournaledTable(directory, files, segment_bytes=SEGMENT)
    for number in range(20):
        journaled.create(f"s{number}")
        journaled.add_turn(f"s{number}", turn(number))
    return journaled


@pytest.mark.parametrize(
    ("name", "call"),
    [("snapshot", "create"), ("snapshot", "rename"), ("MANIFEST", "create"), ("MANIFEST", "rename")],
)
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_checkpoints_that_fail_leave_no_more_on_disk_each_time(
    tmp_path: Path, name: str, call: str, busy: bool
) -> None:
    files = FullFor(name, call)
    journaled = filled(tmp_path, files)
    checkpointer = Checkpointer(journaled.journal, files, journaled.harness.snapshot, lambda: None)
    files.full = True
    written = 0
    for attempt in range(30):
        with pytest.raises(OSError, match="No space left"):
            await checkpointer.run()
        if busy:
            journaled.add_turn("s1", turn(attempt))
            written += 512  # a record and the header of its segment, with room to spare
    # one segment to be written, a snapshot that came to nothing, and what the log really holds, in whole blocks
    blocks = 4096 * len(logs(tmp_path))
    assert journaled.journal.disk_bytes() < 2 * SEGMENT + written + blocks
    assert len(snapshots(tmp_path)) <= 1
    if not busy:
        assert len(logs(tmp_path)) == 2
    files.full = False
    await checkpointer.run()
    assert len(logs(tmp_path)) == len(snapshots(tmp_path)) == 1
    assert not list(tmp_path.glob("*.tmp"))
    journaled.journal.close()
    assert recovered(tmp_path) == journaled.state()


class Small(Files):
    """A disk that says how little room it has."""

    free: int | None = None
    taken = 0

    def free_bytes(self, path: Path) -> int | None:
        """As told, and a segment more for each spare that was given up."""
        return None if self.free is None else self.free + self.taken * SEGMENT

    def unlink(self, path: Path) -> None:
        """Remove, and count the spares."""
        self.taken += path.name.startswith("spare-")
        super().unlink(path)


def with_spares(directory: Path, files: Files) -> JournaledTable:
    journaled = filled(directory, files)
    number = 0
    while len(logs(directory)) < 5:
        journaled.add_turn("s1", turn(number))
        number += 1
    journaled.checkpoint()
    assert len(spares(directory)) == 4
    journaled.add_turn("s1", turn(0))
    return journaled


def test_room_is_looked_at_before_anything_is_written(tmp_path: Path) -> None:
    files = Small()
    journaled = with_spares(tmp_path, files)
    files.free = -4 * SEGMENT
    segments = list(logs(tmp_path))
    with pytest.raises(OSError, match="a checkpoint takes") as caught:
        journaled.checkpoint()
    assert caught.value.errno == errno.ENOSPC
    assert str(tmp_path) in str(caught.value)
    assert list(logs(tmp_path)) == segments
    assert len(spares(tmp_path)) == 1, "the others were given up, and one is needed"
    journaled.add_turn("s1", turn(1))
    journaled.journal.close()
    assert recovered(tmp_path) == journaled.state()


def test_spares_are_given_up_for_a_checkpoint(tmp_path: Path) -> None:
    files = Small()
    journaled = with_spares(tmp_path, files)
    files.free = journaled.journal.snapshot_bytes - SEGMENT - 1
    journaled.checkpoint()
    assert files.taken == 2
    journaled.journal.close()
    assert recovered(tmp_path) == journaled.state()


async def test_each_checkpoint_comes_while_the_disk_has_room_for_it(tmp_path: Path) -> None:
    """A log that may grow to four times the snapshot would leave none for the one that shortens it."""
    files = Small()
    journaled = filled(tmp_path, files)
    journaled.checkpoint()
    checkpointer = Checkpointer(journaled.journal, files, journaled.harness.snapshot, lambda: None)
    written = 0
    for number in range(3000):
        if number % 200 == 0:
            journaled.delete("s1")
            journaled.create("s1")
        files.free = 8 * SEGMENT - journaled.journal.disk_bytes()
        journaled.add_turn("s1", turn(number))
        assert not journaled.journal.checkpoint_due
        if journaled.journal.is_short_of_space():
            await checkpointer.run()  # raises OSError if there is too little
            written += 1
    assert written > 1
    journaled.journal.close()
    assert recovered(tmp_path) == journaled.state()


def grown(journaled: JournaledTable) -> None:
    """Let the log grow beyond what a checkpoint takes at least."""
    while journaled.journal.log_bytes <= max(SEGMENT, journaled.journal.snapshot_bytes):
        journaled.add_turn("s1", turn(0))


async def test_a_disk_that_fills_makes_a_checkpoint_due(tmp_path: Path) -> None:
    files = Small()
    journaled = filled(tmp_path, files)
    journaled.checkpoint()
    grown(journaled)
    done = asyncio.Event()

    class Told(Checkpointer):
        async def run(self) -> None:
            await super().run()
            done.set()

    checkpointer = Told(journaled.journal, files, journaled.harness.snapshot, lambda: None)
    files.free = journaled.journal.snapshot_bytes + journaled.journal.log_bytes
    upkeep = Maintenance(journaled.journal, checkpointer, 0.001, pytest.fail, Metrics())
    upkeep.start()
    await asyncio.wait_for(done.wait(), 10)
    await upkeep.stop()
    assert not journaled.journal.is_short_of_space()
    journaled.journal.close()
    assert recovered(tmp_path) == journaled.state()


def test_a_full_disk_makes_no_checkpoint_due_that_would_free_little(tmp_path: Path) -> None:
    files = Small()
    journaled = filled(tmp_path, files)
    journaled.checkpoint()
    files.free = 0
    assert not journaled.journal.is_short_of_space()
    grown(journaled)
    assert journaled.journal.is_short_of_space()
    files.free = None
    assert not journaled.journal.is_short_of_space(), "it is not known"
    journaled.journal.close()


def test_spares_count_as_room(tmp_path: Path) -> None:
    files = Small()
    journaled = with_spares(tmp_path, files)
    grown(journaled)
    needed = journaled.journal.snapshot_bytes + journaled.journal.log_bytes + SEGMENT
    files.free = needed - len(spares(tmp_path)) * SEGMENT
    assert not journaled.journal.is_short_of_space()
    files.free -= 1
    assert journaled.journal.is_short_of_space()
    journaled.journal.close()


async def test_a_stop_waits_for_the_thread_that_settles_a_checkpoint(tmp_path: Path) -> None:
    """Else that thread lets a manifest count whose snapshot the checkpoint of the stop has removed."""
    settling, allowed = threading.Event(), threading.Event()

    class Slow(Files):
        slow = False

        def rename(self, old: Path, new: Path) -> None:
            """Rename a snapshot when allowed."""
            if self.slow and new.name.startswith("snapshot-"):
                self.slow = False
                settling.set()
                assert allowed.wait(20)
            super().rename(old, new)

    files = Slow()
    journaled = filled(tmp_path, files)
    journaled.journal._checkpoint_min_bytes = 0
    checkpointer = Checkpointer(journaled.journal, files, journaled.harness.snapshot, lambda: None)
    files.slow = True
    upkeep = Maintenance(journaled.journal, checkpointer, 0.001, pytest.fail, Metrics())
    upkeep.start()
    while not settling.is_set():
        await asyncio.sleep(0)
    stopping = asyncio.get_running_loop().create_task(upkeep.stop())
    assert not (await asyncio.wait([stopping], timeout=0.05))[0]
    allowed.set()
    await stopping
    checkpointer.run_now()
    journaled.journal.close()
    assert recovered(tmp_path) == journaled.state()


async def test_a_fault_of_ours_in_a_checkpoint_is_logged_and_the_next_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(maintenance, "RETRY_S", 0)
    journaled = filled(tmp_path, Files())
    journaled.journal._checkpoint_min_bytes = 0
    done = asyncio.Event()

    class Faulty(Checkpointer):
        runs = 0

        async def run(self) -> None:
            self.runs += 1
            if self.runs == 1:
                raise OverflowError("can't serialize ints >= 2**64 or < -(2**63)")
            await super().run()
            done.set()

    metrics = Metrics()
    checkpointer = Faulty(journaled.journal, journaled.files, journaled.harness.snapshot, lambda: None)
    upkeep = Maintenance(journaled.journal, checkpointer, 0.001, pytest.fail, metrics)
    upkeep.start()
    await asyncio.wait_for(done.wait(), 10)
    await upkeep.stop()
    assert metrics.counters["checkpoints_failed"] == 1
    assert "the checkpoint failed: can't serialize ints" in caplog.text
    assert "Traceback" in caplog.text
    journaled.journal.close()
