"""MANIFEST: the file that says which snapshot and which log segments count.

It is replaced atomically, by a rename, and is what makes a checkpoint take effect: before the rename the old
snapshot and the whole log count, after it the new snapshot and the segments from then on.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from callstate_sidecar.journal.errors import JournalDamagedError, JournalFormatError
from callstate_sidecar.journal.format import VERSION
from callstate_sidecar.system.files import Files

MANIFEST: Final = "MANIFEST"


class Manifest(Struct):
    """Which files count.

    Args:
        snapshot: the snapshot's generation; None: there is none yet.
        log: generation of the first log segment after it.
        format: version of the journal's format.
        host: id of the host whose journal it is, by which the store knows these sessions. Older journals lack it.
    """

    snapshot: int | None
    log: int
    format: int = VERSION
    host: str = ""


def encode_manifest(manifest: Manifest) -> bytes:
    """The content of the file."""
    line = msgspec.json.encode(manifest)
    return b"%b %08x\n" % (line, zlib.crc32(line))


def read_manifest(directory: Path) -> Manifest | None:
    """Read the manifest; None if there is none, as in a new journal.

    Raises:
        JournalDamagedError: it can't be read.
        JournalFormatError: it is of a newer format.
    """
    path = directory / MANIFEST
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    line, _, crc = data.rstrip(b"\n").rpartition(b" ")
    if crc != b"%08x" % zlib.crc32(line):
        raise JournalDamagedError(path, 0, "its checksum is wrong")
    manifest = msgspec.json.decode(line, type=Manifest)
    if manifest.format > VERSION:
        raise JournalFormatError(f"{path} has format {manifest.format}, and this callstated reads up to {VERSION}")
    return manifest


def write_manifest(files: Files, directory: Path, manifest: Manifest) -> None:
    """Replace the manifest; it is on disk when this returns.

    Raises:
        OSError: the previous one still counts.
    """
    files.replace(directory / MANIFEST, encode_manifest(manifest))


def journal_host(directory: Path) -> str:
    """The id of the host whose journal this is; empty if there is no journal, or an older one without it.

    Raises:
        JournalError, OSError: the manifest can't be read.
    """
    manifest = read_manifest(directory)
    return "" if manifest is None else manifest.host
