"""MANIFEST: the file that says which snapshot and which log segments count.

It is replaced atomically, by a rename, and is what makes a checkpoint take effect: before the rename the old
snapshot and the whole log count, after it the new snapshot and the segments from then on.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from callstate_sidecar.journal.errors import JournalDamagedError, JournalFormatError
from callstate_sidecar.journal.format import VERSION
from callstate_sidecar.journal.layout import MAX_GENERATION, log_path
from callstate_sidecar.system.files import Files, naming

MANIFEST: Final = "MANIFEST"


Generation = Annotated[int, Meta(ge=0, le=MAX_GENERATION)]


class Manifest(Struct):
    """Which files count.

    Args:
        snapshot: the snapshot's generation; None: there is none yet.
        log: generation of the first log segment after it.
        format: version of the journal's format.
        host: id of the host whose journal it is, by which the store knows these sessions. Older journals lack it.
    """

    snapshot: Generation | None
    log: Generation
    format: int = VERSION
    host: str = ""


class _Format(Struct):
    """The member that says what the others mean."""

    format: int = VERSION


_decode = msgspec.json.Decoder(Manifest).decode
_decode_format = msgspec.json.Decoder(_Format).decode


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
    try:
        version = _decode_format(line).format  # first, as a later format may have members of other types
        if version > VERSION:
            raise JournalFormatError(path, f"has format {version}, and this callstated reads up to {VERSION}")
        return _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise JournalDamagedError(path, 0, f"it is not a manifest: {error}") from error


def journal_host(directory: Path) -> str:
    """The id of the host whose journal this is; empty if there is no journal, or an older one without it.

    Raises:
        JournalError, OSError: the manifest can't be read.
    """
    manifest = read_manifest(directory)
    return "" if manifest is None else manifest.host


class ManifestFile:
    """The manifest of a journal that is open.

    Args:
        files: the file calls.
        directory: of the journal.
        host_id: the host by which the store knows these sessions.
    """

    def __init__(self, files: Files, directory: Path, host_id: str) -> None:
        self._files = files
        self._directory = directory
        self._host_id = host_id
        self._written: Manifest | None = None

    def ensure(self, first: int) -> None:
        """Keep the existing manifest, under the present host; without one, write one that begins with this segment.

        Raises:
            OSError: of the file system.
            JournalError: it can't be read.
        """
        self._written = read_manifest(self._directory)
        if self._written is None:
            self.write(None, first)
        elif self._written.host != self._host_id:
            self.write(self._written.snapshot, self._written.log)

    def write(self, snapshot: int | None, first: int) -> None:
        """Replace the manifest, after syncing the header of the first segment that it names.

        The new one is on disk when this returns.

        Raises:
            OSError: the previous one still counts.
        """
        path = log_path(self._directory, first)
        fd = self._files.open(path)
        try:
            with naming(path):
                self._files.sync(fd)
        finally:
            self._files.close(fd)
        manifest = Manifest(snapshot, first, VERSION, self._host_id)
        self._files.replace(self._directory / MANIFEST, encode_manifest(manifest))
        self._written = manifest

    def snapshots(self) -> set[int | None]:
        """Generations of the snapshots that count, or may: a rename that failed halfway may have taken effect.

        Raises:
            OSError, JournalError: the manifest can't be read.
        """
        manifests = (self._written, read_manifest(self._directory))
        return {manifest.snapshot for manifest in manifests if manifest is not None}
