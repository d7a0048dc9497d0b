"""The journal's files, as a start, an export of a running daemon and a repair read them.

Input: a byte for the kind, then
    0  a record's body each line-length-prefixed (two bytes), framed with the right checksum
    1  a manifest, framed with the right checksum
    2  the whole MANIFEST
    3  a byte for the journal of tests/data that is edited, then the edits, six bytes each: file, offset (two
       bytes), how many bytes, what, how
Damage never raises anything but JournalError; what is read of an edited journal are its records up to some place.
"""

from __future__ import annotations

import io
import shutil
import tempfile
import zlib
from functools import cache, partial
from pathlib import Path
from typing import Final

from callstate_client.engine.sessions.records import Record, decode_record, encode_record
from callstate_client.engine.table.replay import replay, snapshot
from callstate_client.engine.table.session_table import SessionTable
from callstate_sidecar.journal import Journal
from callstate_sidecar.journal import repair as repairing
from callstate_sidecar.journal.errors import JournalError
from callstate_sidecar.journal.format import END_OF_LOG, Kind, file_header, framed
from callstate_sidecar.journal.layout import log_path
from callstate_sidecar.journal.live import read_live
from callstate_sidecar.journal.manifest import MANIFEST, Manifest, encode_manifest
from support.core import durable_state

Files = dict[str, bytes]
SHM: Final = Path("/dev/shm")
JOURNALS: Final = Path(__file__).parents[2] / "data" / "journals"
SEGMENT_BYTES: Final = 4096
"""Repaired journals are searched to their end: the daemon's segments have 64 MiB."""

repairing.Journal = partial(Journal, segment_bytes=SEGMENT_BYTES)  # type: ignore[misc]


def check(data: bytes) -> None:
    """Read one journal."""
    kind, rest = data[:1], data[1:]
    if kind == b"\x00":
        _check_bodies(_bodies(rest))
    elif kind == b"\x01":
        _read_all(_one_log([]) | {MANIFEST: b"%b %08x\n" % (rest, zlib.crc32(rest))})
    elif kind == b"\x02":
        _read_all(_one_log([]) | {MANIFEST: rest})
    elif kind == b"\x03":
        _check_edited(rest)


def _bodies(data: bytes) -> list[bytes]:
    bodies = []
    while len(data) > 2 and len(bodies) < 50:
        length = int.from_bytes(data[:2], "little") % 2048
        bodies.append(data[2 : 2 + length])
        data = data[2 + length :]
    return bodies


def _one_log(bodies: list[bytes]) -> Files:
    """A journal of one segment with these records."""
    text = file_header(Kind.LOG, 1, 1, 0) + framed(1, 1, 0, bodies) + END_OF_LOG
    return {log_path(Path(), 1).name: text, MANIFEST: encode_manifest(Manifest(None, 1))}


def _check_bodies(bodies: list[bytes]) -> None:
    table = _read_all(_one_log(bodies))
    if table is None:
        return
    again = SessionTable()
    for record in snapshot(table):
        replay(again, decode_record(encode_record(record)))
    assert durable_state(again) == durable_state(table), "a checkpoint of it restores something else"


def _check_edited(edits: bytes) -> None:
    sound, records = _sound()[edits[0] % len(_sound())] if edits else _sound()[0]
    files = dict(sound)
    names = sorted(files)
    for at in range(1, len(edits) - 5, 6):
        file, low, high, count, value, how = edits[at : at + 6]
        name = names[file % len(names)]
        files[name] = _edited(files[name], low + 256 * high, count, value, how)
    found: list[bytes] = []
    _read_all(files, found)
    assert found == records[: len(found)], "it is not what was written"


def _edited(text: bytes, at: int, count: int, value: int, how: int) -> bytes:
    at %= len(text) + 1
    before, there, after = text[:at], text[at : at + count], text[at + count :]
    return (
        before + bytes([value]) * len(there) + after,
        before + after,
        before + there * 2 + after,
        before + bytes(byte ^ value for byte in there) + after,
        before,
    )[how % 5]


@cache
def _sound() -> list[tuple[Files, list[bytes]]]:
    """Journals as earlier daemons left them behind, and the records of each."""
    journals = []
    for directory in sorted(JOURNALS.glob("format-*/journal")):
        files = {path.name: path.read_bytes() for path in sorted(directory.iterdir())}
        found: list[bytes] = []
        _read_all(files, found)
        journals.append((files, found))
    return journals


def _read_all(files: Files, found: list[bytes] | None = None) -> SessionTable | None:
    """The table after a start; None if the journal is refused. `found` gets the records."""
    with tempfile.TemporaryDirectory(dir=SHM if SHM.is_dir() else None) as name:
        directory = Path(name, "journal")
        directory.mkdir()
        for file, text in files.items():
            (directory / file).write_bytes(text)
        _read_live(directory)
        shutil.copytree(directory, Path(name, "copy"))
        _repair(Path(name, "copy"))
        return _start(directory, found)


def _start(directory: Path, found: list[bytes] | None) -> SessionTable | None:
    table = SessionTable()
    journal = Journal(directory, checkpoint_min_bytes=1 << 30)

    def apply(record: Record) -> None:
        if found is not None:
            found.append(encode_record(record))
        replay(table, record)

    try:
        journal.replay(apply)
    except JournalError as error:
        _check_cause(error)
        return None
    return table


def _read_live(directory: Path) -> None:
    try:
        read_live(directory)
    except JournalError as error:
        _check_cause(error)


def _repair(directory: Path) -> None:
    """A repair salvages what it can, or says why not; after one, a start succeeds."""
    try:
        repairing.repair(directory, io.StringIO())
    except JournalError as error:
        _check_cause(error)
        return
    assert _start(directory, None) is not None, "a repaired journal is refused"


def _check_cause(error: BaseException) -> None:
    """What is refused for another reason than its content is a fault of the reader."""
    assert not isinstance(error.__cause__, RecursionError | MemoryError | AssertionError), repr(error.__cause__)
