"""Whatever is in the daemon's files, whoever reads them gets what is there, or a declared error."""

from __future__ import annotations

import io
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from callstate_client.engine.sessions.head import read_head
from callstate_client.engine.sessions.records import RemovalRecord, decode_record
from callstate_client.engine.sessions.stored_meta import UnreadableMetaError
from callstate_client.engine.table.replay import snapshot
from callstate_client.errors import WireError
from callstate_sidecar.hosts.lease import LeaseNote
from callstate_sidecar.journal import Checkpointer, Files, JournalError
from callstate_sidecar.journal import cli as journal_cli
from callstate_sidecar.journal.format import (
    DATA_START,
    FormatError,
    Kind,
    file_header,
    frame,
    framed,
    read_header,
    read_synced,
    salvage,
)
from callstate_sidecar.journal.live import read_live
from callstate_sidecar.journal.manifest import MANIFEST, read_manifest
from callstate_sidecar.journal.repair import repair
from callstate_sidecar.stores.redis.layout import parse_meta
from callstate_sidecar.system.state_dir import HOST_ID_NAME, StateDir
from support.budget import examples
from support.journals import JournaledTable, turn

mutated = settings(max_examples=examples(24))


@cache
def good() -> dict[str, bytes]:
    """The files of a journal with a snapshot and a log after it."""
    with tempfile.TemporaryDirectory() as name:
        journaled = JournaledTable(Path(name))
        journaled.create("a")
        journaled.add_turn("a", turn(1))
        records = partial(snapshot, journaled.harness.table)
        Checkpointer(journaled.journal, Files(), records, lambda: None).run_now()
        journaled.create("b")
        journaled.add_turn("b", turn(2))
        journaled.delete("a")
        journaled.journal.sync()
        journaled.journal.close()
        return {path.name: path.read_bytes() for path in sorted(Path(name).iterdir())}


@pytest.fixture(scope="module")
def place() -> Iterator[Callable[[dict[str, bytes]], Path]]:
    """Makes a directory of these files, in place of the one before."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name, "journal")

        def make(files: dict[str, bytes]) -> Path:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            for file, data in files.items():
                (directory / file).write_bytes(data)
            return directory

        yield make


def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Some bytes of it changed, removed or added."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, min(len(data) - 1, 2000))))
        bits = draw(st.binary(max_size=4))
        end = at + draw(st.sampled_from([len(bits), len(bits), 0, 1, 40, len(data)]))
        data = data[:at] + bits + data[end:]
    return data


ODD_NAMES = ["log-x.csj", "log-.csj", "snapshot-1.csj", "spare-x.csj", "log-9999999999999.csj", "x.tmp"]


@st.composite
def damaged_files(draw: st.DrawFn) -> dict[str, bytes]:
    files = good().copy()
    name = draw(st.sampled_from([*files]))
    files[name] = damaged(draw, files[name])
    if draw(st.booleans()):
        files.pop(draw(st.sampled_from([*files])))
    odd = st.sampled_from(
        ["log-x.csj", "log-.csj", "snapshot-1.csj", "spare-x.csj", "log-9999999999999.csj", "x.tmp"]
    )
    if draw(st.booleans()):
        files[draw(odd)] = draw(st.binary(max_size=120))
    return files


def read_all(directory: Path) -> None:
    """Every reader of a journal."""
    with suppress(JournalError):
        read_manifest(directory)
    with suppress(JournalError):
        read_live(directory)
    for command in (journal_cli.inspect, journal_cli.verify, journal_cli.export):
        with suppress(JournalError):
            command(directory, io.StringIO())
    with suppress(JournalError, OSError):
        JournaledTable(directory).journal.close()
    with suppress(JournalError, OSError):
        repair(directory, io.StringIO())
        JournaledTable(directory).journal.close()


@given(files=damaged_files())
@mutated
def test_a_damaged_journal_is_read_or_refused(
    place: Callable[[dict[str, bytes]], Path], files: dict[str, bytes]
) -> None:
    read_all(place(files))


def sealed(line: bytes) -> bytes:
    """A manifest whose checksum is right."""
    return b"%b %08x\n" % (line, zlib.crc32(line))


@given(line=st.binary(max_size=80))
@example(line=b"")
@example(line=b"{}")
@example(line=b"[]")
@example(line=b'{"snapshot":null,"log":-1}')
@example(line=b'{"snapshot":-7,"log":1}')
@example(line=b'{"snapshot":1e30,"log":1}')
@example(line=b'{"snapshot":null,"log":99999999999999999999999}')
@example(line=b'{"snapshot":null,"log":1,"host":"\xff"}')
@example(line=b'{"snapshot":null,"log":1,"host":["x"]}')
@example(line=b'{"snapshot":null,"log":1,"format":6}')
@example(line=b'{"snapshot":{},"log":{},"format":6}')
@example(line=b"[" * 3000)
@mutated
def test_a_manifest_of_junk_is_damaged(place: Callable[[dict[str, bytes]], Path], line: bytes) -> None:
    directory = place(good() | {MANIFEST: sealed(line)})
    with suppress(JournalError):
        read_manifest(directory)
    read_all(directory)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A record's body: a good one with bytes changed, or any."""
    found = [found.body for name, data in good().items() if name.endswith(".csj")
             for found in salvage(data, int(name[-16:-4]))]  # fmt: skip
    body = draw(st.sampled_from(found) | st.binary(max_size=60))
    return damaged(draw, body) if draw(st.booleans()) else body


