"""The binary format of the journal, without I/O. docs/durability.md has the same as tables.

Log segments and snapshots have the same format: a header, then records. Integers are little-endian.

    header   0  "CSJF"          8  u64 generation      24 u64 created, microseconds since 1970
             4  u16 version    16  u64 first sequence  32 u32 CRC-32 of bytes 0 to 32
             6  u16 kind       36  28 bytes zero
    synced  64  u64 highest sequence known to be on disk, 72 u32 CRC-32 of generation and it; zero to 96
    record   0  a5 "CSR"        8  u32 CRC-32          20 u64 synced: highest sequence on disk when written
             4  u32 length     12  u64 sequence        28 body: msgpack, see records.py

A record's CRC-32 covers the segment's generation, then length, sequence, synced, and body: files are recycled, and
a record of an earlier use must not pass for a current one. The last record of a log is followed by 28 zero bytes. A
snapshot ends with a record without a body.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

Bytes = bytes | mmap.mmap

VERSION: Final = 6
"""2 added worker records, 3 amendments of turns other than the last; 4 moved the facts beside a document into one
member; 5 added sessions set aside; 6 users, and parts of sessions. Older versions are read."""
FILE_MAGIC: Final = b"CSJF"
RECORD_MAGIC: Final = b"\xa5CSR"
"""Its first byte occurs in UTF-8 text only inside a character: rare in bodies, and quick to search for."""

DATA_START: Final = 96
SYNCED_AT: Final = 64
MAX_BODY_BYTES: Final = 1 << 31
MAX_SEQUENCE: Final = 1 << 62
"""None is ever reached, and the next ones have to fit into 64 bits."""

_FILE = struct.Struct("<4sHHQQQ")
_CRC = struct.Struct("<I")
_SYNCED = struct.Struct("<QI")
_RECORD = struct.Struct("<4sIIQQ")
_SALT = struct.Struct("<QIQQ")
_SYNCED_SALT = struct.Struct("<QQ")
RECORD_HEADER_BYTES: Final = _RECORD.size
END_OF_LOG: Final = bytes(RECORD_HEADER_BYTES)


class Kind(IntEnum):
    """The kind of a file."""

    LOG = 0
    SNAPSHOT = 1


class Header(NamedTuple):
    """A file's header."""

    version: int
    kind: int
    generation: int
    first_sequence: int
    created_us: int


class Frame(NamedTuple):
    """An intact record and its place in the file."""

    at: int
    after: int
    sequence: int
    synced: int
    body: bytes


class FormatError(Exception):
    """The file is not a journal file, or has a newer format; the message says which."""


def file_header(kind: Kind, generation: int, first_sequence: int, created_us: int) -> bytes:
    """The first DATA_START bytes of a file, before anything is known to be synced."""
    head = _FILE.pack(FILE_MAGIC, VERSION, kind, generation, first_sequence, created_us)
    return (head + _CRC.pack(zlib.crc32(head))).ljust(DATA_START, b"\0")


def read_header(data: Bytes) -> Header:
    """The header of a file that begins with `data`.

    Raises:
        FormatError: there is none, it is damaged, or it is newer than this program.
    """
    if len(data) < DATA_START or data[:4] != FILE_MAGIC:
        raise FormatError("it is not a journal file, or its header is damaged")
    _, version, kind, generation, first_sequence, created_us = _FILE.unpack_from(data)
    if _CRC.unpack_from(data, _FILE.size)[0] != zlib.crc32(data[: _FILE.size]):
        raise FormatError("its header is damaged")
    if version > VERSION:
        raise FormatError(f"it has format {version}, and this callstated reads up to {VERSION}")
    if first_sequence > MAX_SEQUENCE:
        raise FormatError(f"its first sequence, {first_sequence}, is out of range")
    return Header(version, kind, generation, first_sequence, created_us)


def synced_mark(generation: int, sequence: int) -> bytes:
    """The bytes to write at SYNCED_AT once everything up to a sequence is on disk."""
    return _SYNCED.pack(sequence, zlib.crc32(_SYNCED_SALT.pack(generation, sequence)))


def read_synced(data: Bytes, generation: int) -> int:
    """The sequence in a file's synced mark; 0 if it has no readable mark of this generation."""
    sequence, crc = _SYNCED.unpack_from(data, SYNCED_AT)
    return int(sequence) if crc == zlib.crc32(_SYNCED_SALT.pack(generation, sequence)) else 0


def frame(generation: int, sequence: int, synced: int, body: bytes) -> bytes:
    """Encode a record."""
    length = len(body)
    crc = zlib.crc32(body, zlib.crc32(_SALT.pack(generation, length, sequence, synced)))
    return _RECORD.pack(RECORD_MAGIC, length, crc, sequence, synced) + body


def framed(generation: int, first_sequence: int, synced: int, bodies: Sequence[bytes]) -> bytes:
    """Encode consecutive records, numbered from the first sequence on."""
    if len(bodies) == 1:  # as at the pace of speech
        return frame(generation, first_sequence, synced, bodies[0])
    crc32, salt, pack = zlib.crc32, _SALT.pack, _RECORD.pack
    parts: list[bytes] = []
    for sequence, body in enumerate(bodies, first_sequence):
        length = len(body)
        crc = crc32(body, crc32(salt(generation, length, sequence, synced)))
        parts += (pack(RECORD_MAGIC, length, crc, sequence, synced), body)
    return b"".join(parts)


def read_frame(data: Bytes, at: int, generation: int) -> Frame | None:
    """The intact record at this offset, or None."""
    start = at + RECORD_HEADER_BYTES
    if start > len(data):
        return None
    magic, length, crc, sequence, synced = _RECORD.unpack_from(data, at)
    after = start + length
    if magic != RECORD_MAGIC or length > MAX_BODY_BYTES or after > len(data):
        return None
    body = data[start:after]
    if crc != zlib.crc32(body, zlib.crc32(_SALT.pack(generation, length, sequence, synced))):
        return None
    return Frame(at, after, sequence, synced, body)


def frames(data: Bytes, generation: int, at: int = DATA_START) -> Iterator[Frame]:
    """The consecutive intact records from an offset on."""
    while (found := read_frame(data, at, generation)) is not None:
        yield found
        at = found.after


def salvage(data: Bytes, generation: int, at: int = DATA_START) -> Iterator[Frame]:
    """Every intact record from an offset on, skipping whatever lies between."""
    while (at := data.find(RECORD_MAGIC, at)) >= 0:
        found = read_frame(data, at, generation)
        if found is None or found.sequence > MAX_SEQUENCE:
            at += 1
        else:
            yield found
            at = found.after
