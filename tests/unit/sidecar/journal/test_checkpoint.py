"""Checkpoints: whole at every moment, in slices, beside a log that goes on."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from callstate_sidecar.journal import Checkpointer, JournalDamagedError, Maintenance
from callstate_sidecar.journal.layout import logs, snapshot_path, spare_path
from callstate_sidecar.journal.manifest import read_manifest
from callstate_sidecar.metrics import Metrics
from support.budget import sample
from support.journals import (
    FaultyFiles,
    JournaledTable,
    Killed,
    VolatileFiles,
    done_then_killed,
    eio,
    killed,
    recovered,
    turn,
)


def filled(directory: Path, files: FaultyFiles | None = None, sessions: int = 20) -> JournaledTable:
    journaled = JournaledTable(directory, files)
    for number in range(sessions):
        journaled.create(f"s{number}")
        journaled.add_turn(f"s{number}", turn(number))
    journaled.delete("s3")
    return journaled


def test_a_checkpoint_has_everything_and_the_log_before_it_is_removed(tmp_path: Path) -> None:
    journaled = filled(tmp_path, sessions=100)
    before = journaled.journal.log_bytes
    journaled.checkpoint()
    assert journaled.journal.log_bytes == 0
    assert 0 < journaled.journal.snapshot_bytes < before
    assert len(logs(tmp_path)) == 1
    journaled.add_turn("s1", turn(500))
    journaled.journal.close()
    again = JournaledTable(tmp_path)
    assert again.state() == journaled.state()
    assert again.journal.snapshot_bytes == journaled.journal.snapshot_bytes
    again.journal.close()


@pytest.mark.parametrize("failure", [killed, done_then_killed], ids=["before", "after"])
def test_a_kill_at_every_step_leaves_a_whole_journal(tmp_path: Path, failure: object) -> None:
    counting = FaultyFiles(10**9, failure)  # type: ignore[arg-type]
    journaled = filled(tmp_path / "counted", counting)
    first = counting.count
    journaled.checkpoint()
    journaled.journal.close()
    steps = range(first, counting.count)
    assert len(steps) > 8
    for step in steps:
        directory = tmp_path / f"step{step}"
        files = FaultyFiles(step, failure)  # type: ignore[arg-type]
        journaled = filled(directory, files)
        with pytest.raises(Killed):
            journaled.checkpoint()
        journaled.journal.close()
        again = JournaledTable(directory)
        assert again.state() == journaled.state(), f"killed at {files.failed}"
        again.add_turn("s1", turn(77))
        again.checkpoint()
        again.journal.close()
        assert recovered(directory) == again.state()
        assert not list(directory.glob("*.tmp"))
        shutil.rmtree(directory)


def test_a_checkpoint_that_fails_changes_nothing_and_the_next_one_works(tmp_path: Path) -> None:
    counting = FaultyFiles(10**9, eio)
    journaled = filled(tmp_path / "counted", counting)
    first = counting.count
    journaled.checkpoint()
    journaled.journal.close()
    for step in range(first, counting.count):
        directory = tmp_path / f"step{step}"
        files = FaultyFiles(step, eio)
        journaled = filled(directory, files)
        try:
            journaled.checkpoint()
        except OSError:
            pass
        else:  # what may fail without harm: giving back room, and removing what is not needed any more
            assert files.failed in ("truncate", "rename", "unlink")
        journaled.add_turn("s1", turn(88))
        journaled.checkpoint()
        journaled.add_turn("s2", turn(99))
        journaled.journal.close()
        assert recovered(directory) == journaled.state(), f"failed at {files.failed}"
        shutil.rmtree(directory)


def test_a_snapshot_that_was_adopted_must_be_whole(tmp_path: Path) -> None:
    journaled = filled(tmp_path)
    journaled.checkpoint()
    journaled.journal.close()
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert manifest.snapshot is not None
    path = snapshot_path(tmp_path, manifest.snapshot)
    data = path.read_bytes()
    for at in sample(range(0, len(data), 7)):
        path.write_bytes(data[:at])
        with pytest.raises(JournalDamagedError):
            recovered(tmp_path)
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 2
    path.write_bytes(flipped)
    with pytest.raises(JournalDamagedError):
        recovered(tmp_path)


async def test_changes_during_a_checkpoint_are_kept(tmp_path: Path) -> None:
    """Changes, creations and deletions between slices, of sessions already in the snapshot and not yet."""
    journaled = filled(tmp_path, sessions=60)
    meanwhile = iter(range(10_000))

    def records():  # type: ignore[no-untyped-def]
        for record in journaled.harness.snapshot():
            yield record
            number = next(meanwhile)
            journaled.add_turn("s0", turn(number))
            journaled.add_turn("s59", turn(number))
            if number == 10:
                journaled.delete("s1")
                journaled.delete("s50")
                journaled.create("new")
            if number == 20:
                journaled.create("s1")

    await Checkpointer(journaled.journal, journaled.files, records, lambda: None).run()
    journaled.journal.close()
    assert next(meanwhile) > 50
    assert recovered(tmp_path) == journaled.state()


async def test_the_loop_runs_between_slices(tmp_path: Path) -> None:
    journaled = filled(tmp_path, sessions=2000)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counter = asyncio.ensure_future(count_turns())
    await Checkpointer(journaled.journal, journaled.files, journaled.harness.snapshot, lambda: None).run()
    counter.cancel()
    assert turns > 3
    journaled.journal.close()


async def test_maintenance_checkpoints_when_the_log_has_outgrown_what_lives(tmp_path: Path) -> None:
    journaled = JournaledTable(tmp_path, checkpoint_min_bytes=20_000)
    journaled.create("a")
    done = asyncio.Event()

    class Told(Checkpointer):
        async def run(self) -> None:
            await super().run()
            done.set()

    fatal: list[OSError] = []
    told = Told(journaled.journal, journaled.files, journaled.harness.snapshot, lambda: None)
    maintenance = Maintenance(journaled.journal, told, 0.001, fatal.append, Metrics())
    maintenance.start()
    assert not journaled.journal.checkpoint_due
    number = 0
    while not journaled.journal.checkpoint_due:
        journaled.add_turn("a", turn(number % 10))
        number += 1
    await asyncio.wait_for(done.wait(), 10)
    assert journaled.journal.log_bytes < 20_000
    await maintenance.stop()
    assert not fatal
    journaled.journal.close()
    assert recovered(tmp_path) == journaled.state()


async def test_the_log_stays_bounded_by_what_lives_however_much_is_written(tmp_path: Path) -> None:
    journaled = JournaledTable(tmp_path, checkpoint_min_bytes=30_000)
    journaled.create("a")
    checkpointer = Checkpointer(journaled.journal, journaled.files, journaled.harness.snapshot, lambda: None)
    most = 0
    for number in range(4000):
        if number % 50 == 0:
            journaled.delete("a")
            journaled.create("a")
        journaled.add_turn("a", turn(number))
        if journaled.journal.checkpoint_due:
            await checkpointer.run()
        most = max(most, journaled.journal.log_bytes)
    assert most < 2 * 30_000 + 4096
    assert journaled.journal.disk_bytes() < 4 * 30_000
    journaled.journal.close()


async def test_maintenance_comes_back_when_the_directory_does(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    journaled = filled(directory)
    shutil.rmtree(directory)
    with pytest.raises(OSError, match="deleted"):
        journaled.add_turn("s1", turn(1))
    done = asyncio.Event()

    class Told(Checkpointer):
        async def run(self) -> None:
            await super().run()
            done.set()

    maintenance = Maintenance(
        journaled.journal,
        Told(journaled.journal, journaled.files, journaled.harness.snapshot, lambda: None),
        0.001,
        pytest.fail,
        Metrics(),
    )
    maintenance.start()
    await asyncio.wait_for(done.wait(), 10)
    await maintenance.stop()
    journaled.add_turn("s1", turn(2))
    journaled.journal.close()
    assert recovered(directory) == journaled.state()


def erasing(journaled: JournaledTable, *, logged: bool = True) -> Maintenance:
    checkpointer = Checkpointer(journaled.journal, journaled.files, journaled.harness.snapshot, lambda: None)
    return Maintenance(journaled.journal, checkpointer, 60.0, pytest.fail, Metrics(), logged=logged)


def holding(directory: Path, marker: bytes) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if marker in path.read_bytes())


@pytest.mark.parametrize("logged", [True, False])
async def test_an_erasure_leaves_no_file_with_earlier_records(tmp_path: Path, logged: bool) -> None:
    journaled = filled(tmp_path)
    journaled.journal.roll()
    newest = journaled.journal.segment
    # a segment without records that was begun in a used file, a spare, and a tail that was cut off
    journaled.files.write(newest.fd, b"used before", newest.end + 1000)
    spare_path(tmp_path, 0).write_bytes(b"used before")
    (tmp_path / "log-000000000001.aside-1").write_bytes(b"used before")
    assert len(holding(tmp_path, b"used before")) == 3
    await erasing(journaled, logged=logged).erase()
    assert holding(tmp_path, b"used before") == []
    assert len(logs(tmp_path)) == 1
    assert recovered(tmp_path) == (journaled.state() if logged else {})
    journaled.journal.close()


async def test_an_erasure_after_the_stop_is_refused(tmp_path: Path) -> None:
    journaled = filled(tmp_path)
    maintenance = erasing(journaled)
    await maintenance.stop()
    with pytest.raises(OSError, match="stopping"):
        await maintenance.erase()
    journaled.journal.close()


async def test_an_erasure_says_if_a_file_can_not_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journaled = filled(tmp_path)
    monkeypatch.setattr(journaled.files, "unlink", lambda _: None)
    with pytest.raises(OSError, match="could not be removed"):
        await erasing(journaled).erase()
    assert recovered(tmp_path) == journaled.state()
    journaled.journal.close()


def test_memory_forgets_what_was_replayed_but_for_a_clean_stop(tmp_path: Path) -> None:
    journaled = filled(tmp_path)
    journaled.checkpoint()
    journaled.journal.close()
    again = JournaledTable(tmp_path)
    again.journal.discard_replayed()
    assert recovered(tmp_path) == {}  # killed now: all is lost, and nothing old comes back
    again.checkpoint()
    again.journal.close()
    assert recovered(tmp_path) == again.state() == journaled.state()


def test_a_power_loss_takes_what_was_not_synced_and_never_the_start(tmp_path: Path) -> None:
    """At every moment from the first start on: what was synced is there, and nothing keeps a start."""
    files = VolatileFiles()
    journaled = JournaledTable(tmp_path / "journal", files)
    losses = 0

    def lose(expected: dict[str, bytes]) -> None:
        nonlocal losses
        losses += 1
        remains = tmp_path / f"loss{losses}"
        files.lose_power(journaled.journal.directory, remains)
        assert recovered(remains) == expected

    lose({})
    for round_ in range(3):
        for number in range(30):
            if f"s{number}" not in journaled.harness.table.sessions:
                journaled.create(f"s{number}")
            journaled.add_turn(f"s{number}", turn(number))
        journaled.journal.sync()
        lose(journaled.state())
        journaled.checkpoint()
        lose(journaled.state())
        synced = journaled.state()
        journaled.add_turn("s1", turn(round_))
        lose(synced)
    journaled.journal.discard_replayed()
    lose({})
    journaled.journal.close()


def test_a_checkpoint_is_due_when_a_replay_would_take_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callstate_sidecar.journal.log.MAX_RECORDS", 50)
    journaled = JournaledTable(tmp_path)
    journaled.create("a")
    for number in range(49):
        journaled.add_turn("a", turn(number))
    assert not journaled.journal.checkpoint_due
    journaled.add_turn("a", turn(50))
    assert journaled.journal.checkpoint_due
    journaled.journal.close()
    again = JournaledTable(tmp_path)
    assert again.journal.checkpoint_due
    again.checkpoint()
    assert not again.journal.checkpoint_due
    again.journal.close()