@given(body=bodies())
@example(body=b"\x91" * 5000)
@example(body=b"\xa4\xff\xff\xff\xff")
@mutated
def test_a_record_of_junk_is_refused_by_name(place: Callable[[dict[str, bytes]], Path], body: bytes) -> None:
    with suppress(msgspec.MsgspecError):
        decode_record(body)
    records = framed(1, 1, 0, [body, body])
    log = file_header(Kind.LOG, 1, 1, 0) + records + bytes(64)
    read_all(place({MANIFEST: sealed(b'{"snapshot":null,"log":1}'), "log-000000000001.csj": log}))
    whole = file_header(Kind.SNAPSHOT, 1, 1, 0) + framed(1, 1, 0, [body, b""])
    read_all(place({MANIFEST: sealed(b'{"snapshot":1,"log":1}'), "snapshot-000000000001.csj": whole,
                    "log-000000000001.csj": file_header(Kind.LOG, 1, 1, 0) + bytes(64)}))  # fmt: skip


@given(fields=st.tuples(*[st.integers(0, 2**16 - 1)] * 2, *[st.integers(0, 2**64 - 1)] * 3))
@example(fields=(5, 0, 1, 2**64 - 1, 0))
@example(fields=(5, 77, 1, 1, 0))
@mutated
def test_a_header_of_junk_is_refused(
    place: Callable[[dict[str, bytes]], Path], fields: tuple[int, int, int, int, int]
) -> None:
    head = struct.pack("<4sHHQQQ", b"CSJF", *fields)
    data = (head + zlib.crc32(head).to_bytes(4, "little")).ljust(DATA_START, b"\0")
    with suppress(FormatError):
        read_header(data)
    log = data + frame(fields[2], 2**64 - 1, 2**64 - 1, b"x")
    read_all(place({MANIFEST: sealed(b'{"snapshot":null,"log":1}'), "log-000000000001.csj": log}))


@given(data=st.binary(max_size=200))
@mutated
def test_bytes_of_any_kind_are_no_header(data: bytes) -> None:
    with suppress(FormatError):
        read_header(data)
    assert read_synced(data.ljust(DATA_START, b"\0"), 1) >= 0
    assert not [*salvage(data, 1)]


@given(data=st.binary(max_size=60) | st.text(max_size=20).map(str.encode))
@example(data=b"\0" * 17)
@example(data=b"x " + b"9" * 5000)
@example(data=b"instance -7\n")
@mutated
def test_notes_in_the_state_directory_of_any_kind_are_read(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    directory = tmp_path_factory.mktemp("state")
    (directory / HOST_ID_NAME).write_bytes(data)
    (directory / "lease").write_bytes(data)
    state = StateDir(directory)
    kept = state.host_id("")
    assert kept
    assert kept.isprintable()
    assert state.host_id("") == kept
    state.close()
    noted = LeaseNote(directory / "lease").read()
    assert noted is None or (isinstance(noted[0], str) and isinstance(noted[1], int))


@given(fields=st.dictionaries(
    st.sampled_from([b"version", b"epoch", b"host", b"labels", b"ops", b"op:x", b"op:\xff", b"ended_detail", b"uid",
                     b"heartbeat_timeout_s", b"owner", b"state"]) | st.binary(max_size=8),
    st.binary(max_size=40) | st.integers(-(2**70), 2**70).map(lambda number: b"%d" % number)
    | st.sampled_from([b"1 " + b"[" * 3000, b"[" * 3000, b"9" * 5000 + b" {}", b"1 9"]),
))  # fmt: skip
@mutated
def test_a_meta_hash_of_any_kind_is_read_or_unreadable(fields: dict[bytes, bytes]) -> None:
    with suppress(UnreadableMetaError):
        meta = parse_meta(fields)
        if meta is not None:
            msgspec.json.encode(meta.labels)
            for result in meta.ops.values():
                msgspec.json.decode(result)
            assert len(meta.ops) <= 16


HEAD = (
    b'{"id":"a","created_at":"2026-01-01T00:00:00Z","metrics":{"turn_count":1},"recovery_data":{"x":[1]},'
    b'"history":[]}'
)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    return damaged(draw, HEAD)


@given(data=st.binary(max_size=60) | heads())
@example(data=b"[" * 5000)
@example(data=b'{"id":"a","x":%b' % (b'{"y":' * 3000))
@example(data=b'{"id":"a","x":"\xff"}')
@example(data=b'{"id":"a","metrics":[]}')
@example(data=b"null")
@mutated
def test_a_head_of_any_kind_is_read_or_a_clients_error(data: bytes) -> None:
    with suppress(WireError):
        read_head(data, "$", lambda _: "2026-01-01T00:00:00Z")


def test_the_journal_that_is_damaged_above_has_a_tombstone() -> None:
    log = next(data for name, data in reversed(good().items()) if name.startswith("log-"))
    generation = read_header(log).generation
    assert any(isinstance(decode_record(found.body), RemovalRecord) for found in salvage(log, generation))
