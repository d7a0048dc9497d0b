"""`callstated journal repair`: whatever is whole on disk is saved, and what was deleted stays deleted."""

from __future__ import annotations

import errno
import io
import shutil
from pathlib import Path

import msgspec
import pytest

from callstate_sidecar.journal import JournalError, cli
from callstate_sidecar.journal import repair as repairing
from callstate_sidecar.journal.checkpoint import Checkpointer
from callstate_sidecar.journal.layout import log_path, logs, snapshot_path, snapshots
from callstate_sidecar.journal.manifest import MANIFEST, Manifest, encode_manifest, journal_host, read_manifest
from callstate_sidecar.journal.repair import repair
from callstate_sidecar.system.exits import Exit
from callstate_sidecar.system.files import Files
from support.journals import FaultyFiles, JournaledTable, done_then_eio, recovered, turn


def filled(directory: Path) -> JournaledTable:
    journaled = JournaledTable(directory, host_id="host-1")
    for number in range(10):
        journaled.create(f"s{number}")
        journaled.add_turn(f"s{number}", turn(number))
    return journaled


def repaired(directory: Path) -> str:
    out = io.StringIO()
    assert repair(directory, out) == Exit.OK
    return out.getvalue()


def test_a_whole_snapshot_that_no_manifest_names_is_saved(tmp_path: Path) -> None:
    journaled = filled(tmp_path)
    journaled.checkpoint()
    journaled.journal.close()
    present = read_manifest(tmp_path)
    assert present is not None
    gone = present.log + 1
    (tmp_path / MANIFEST).write_bytes(encode_manifest(Manifest(gone, gone, host="host-1")))
    with pytest.raises(JournalError, match="callstated journal repair"):
        recovered(tmp_path)
    assert "10 sessions" in repaired(tmp_path)
    assert recovered(tmp_path) == journaled.state()
    assert journal_host(tmp_path) == "host-1"


def test_without_a_manifest_the_newest_whole_snapshot_counts_and_the_log_from_there(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    journaled = filled(directory)
    old = tmp_path / "old"
    shutil.copytree(directory, old)
    journaled.delete("s3")
    journaled.checkpoint()
    journaled.add_turn("s1", turn(11))
    journaled.journal.close()
    for path in logs(old).values():
        shutil.copy(path, directory)  # a segment that the checkpoint replaced, which could not be removed
    (directory / MANIFEST).unlink()
    with pytest.raises(JournalError, match=f"callstated journal repair {directory}"):
        recovered(directory)
    # by the command as the message gives it
    assert cli.main(["repair", str(directory)]) == Exit.OK
    assert recovered(directory) == journaled.state()
    assert "s3" not in recovered(directory)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_journal_that_has_lost_its_manifest_is_not_taken_for_a_new_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *, checkpointed: bool
) -> None:
    directory = tmp_path / "journal"
    journaled = filled(directory)
    if checkpointed:
        journaled.checkpoint()
    journaled.journal.close()
    (directory / MANIFEST).unlink()
    exported = tmp_path / "calls.ndjson"
    for words in (["verify"], ["export"], ["export", "-o", str(exported)]):
        assert cli.main([*words, str(directory)]) == Exit.JOURNAL
        printed = capsys.readouterr()
        assert not printed.out
        assert f"callstated journal repair {directory}" in printed.err
    assert not exported.exists()


def test_a_journal_that_no_start_has_finished_is_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    JournaledTable(tmp_path).journal.close()
    (tmp_path / MANIFEST).unlink()
    assert cli.main(["verify", str(tmp_path)]) == Exit.OK
    assert "no journal yet" in capsys.readouterr().out
    assert cli.main(["export", str(tmp_path)]) == Exit.OK
    assert not capsys.readouterr().out


