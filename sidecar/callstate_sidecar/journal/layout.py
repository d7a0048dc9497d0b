"""Which files make the journal: names, and the manifest that says which of them count.

MANIFEST               one line of JSON and its CRC: the snapshot, and the first log segment behind it
snapshot-<gen>.csj     everything hot at one time
log-<gen>.csj          what changed since; the segments follow one another without a gap
spare-<gen>.csj        a segment no longer needed, kept to be written again
*.tmp                  a file not finished
*.aside-<n>            an unfinished tail, cut off at a start and kept for whoever wants to look
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from callstate_sidecar.journal.format import VERSION
from callstate_sidecar.system.files import Files

MANIFEST: Final = "MANIFEST"
REPAIR: Final = "callstated journal repair"


class JournalError(Exception):
    """The journal can't be used as it is; the text says where, why, and what to do."""


class JournalFormatError(JournalError):
    """Written by a newer callstated."""


class JournalDamagedError(JournalError):
    """Something that was safely on disk can't be read any more.

    Args:
        path: the damaged file.
        offset: where in it the damage begins, bytes.
        what: what is wrong, in words.
    """

    def __init__(self, path: Path, offset: int, what: str) -> None:
        self.path = path
        self.offset = offset
        self.what = what
        super().__init__(
            f"{path} is damaged at byte {offset}: {what}. What it holds had been written safely. "
            f"Take a copy of {path.parent}, then run: {REPAIR} {path.parent}"
        )


class Manifest(Struct):
    """Which files count: the snapshot's generation, or None, and the first log segment's."""

    snapshot: int | None
    log: int
    format: int = VERSION
    host: str = ""
    """Whose journal it is: under this id the store knows what is in it. Older ones don't say."""


def log_path(directory: Path, generation: int) -> Path:
    """Where a log segment lies."""
    return directory / f"log-{generation:012d}.csj"


def snapshot_path(directory: Path, generation: int) -> Path:
    """Where a snapshot lies."""
    return directory / f"snapshot-{generation:012d}.csj"


def generation_of(path: Path) -> int:
    """The generation in a file's name."""
    return int(path.stem.rpartition("-")[2])


def logs(directory: Path) -> dict[int, Path]:
    """The log segments that are there, by generation, in order."""
    return {generation_of(path): path for path in sorted(directory.glob("log-*.csj"))}


def snapshots(directory: Path) -> dict[int, Path]:
    """The snapshots that are there, by generation, in order."""
    return {generation_of(path): path for path in sorted(directory.glob("snapshot-*.csj"))}


def encode_manifest(manifest: Manifest) -> bytes:
    """As it lies in the file."""
    line = msgspec.json.encode(manifest)
    return b"%b %08x\n" % (line, zlib.crc32(line))


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest; None where there is none: a journal that has not begun.

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


def journal_host(directory: Path) -> str:
    """The id of the host whose journal this is; empty where there is none, or an older one that does not say.

    Raises:
        JournalError, OSError: the manifest can't be read.
    """
    manifest = read_manifest(directory)
    return "" if manifest is None else manifest.host


def write_manifest(files: Files, directory: Path, manifest: Manifest) -> None:
    """Put a manifest in place of the present one, on disk before this returns.

    Raises:
        OSError: the present one still counts.
    """
    files.replace(directory / MANIFEST, encode_manifest(manifest))
