"""Checkpoints: whole at every moment, in slices, beside a log that goes on."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from callstate_sidecar.journal import Checkpointer, JournalDamagedError, Maintenance
from callstate_sidecar.journal.layout import logs, snapshot_path
from callstate_sidecar.journal.manifest import read_manifest
from callstate_sidecar.metrics import Metrics
from support.journals import (
    FaultyFiles,
    Keeping,
    Killed,
    VolatileFiles,
    done_then_killed,
    eio,
    killed,
    recovered,
    turn,
)


def filled(directory: Path, files: FaultyFiles | None = None, sessions: int = 20) -> Keeping:
    keeping = Keeping(directory, files)
    for number in range(sessions):
        keeping.create(f"s{number}")
        keeping.add_turn(f"s{number}", turn(number))
    keeping.delete("s3")
    return keeping


def test_a_checkpoint_says_all_and_the_log_before_it_is_gone(tmp_path: Path) -> None:
    keeping = filled(tmp_path, sessions=100)
    before = keeping.journal.log_bytes
    keeping.checkpoint()
    assert keeping.journal.log_bytes == 0
    assert 0 < keeping.journal.snapshot_bytes < before
    assert len(logs(tmp_path)) == 1
    keeping.add_turn("s1", turn(500))
    keeping.journal.close()
    again = Keeping(tmp_path)
    assert again.state() == keeping.state()
    assert again.journal.snapshot_bytes == keeping.journal.snapshot_bytes
    again.journal.close()


@pytest.mark.parametrize("failure", [killed, done_then_killed], ids=["before", "after"])
def test_a_kill_at_every_step_leaves_a_whole_journal(tmp_path: Path, failure: object) -> None:
    counting = FaultyFiles(10**9, failure)  # type: ignore[arg-type]
    keeping = filled(tmp_path / "counted", counting)
    first = counting.count
    keeping.checkpoint()
    keeping.journal.close()
    steps = range(first, counting.count)
    assert len(steps) > 8
    for step in steps:
        directory = tmp_path / f"step{step}"
        files = FaultyFiles(step, failure)  # type: ignore[arg-type]
        keeping = filled(directory, files)
        with pytest.raises(Killed):
            keeping.checkpoint()
        keeping.journal.close()
        again = Keeping(directory)
        assert again.state() == keeping.state(), f"killed at {files.failed}"
        again.add_turn("s1", turn(77))
        again.checkpoint()
        again.journal.close()
        assert recovered(directory) == again.state()
        assert not list(directory.glob("*.tmp"))
        shutil.rmtree(directory)


def test_a_checkpoint_that_fails_changes_nothing_and_the_next_one_works(tmp_path: Path) -> None:
    counting = FaultyFiles(10**9, eio)
    keeping = filled(tmp_path / "counted", counting)
    first = counting.count
    keeping.checkpoint()
    keeping.journal.close()
    for step in range(first, counting.count):
        directory = tmp_path / f"step{step}"
        files = FaultyFiles(step, eio)
        keeping = filled(directory, files)
        try:
            keeping.checkpoint()
        except OSError:
            pass
        else:  # what may fail without harm: giving back room, and removing what is not needed any more
            assert files.failed in ("truncate", "rename", "unlink")
        keeping.add_turn("s1", turn(88))
        keeping.checkpoint()
        keeping.add_turn("s2", turn(99))
        keeping.journal.close()
        assert recovered(directory) == keeping.state(), f"failed at {files.failed}"
        shutil.rmtree(directory)


def test_a_snapshot_that_was_adopted_must_be_whole(tmp_path: Path) -> None:
    keeping = filled(tmp_path)
    keeping.checkpoint()
    keeping.journal.close()
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert manifest.snapshot is not None
    path = snapshot_path(tmp_path, manifest.snapshot)
    data = path.read_bytes()
    for at in range(0, len(data), 7):
        path.write_bytes(data[:at])
        with pytest.raises(JournalDamagedError):
            recovered(tmp_path)
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 2
    path.write_bytes(flipped)
    with pytest.raises(JournalDamagedError):
        recovered(tmp_path)


async def test_what_changes_while_a_checkpoint_is_written_is_kept(tmp_path: Path) -> None:
    """Changes, creations and deletions between slices, of sessions already in the snapshot and not yet."""
    keeping = filled(tmp_path, sessions=60)
    meanwhile = iter(range(10_000))

    def records():  # type: ignore[no-untyped-def]
        for record in keeping.hot.snapshot():
            yield record
            number = next(meanwhile)
            keeping.add_turn("s0", turn(number))
            keeping.add_turn("s59", turn(number))
            if number == 10:
                keeping.delete("s1")
                keeping.delete("s50")
                keeping.create("new")
            if number == 20:
                keeping.create("s1")

    await Checkpointer(keeping.journal, keeping.files, records, lambda: None).run()
    keeping.journal.close()
    assert next(meanwhile) > 50
    assert recovered(tmp_path) == keeping.state()


async def test_slices_let_the_loop_go_on(tmp_path: Path) -> None:
    keeping = filled(tmp_path, sessions=2000)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counter = asyncio.ensure_future(count_turns())
    await Checkpointer(keeping.journal, keeping.files, keeping.hot.snapshot, lambda: None).run()
    counter.cancel()
    assert turns > 3
    keeping.journal.close()


async def test_maintenance_checkpoints_when_the_log_has_outgrown_what_lives(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path, checkpoint_min_bytes=20_000)
    keeping.create("a")
    done = asyncio.Event()

    class Told(Checkpointer):
        async def run(self) -> None:
            await super().run()
            done.set()

    fatal: list[OSError] = []
    told = Told(keeping.journal, keeping.files, keeping.hot.snapshot, lambda: None)
    maintenance = Maintenance(keeping.journal, told, 0.001, fatal.append, Metrics())
    maintenance.start()
    assert not keeping.journal.checkpoint_due
    number = 0
    while not keeping.journal.checkpoint_due:
        keeping.add_turn("a", turn(number % 10))
        number += 1
    await asyncio.wait_for(done.wait(), 10)
    assert keeping.journal.log_bytes < 20_000
    await maintenance.stop()
    assert not fatal
    keeping.journal.close()
    assert recovered(tmp_path) == keeping.state()


async def test_the_log_stays_bounded_by_what_lives_however_much_is_written(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path, checkpoint_min_bytes=30_000)
    keeping.create("a")
    checkpointer = Checkpointer(keeping.journal, keeping.files, keeping.hot.snapshot, lambda: None)
    most = 0
    for number in range(4000):
        if number % 50 == 0:
            keeping.delete("a")
            keeping.create("a")
        keeping.add_turn("a", turn(number))
        if keeping.journal.checkpoint_due:
            await checkpointer.run()
        most = max(most, keeping.journal.log_bytes)
    assert most < 2 * 30_000 + 4096
    assert keeping.journal.disk_bytes() < 4 * 30_000
    keeping.journal.close()


async def test_maintenance_comes_back_when_the_directory_does(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    keeping = filled(directory)
    shutil.rmtree(directory)
    with pytest.raises(OSError, match="deleted"):
        keeping.add_turn("s1", turn(1))
    done = asyncio.Event()

    class Told(Checkpointer):
        async def run(self) -> None:
            await super().run()
            done.set()

    maintenance = Maintenance(
        keeping.journal,
        Told(keeping.journal, keeping.files, keeping.hot.snapshot, lambda: None),
        0.001,
        pytest.fail,
        Metrics(),
    )
    maintenance.start()
    await asyncio.wait_for(done.wait(), 10)
    await maintenance.stop()
    keeping.add_turn("s1", turn(2))
    keeping.journal.close()
    assert recovered(directory) == keeping.state()


def test_memory_forgets_what_was_replayed_but_for_a_clean_stop(tmp_path: Path) -> None:
    keeping = filled(tmp_path)
    keeping.checkpoint()
    keeping.journal.close()
    again = Keeping(tmp_path)
    again.journal.discard_replayed()
    assert recovered(tmp_path) == {}  # killed now: all is lost, and nothing old comes back
    again.checkpoint()
    again.journal.close()
    assert recovered(tmp_path) == again.state() == keeping.state()


def test_a_power_loss_takes_what_was_not_synced_and_never_the_start(tmp_path: Path) -> None:
    """At every moment from the first start on: what was synced is there, and nothing keeps a start."""
    files = VolatileFiles()
    keeping = Keeping(tmp_path / "journal", files)
    losses = 0

    def lose(expected: dict[str, bytes]) -> None:
        nonlocal losses
        losses += 1
        remains = tmp_path / f"loss{losses}"
        files.lose_power(keeping.journal.directory, remains)
        assert recovered(remains) == expected

    lose({})
    for round_ in range(3):
        for number in range(30):
            if f"s{number}" not in keeping.hot.table.sessions:
                keeping.create(f"s{number}")
            keeping.add_turn(f"s{number}", turn(number))
        keeping.journal.sync()
        lose(keeping.state())
        keeping.checkpoint()
        lose(keeping.state())
        synced = keeping.state()
        keeping.add_turn("s1", turn(round_))
        lose(synced)
    keeping.journal.discard_replayed()
    lose({})
    keeping.journal.close()


def test_a_checkpoint_is_due_when_a_replay_would_take_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callstate_sidecar.journal.log.MAX_RECORDS", 50)
    keeping = Keeping(tmp_path)
    keeping.create("a")
    for number in range(49):
        keeping.add_turn("a", turn(number))
    assert not keeping.journal.checkpoint_due
    keeping.add_turn("a", turn(50))
    assert keeping.journal.checkpoint_due
    keeping.journal.close()
    again = Keeping(tmp_path)
    assert again.journal.checkpoint_due
    again.checkpoint()
    assert not again.journal.checkpoint_due
    again.journal.close()