def test_where_the_named_snapshot_is_not_whole_an_older_one_and_the_rest_of_it_are_saved(tmp_path: Path) -> None:
    journaled = filled(tmp_path)
    Checkpointer(journaled.journal, journaled.files, journaled.harness.snapshot, lambda: None).write()
    journaled.create("late")
    journaled.add_turn("s1", turn(12))
    Checkpointer(journaled.journal, journaled.files, journaled.harness.snapshot, lambda: None).write()
    journaled.add_turn("s2", turn(13))
    journaled.journal.close()
    newest = max(snapshots(tmp_path).values())
    data = newest.read_bytes()
    newest.write_bytes(data[: len(data) // 2])
    assert "is incomplete" in repaired(tmp_path)
    assert recovered(tmp_path) == journaled.state()


def test_a_segment_that_never_began_raises_nobody_from_the_dead(tmp_path: Path) -> None:
    journaled = filled(tmp_path)
    stale = logs(tmp_path)[journaled.journal.segment.generation].read_bytes()
    journaled.delete("s3")
    journaled.checkpoint()
    journaled.add_turn("s1", turn(14))
    journaled.journal.roll()
    log_path(tmp_path, journaled.journal.segment.generation).write_bytes(stale)  # its new name, and its old content
    journaled.journal.close()
    (tmp_path / MANIFEST).unlink()
    assert "never written to" in repaired(tmp_path)
    assert recovered(tmp_path) == journaled.state()


def test_a_record_that_makes_no_sense_is_left_out_and_said(tmp_path: Path) -> None:
    journaled = filled(tmp_path)
    from callstate_sidecar.journal.format import END_OF_LOG, frame

    path = log_path(tmp_path, journaled.journal.segment.generation)
    segment = journaled.journal.segment
    strange = frame(segment.generation, journaled.journal.sequence + 1, 0, msgspec.msgpack.encode([99]))
    with path.open("r+b") as file:
        file.seek(journaled.journal.segment.end)
        file.write(strange + END_OF_LOG)
    journaled.journal.close()
    assert "can't be decoded and is skipped" in repaired(tmp_path)
    assert recovered(tmp_path) == journaled.state()


@pytest.mark.parametrize("call", ["allocate", "write", "sync", "rename"])
def test_on_a_full_disk_the_old_files_are_where_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    journaled = filled(tmp_path)
    journaled.journal.close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    class Full(Files):
        pass

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    setattr(Full, call, refuse)
    monkeypatch.setattr(repairing, "Files", Full)
    with pytest.raises(OSError, match="No space left on device"):
        repair(tmp_path, io.StringIO())
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert {name: data for name, data in left.items() if not name.endswith(".tmp")} == before
    assert recovered(tmp_path) == journaled.state()


def test_a_snapshot_whose_manifest_was_never_written_has_what_a_damaged_log_lacks(tmp_path: Path) -> None:
    journaled = filled(tmp_path)
    journaled.journal.sync()
    first = log_path(tmp_path, journaled.journal.segment.generation)
    manifest = (tmp_path / MANIFEST).read_bytes()
    Checkpointer(journaled.journal, journaled.files, journaled.harness.snapshot, lambda: None).write()
    journaled.journal.close()
    (tmp_path / MANIFEST).write_bytes(manifest)  # killed before it was renamed
    data = bytearray(first.read_bytes())
    data[300] ^= 1
    first.write_bytes(data)
    with pytest.raises(JournalError):
        recovered(tmp_path)
    repaired(tmp_path)
    assert recovered(tmp_path) == journaled.state()
    assert snapshot_path(tmp_path, max(snapshots(tmp_path))).exists()


def test_a_group_that_was_refused_is_not_saved(tmp_path: Path) -> None:
    """Although its records were all written, and whoever asked for them was told that they were not."""
    files = FaultyFiles(1 << 30, done_then_eio, ("write",))
    journaled = JournaledTable(tmp_path, files)
    journaled.create("a")
    for name in ("b", "c", "d"):
        journaled.harness.create(name)
    files.fail_at = files.count
    with pytest.raises(OSError, match="Input/output error"):
        journaled.commit()
    journaled.add_turn("a", b"{}")
    journaled.journal.close()
    repaired(tmp_path)
    assert recovered(tmp_path) == journaled.state()
