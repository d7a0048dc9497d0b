"""The log as it is written and read back: what survives, what is cut, what is refused."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from callstate_sidecar.journal import JournalDamagedError, JournalError, JournalFormatError
from callstate_sidecar.journal.format import DATA_START, END_OF_LOG, FILE_MAGIC, VERSION, frames, read_header
from callstate_sidecar.journal.layout import log_path, logs
from callstate_sidecar.journal.manifest import MANIFEST
from support.budget import sample
from support.journals import (
    FaultyFiles,
    JournaledTable,
    Killed,
    done_then_eio,
    done_then_killed,
    eio,
    enospc,
    erofs,
    killed,
    recovered,
    turn,
)


def grown(directory: Path, turns: int = 5, **options: object) -> JournaledTable:
    journaled = JournaledTable(directory, **options)
    journaled.create("a")
    journaled.create("b")
    for number in range(turns):
        journaled.add_turn("ab"[number % 2], turn(number))
    return journaled


def test_appended_records_are_read_back(tmp_path: Path) -> None:
    journaled = grown(tmp_path)
    journaled.delete("b")
    journaled.journal.close()
    again = JournaledTable(tmp_path)
    assert again.state() == journaled.state()
    assert list(again.state()) == ["a"]
    assert "b" not in again.harness.table.tombstones.pending  # the store never heard of it
    again.journal.close()


def test_a_journal_goes_on_after_each_start(tmp_path: Path) -> None:
    for start in range(5):
        journaled = JournaledTable(tmp_path)
        assert len(journaled.state()) == start
        journaled.create(f"s{start}")
        journaled.add_turn(f"s{start}", turn(start))
        journaled.journal.close()
    assert len(recovered(tmp_path)) == 5


def test_segments_roll_over_and_a_group_larger_than_one_has_its_own(tmp_path: Path) -> None:
    journaled = grown(tmp_path, turns=100)
    journaled.add_turn("a", turn(1) + b",".join([b"", *[turn(2)] * 200]))
    journaled.add_turn("a", turn(3))
    assert len(logs(tmp_path)) > 3
    journaled.journal.close()
    assert recovered(tmp_path) == journaled.state()


def test_a_tail_cut_at_every_byte_of_the_last_records_loses_only_what_is_cut(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    journaled = JournaledTable(origin)
    journaled.create("a")
    states = [journaled.state()]
    ends = [journaled.journal.segment.end]
    for number in range(3):
        journaled.add_turn("a", turn(number))
        states.append(journaled.state())
        ends.append(journaled.journal.segment.end)
    path = log_path(origin, journaled.journal.segment.generation)
    data = path.read_bytes()
    journaled.journal.close()
    for cut_at in sample(range(ends[0], ends[-1] + 1)):
        copy = tmp_path / "copy"
        shutil.copytree(origin, copy)
        (copy / path.name).write_bytes(data[:cut_at])
        survived = sum(1 for end in ends[1:] if end <= cut_at)
        assert recovered(copy) == states[survived], cut_at
        assert recovered(copy) == states[survived], "a second replay says the same"
        torn = cut_at not in ends
        assert bool(list(copy.glob("*.aside-*"))) is torn, cut_at
        shutil.rmtree(copy)


def test_a_zeroed_tail_is_an_unfinished_one_unless_it_had_been_synced(tmp_path: Path) -> None:
    journaled = grown(tmp_path)
    before = journaled.state()
    start = journaled.journal.segment.end
    journaled.add_turn("a", turn(77))
    path = log_path(tmp_path, journaled.journal.segment.generation)
    whole = path.read_bytes()
    zeroed = whole[:start] + bytes(len(whole) - start)
    path.write_bytes(zeroed)
    assert recovered(tmp_path) == before
    path.write_bytes(whole)
    journaled.journal.sync()
    synced = path.read_bytes()
    path.write_bytes(synced[:start] + bytes(len(whole) - start))
    with pytest.raises(JournalDamagedError, match="were on disk") as caught:
        recovered(tmp_path)
    assert caught.value.path == path
    assert caught.value.offset == start
    assert "callstated journal repair" in str(caught.value)
    journaled.journal.close()


def test_every_flipped_bit_of_a_synced_journal_is_found_or_does_no_harm(tmp_path: Path) -> None:
    """Never a wrong state, never a shorter one passed over silently."""
    journaled = JournaledTable(tmp_path)
    journaled.create("a")
    for number in range(3):
        journaled.add_turn("a", turn(number))
    journaled.journal.sync()
    state, end = journaled.state(), journaled.journal.segment.end
    path = log_path(tmp_path, journaled.journal.segment.generation)
    journaled.journal.close()
    data = path.read_bytes()
    refused = in_records = 0
    for at in sample(range(end + len(END_OF_LOG))):
        for bit in (0, 3, 7):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            in_records += DATA_START <= at < end
            path.write_bytes(flipped)
            try:
                assert recovered(tmp_path) == state, f"byte {at} bit {bit}"
            except (JournalDamagedError, JournalFormatError):
                refused += 1
            for aside in tmp_path.glob("*.aside-*"):
                aside.unlink()
    path.write_bytes(data)
    assert refused >= in_records
    assert recovered(tmp_path) == state


def test_a_flipped_bit_in_a_record_that_was_not_synced_is_an_unfinished_tail(tmp_path: Path) -> None:
    journaled = grown(tmp_path)
    journaled.journal.sync()
    before, start = journaled.state(), journaled.journal.segment.end
    journaled.add_turn("a", turn(9))
    path = log_path(tmp_path, journaled.journal.segment.generation)
    journaled.journal.close()
    data = bytearray(path.read_bytes())
    data[start + 40] ^= 1
    path.write_bytes(data)
    assert recovered(tmp_path) == before
    assert len(list(tmp_path.glob("*.aside-1"))) == 1


def test_a_record_lost_before_one_that_knew_it_synced_is_refused(tmp_path: Path) -> None:
    journaled = grown(tmp_path)
    start = journaled.journal.segment.end
    journaled.add_turn("a", turn(1))
    journaled.journal.sync()
    journaled.add_turn("a", turn(2))  # carries what is synced
    path = log_path(tmp_path, journaled.journal.segment.generation)
    journaled.journal.close()
    data = bytearray(path.read_bytes())
    data[64:96] = bytes(32)  # without the file's own mark
    data[start + 30] ^= 4
    path.write_bytes(data)
    with pytest.raises(JournalDamagedError):
        recovered(tmp_path)


def test_old_records_behind_a_recycled_segment_are_never_read(tmp_path: Path) -> None:
    journaled = grown(tmp_path, turns=60)
    journaled.checkpoint()
    spares = len(list(tmp_path.glob("spare-*.csj")))
    assert spares
    for number in range(30):
        journaled.add_turn("a", turn(1000 + number))
    assert len(list(tmp_path.glob("spare-*.csj"))) < spares
    path = log_path(tmp_path, journaled.journal.segment.generation)
    data = path.read_bytes()
    assert data[:4] == FILE_MAGIC
    header = read_header(data)
    whole = list(frames(data, header.generation))
    assert data[whole[-1].after :].strip(b"\0"), "there is old stuff behind"
    journaled.journal.close()
    assert recovered(tmp_path) == journaled.state()


def test_a_segment_that_kept_its_old_content_in_a_power_loss_never_began(tmp_path: Path) -> None:
    """Renamed to be written again, and what was written to it is lost: nothing of the one before is."""
    journaled = grown(tmp_path, turns=60)
    journaled.checkpoint()
    journaled.journal.sync()
    journaled.add_turn("a", turn(1))
    spare = min(tmp_path.glob("spare-*.csj"))
    stale = spare.read_bytes()
    journaled.journal.roll()
    path = log_path(tmp_path, journaled.journal.segment.generation)
    path.write_bytes(stale)
    journaled.journal.close()
    assert recovered(tmp_path) == journaled.state()
    assert not path.exists(), "it holds nothing but what was before, maybe of sessions deleted since"
    assert not list(tmp_path.glob("*.aside-*"))


def test_a_segment_that_lost_its_header_but_not_its_records_is_set_aside(tmp_path: Path) -> None:
    journaled = grown(tmp_path)
    before = journaled.state()
    journaled.journal.roll()
    journaled.add_turn("a", turn(1))
    path = log_path(tmp_path, journaled.journal.segment.generation)
    data = path.read_bytes()
    path.write_bytes(log_path(tmp_path, 1).read_bytes()[:DATA_START] + data[DATA_START:])
    journaled.journal.close()
    assert recovered(tmp_path) == before
    assert path.with_suffix(".aside-1").exists()


@pytest.mark.parametrize("failure", [killed, done_then_killed], ids=["before", "after"])
def test_a_first_start_killed_at_any_step_keeps_no_other_from_starting(tmp_path: Path, failure: object) -> None:
    counting = FaultyFiles(10**9, failure)  # type: ignore[arg-type]
    JournaledTable(tmp_path / "counted", counting).journal.close()
    assert counting.count > 8
    for step in range(counting.count):
        directory = tmp_path / f"step{step}"
        with pytest.raises(Killed):
            JournaledTable(directory, FaultyFiles(step, failure))  # type: ignore[arg-type]
        journaled = grown(directory)
        journaled.journal.close()
        assert recovered(directory) == journaled.state(), f"step {step}"


def test_a_missing_segment_and_a_missing_manifest_are_refused(tmp_path: Path) -> None:
    journaled = grown(tmp_path, turns=100)
    journaled.journal.close()
    generations = list(logs(tmp_path))
    assert len(generations) > 3
    hidden = log_path(tmp_path, generations[1])
    hidden.rename(tmp_path / "hidden")
    with pytest.raises(JournalDamagedError, match="missing"):
        recovered(tmp_path)
    (tmp_path / "hidden").rename(hidden)
    (tmp_path / MANIFEST).rename(tmp_path / "hidden")
    with pytest.raises(JournalError, match="MANIFEST"):
        recovered(tmp_path)
    (tmp_path / "hidden").rename(tmp_path / MANIFEST)
    (tmp_path / MANIFEST).write_bytes((tmp_path / MANIFEST).read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(JournalDamagedError, match="checksum"):
        recovered(tmp_path)


def test_a_newer_format_is_refused_by_its_version(tmp_path: Path) -> None:
    journaled = grown(tmp_path)
    path = log_path(tmp_path, journaled.journal.segment.generation)
    journaled.journal.close()
    data = bytearray(path.read_bytes())
    import struct
    import zlib

    data[4:6] = struct.pack("<H", VERSION + 1)
    data[32:36] = struct.pack("<I", zlib.crc32(bytes(data[:32])))
    path.write_bytes(data)
    with pytest.raises(JournalFormatError, match=f"format {VERSION + 1}"):
        recovered(tmp_path)


# -- disk trouble ---------------------------------------------------------------------------------------------


def script(journaled: JournaledTable) -> list[str]:
    """A bit of everything; gives what was refused."""
    refused = []
    for number in range(60):
        session = f"s{number % 7}"
        try:
            if session not in journaled.harness.table.sessions:
                journaled.create(session)
            elif number % 11 == 10:
                journaled.delete(session)
            else:
                journaled.add_turn(session, turn(number))
        except OSError:
            refused.append(session)
        if number in (25, 50):
            try:
                journaled.checkpoint()
            except OSError:
                refused.append("checkpoint")
    return refused


@pytest.mark.parametrize(
    "failure", [eio, enospc, erofs, done_then_eio], ids=["eio", "enospc", "read-only", "done-then-eio"]
)
def test_a_call_that_fails_loses_nothing_acknowledged_and_leaves_nothing_refused(
    tmp_path: Path, failure: object
) -> None:
    """Every file call in turn, from the first append on: what was not refused is there, what was is not."""
    quiet = FaultyFiles(10**9, failure)  # type: ignore[arg-type]
    origin = JournaledTable(tmp_path / "counted", quiet)
    started = quiet.count
    assert script(origin) == []
    origin.journal.close()
    for number in sample(range(started, quiet.count)):
        directory = tmp_path / f"n{number}"
        files = FaultyFiles(number, failure)  # type: ignore[arg-type]
        journaled = JournaledTable(directory, files)
        script(journaled)
        assert files.failed
        journaled.add_turn("s0", turn(10_000)) if "s0" in journaled.harness.table.sessions else journaled.create(
            "s0"
        )
        journaled.journal.close()
        assert recovered(directory) == journaled.state(), f"call {number}: {files.failed}"
        shutil.rmtree(directory)


def test_on_a_dead_disk_everything_is_refused_and_what_was_before_is_there(tmp_path: Path) -> None:
    files = FaultyFiles(10**9, eio, forever=True)
    journaled = JournaledTable(tmp_path, files)
    journaled.create("a")
    journaled.add_turn("a", turn(1))
    before = journaled.state()
    files.fail_at = files.count
    for number in range(3):
        with pytest.raises(OSError, match=r"Input/output") as caught:
            journaled.add_turn("a", turn(number))
        assert caught.value.errno == errno.EIO
    assert journaled.state() == before
    assert recovered(tmp_path) == before
    files.fail_at = 10**9
    journaled.add_turn("a", turn(5))
    journaled.journal.close()
    assert recovered(tmp_path) == journaled.state()


def test_a_sync_that_fails_says_so_and_syncs_nothing(tmp_path: Path) -> None:
    files = FaultyFiles(10**9, eio, calls=("sync",))
    journaled = JournaledTable(tmp_path, files)
    journaled.create("a")
    files.fail_at = files.count
    with pytest.raises(OSError, match=r"Input/output"):
        journaled.journal.sync()
    assert journaled.journal.synced == 0
    journaled.journal.close()


def test_a_directory_taken_away_refuses_writes_until_a_checkpoint_has_put_all_down_again(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    journaled = grown(directory)
    shutil.rmtree(directory)
    before = journaled.state()
    with pytest.raises(OSError, match="deleted"):
        journaled.add_turn("a", turn(1))
    assert journaled.state() == before
    journaled.checkpoint()
    journaled.add_turn("a", turn(2))
    journaled.journal.close()
    assert recovered(directory) == journaled.state() != before
